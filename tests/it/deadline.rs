//! One budget for a call and its body, which travels with it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::deadline::DeadlineBody;
use tower_buttress::error::{self, DeadlineExceeded};
use tower_buttress::{
    Deadline, DeadlineHeader, DeadlineLayer, DedupLayer, FallbackLayer, Jitter, Rejection, RejectionKind,
    RetryAfterBackoffLayer, TimeoutProfile,
};

use crate::support::Step::{Data, Fail, Hang, Wait};
use crate::support::upstream::{Answer, Upstream, request};
use crate::support::{Log, Script, Step, secs, trace};

const MS: DeadlineHeader = DeadlineHeader::millis(HeaderName::from_static("x-deadline-ms"));

/// What the service inside was given: its headers, and the time it had left.
type Given = Option<(HeaderMap, Option<Duration>)>;

async fn given<B>(layer: &DeadlineLayer, request: Request<B>) -> (Given, u16) {
    let given = Arc::new(Mutex::new(None));
    let seen = given.clone();
    let service = layer.layer(service_fn(move |request: Request<B>| {
        let left = request.extensions().get().map(|deadline: &Deadline| deadline.remaining());
        *seen.lock().unwrap() = Some((request.headers().clone(), left));
        async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
    }));
    let status = service.oneshot(request).await.unwrap().status().as_u16();
    let given = given.lock().unwrap().take();
    (given, status)
}

async fn left(layer: &DeadlineLayer, request: http::request::Builder) -> Option<Duration> {
    given(layer, request.body(()).unwrap()).await.0.unwrap().1
}

async fn body(layer: &DeadlineLayer, script: Script) -> Response<DeadlineBody<Script>> {
    let mut answer = Some(Response::new(script));
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let response = answer.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    }));
    service.oneshot(Request::new(())).await.unwrap()
}

async fn check(steps: impl IntoIterator<Item = Step>, expected: &[&str]) {
    let response = body(&DeadlineLayer::new(secs(10)), Script::new(steps)).await;
    assert_eq!(trace(response.into_body()).await, expected);
}

const EXCEEDED: &str = "error: the call did not finish within its budget of 10s";

#[tokio::test(start_paused = true)]
async fn a_call_without_a_head_in_time_is_refused_and_dropped() {
    let start = Instant::now();
    let log = Arc::new(Log::default());
    let work = Script::new([]);
    let dropped = work.dropped();
    let mut work = Some(work);
    let mut service = DeadlineLayer::new(secs(10)).observer(log.clone()).layer(service_fn(move |_: Request<()>| {
        let work = work.take();
        async move {
            let _work = work;
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    }));
    let mut answer = std::pin::pin!(service.call(Request::new(())));
    let response = answer.as_mut().await.unwrap();
    assert!(dropped());
    assert_eq!((start.elapsed(), response.status().as_u16()), (secs(10), 504));
    assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::DeadlineExceeded);
    assert_eq!(log.names(), ["refused: deadline-exceeded"]);
}

#[tokio::test(start_paused = true)]
async fn the_body_is_under_the_same_deadline() {
    check([Data("a"), Wait(secs(9)), Data("b")], &["+0s a", "+9s b", "+9s end"]).await;
    let late = [Data("a"), Wait(secs(6)), Data("b"), Wait(secs(6)), Data("c")];
    check(late, &["+0s a", "+6s b", &format!("+10s {EXCEEDED}"), "+10s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_inner_body_is_dropped_the_moment_the_deadline_passes() {
    let script = Script::new([Hang]);
    let dropped = script.dropped();
    let mut body = body(&DeadlineLayer::new(secs(10)), script).await.into_body();
    let failed = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error::find::<DeadlineExceeded>(&failed).unwrap().budget, secs(10));
    assert!(dropped());
}

#[tokio::test(start_paused = true)]
async fn a_fast_upstream_with_a_slow_reader_ends_too() {
    let mut body =
        body(&DeadlineLayer::new(secs(10)), Script::new(std::iter::repeat_n(Data("a"), 100))).await.into_body();
    let mut frames = 0;
    let failed = loop {
        match body.frame().await.unwrap() {
            Ok(_) => frames += 1,
            Err(err) => break err,
        }
        tokio::time::sleep(secs(3)).await;
    };
    assert!(error::find::<DeadlineExceeded>(&failed).is_some());
    // The one after 12 s finds the deadline late, as it would after a suspension, and is let through.
    assert_eq!(frames, 5);
}

/// A deadline of 10 s, of which the process sleeps through the end; what it was waiting for comes `after` it goes on.
async fn suspended(after: Duration) -> (u16, Duration) {
    let service = DeadlineLayer::new(secs(10)).layer(service_fn(move |_: Request<()>| async move {
        tokio::time::sleep(secs(20) + after).await;
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    let mut call = std::pin::pin!(service.oneshot(Request::new(())));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    tokio::time::advance(secs(20)).await;
    let went_on = Instant::now();
    (call.await.unwrap().status().as_u16(), went_on.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_suspended_process_does_not_lose_what_came_meanwhile() {
    let ms = Duration::from_millis;
    assert_eq!(suspended(ms(400)).await, (200, ms(400)));
    assert_eq!(suspended(ms(600)).await, (504, ms(500)));
}

#[tokio::test(start_paused = true)]
async fn a_body_has_one_moment_more_after_a_suspension() {
    let late = [Data("a"), Wait(secs(20)), Data("b"), Wait(Duration::from_millis(499)), Data("c"), Hang];
    let mut body = body(&DeadlineLayer::new(secs(10)), Script::new(late)).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(futures_util::poll!(std::pin::pin!(body.frame())).is_pending());
    tokio::time::advance(secs(20)).await;
    let expected = ["+0s b", "+0.499s c", &format!("+0.5s {EXCEEDED}"), "+0.5s end"];
    assert_eq!(trace(body).await, expected);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_body_is_handed_on_even_when_late() {
    for (last, expected) in [(Step::Trailers, "trailers"), (Fail("cut"), "error: cut")] {
        let mut body = body(&DeadlineLayer::new(secs(10)), Script::new([Data("a"), last])).await.into_body();
        body.frame().await.unwrap().unwrap();
        tokio::time::sleep(secs(60)).await;
        assert_eq!(trace(body).await[0], format!("+0s {expected}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waited_for_its_head_has_the_rest_for_its_body() {
    let mut script = Some(Script::new([Wait(secs(5)), Data("a"), Hang]));
    let service = DeadlineLayer::new(secs(10)).layer(service_fn(move |_: Request<()>| {
        let body = script.take().unwrap();
        async move {
            tokio::time::sleep(secs(4)).await;
            Ok::<_, Infallible>(Response::new(body))
        }
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    assert_eq!(trace(response.into_body()).await, ["+5s a", &format!("+6s {EXCEEDED}"), "+6s end"]);
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_all_sources_wins() {
    let layer = DeadlineLayer::new(secs(60)).accept(DeadlineHeader::grpc()).accept(MS);
    assert_eq!(left(&layer, Request::builder()).await, Some(secs(60)));
    assert_eq!(left(&layer, Request::builder().header("grpc-timeout", "5S")).await, Some(secs(5)));
    let both = Request::builder().header("grpc-timeout", "5S").header("x-deadline-ms", "3000");
    assert_eq!(left(&layer, both).await, Some(secs(3)));
    // A caller may shorten, never extend.
    assert_eq!(left(&layer, Request::builder().header("grpc-timeout", "2H")).await, Some(secs(60)));
    let given = Request::builder().extension(Deadline::after(secs(7)).unwrap());
    assert_eq!(left(&layer, given).await, Some(secs(7)));
    let profile = Request::builder().extension(TimeoutProfile::FAST.with_total(secs(90)));
    assert_eq!(left(&layer, profile).await, Some(secs(90)));
    let current = Deadline::after(secs(8)).unwrap();
    assert_eq!(current.scope(left(&layer, Request::builder())).await, Some(secs(8)));
}

#[tokio::test(start_paused = true)]
async fn headers_are_believed_only_where_asked_for() {
    let layer = DeadlineLayer::new(secs(60));
    assert_eq!(left(&layer, Request::builder().header("grpc-timeout", "5S")).await, Some(secs(60)));
}

#[tokio::test(start_paused = true)]
async fn absurd_and_malformed_headers_are_ignored_with_an_event() {
    for value in ["+5", "-1", "1e3", "99999999999999999999", "", "NaN", "\u{e9}"] {
        let log = Arc::new(Log::default());
        let layer = DeadlineLayer::new(secs(60)).accept(MS).observer(log.clone());
        let request =
            Request::builder().header("x-deadline-ms", http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        assert_eq!(left(&layer, request).await, Some(secs(60)), "{value:?}");
        assert_eq!(log.names(), ["bypassed: deadline"], "{value:?}");
    }
    // What is merely long is taken for what it says.
    let layer = DeadlineLayer::new(Duration::MAX).accept(DeadlineHeader::grpc());
    let request = Request::builder().header("grpc-timeout", "99999999H");
    assert_eq!(left(&layer, request).await, Some(secs(99_999_999 * 3600)));
}

#[tokio::test(start_paused = true)]
async fn an_expired_call_is_refused_without_calling_inner() {
    let layer = DeadlineLayer::new(secs(60)).accept(MS);
    let request = Request::builder().header("x-deadline-ms", "0").body(()).unwrap();
    assert_eq!(given(&layer, request).await, (None, 504));
    let passed = Deadline::at(Instant::now());
    let request = Request::builder().extension(passed).header(CONTENT_TYPE, "application/grpc").body(()).unwrap();
    assert_eq!(given(&layer, request).await, (None, 200));
    // Envoy's 0 is no limit.
    let layer = DeadlineLayer::new(secs(60)).accept(DeadlineHeader::envoy());
    assert_eq!(left(&layer, Request::builder().header("x-envoy-expected-rq-timeout-ms", "0")).await, Some(secs(60)));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_travels_less_the_reserve_and_rounded_down() {
    let layer = DeadlineLayer::new(Duration::from_micros(1_500_900)).reserve(Duration::from_millis(50));
    let layer = layer.propagate(MS).propagate(DeadlineHeader::grpc());
    let stale = Request::builder().header("x-deadline-ms", "99999").header("x-deadline-ms", "5").body(()).unwrap();
    let (headers, left) = given(&layer, stale).await.0.unwrap();
    assert_eq!(headers.get_all("x-deadline-ms").iter().collect::<Vec<_>>(), ["1450"]);
    assert_eq!(headers["grpc-timeout"], "1450900u");
    assert_eq!(left, Some(Duration::from_micros(1_500_900)));
}

#[tokio::test(start_paused = true)]
async fn zero_is_never_sent() {
    let seconds = DeadlineHeader::seconds(HeaderName::from_static("x-s"));
    let layer = DeadlineLayer::new(Duration::from_millis(999)).propagate(seconds);
    assert_eq!(given(&layer, Request::new(())).await, (None, 504));
    let layer = DeadlineLayer::new(secs(1)).reserve(secs(1)).propagate(MS);
    assert_eq!(given(&layer, Request::new(())).await, (None, 504));
}

#[tokio::test(start_paused = true)]
async fn below_the_minimum_nothing_is_begun() {
    let layer = DeadlineLayer::new(secs(10)).reserve(secs(1)).minimum(secs(9));
    assert_eq!(given(&layer, Request::new(())).await.1, 200);
    let layer = DeadlineLayer::new(secs(10)).reserve(secs(1)).minimum(Duration::from_millis(9001));
    assert_eq!(given(&layer, Request::new(())).await, (None, 504));
}

#[tokio::test(start_paused = true)]
async fn without_any_deadline_nothing_is_written() {
    let layer = DeadlineLayer::new(Duration::MAX).propagate(MS);
    let (headers, left) = given(&layer, Request::new(())).await.0.unwrap();
    assert!(headers.is_empty());
    assert_eq!(left, None);
    let off = DeadlineLayer::disabled().accept(MS).propagate(MS);
    let request = Request::builder().header("x-deadline-ms", "0").body(()).unwrap();
    assert_eq!(given(&off, request).await.0.unwrap().1, None);
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_inherits_what_is_left() {
    let client = ServiceBuilder::new().layer(DeadlineLayer::new(secs(60)).propagate(MS)).service(service_fn(
        |request: Request<()>| async move {
            let left = request.headers()["x-deadline-ms"].to_str().unwrap().to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(left))))
        },
    ));
    let handler = service_fn(move |_: Request<()>| {
        let client = client.clone();
        async move {
            tokio::time::sleep(secs(4)).await;
            let call = || client.clone().oneshot(Request::new(()));
            let (a, b) = tokio::join!(call(), call());
            let a = a.unwrap().into_body().collect().await.unwrap().to_bytes();
            let b = b.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(a, b);
            Ok::<_, Infallible>(Response::new(Full::new(a)))
        }
    });
    let server = DeadlineLayer::new(secs(10)).layer(handler);
    let answer = server.oneshot(Request::new(())).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "6000");
    assert_eq!(Deadline::current(), None);
}

#[tokio::test(start_paused = true)]
async fn the_current_deadline_is_there_in_the_body_and_gone_after() {
    let service = DeadlineLayer::new(secs(10)).layer(service_fn(|_: Request<()>| async {
        let frames = futures_util::stream::once(async {
            let left = Deadline::current().unwrap().remaining().as_secs();
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(left.to_string())))
        });
        Ok::<_, Infallible>(Response::new(http_body_util::StreamBody::new(Box::pin(frames))))
    }));
    let body = service.oneshot(Request::new(())).await.unwrap().into_body();
    tokio::time::sleep(secs(3)).await;
    assert_eq!(body.collect().await.unwrap().to_bytes(), "7");
    assert_eq!(Deadline::current(), None);
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_leaves_no_deadline_behind() {
    let deadline = Deadline::after(secs(1)).unwrap();
    let scope = std::panic::AssertUnwindSafe(deadline.scope(async { panic!("inside") }));
    assert!(futures_util::FutureExt::catch_unwind(scope).await.is_err());
    assert_eq!(Deadline::current(), None);
}

#[tokio::test(start_paused = true)]
async fn a_later_attempt_gets_the_time_left_by_then() {
    let told = |upstream: &Upstream| {
        let seen = upstream.seen().into_iter().map(|seen| seen.headers["x-deadline-ms"].to_str().unwrap().to_owned());
        seen.collect::<Vec<_>>()
    };
    let primary = Upstream::new([Answer::status(503).after(secs(1)), Answer::status(503).after(secs(1))]);
    let backup = Upstream::new([Answer::status(200)]);
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(10)).propagate(MS).reserve(Duration::from_millis(500)))
        .layer(FallbackLayer::new(backup.clone()))
        .layer(steady().attempts(2))
        .service(primary.clone());
    assert_eq!(service.oneshot(request("GET", [])).await.unwrap().status(), 200);
    assert_eq!(told(&primary), ["9500", "7500"]);
    assert_eq!(told(&backup), ["6500"]);
}

#[tokio::test(start_paused = true)]
async fn no_retry_where_the_header_cannot_carry_the_time_left() {
    let seconds = DeadlineHeader::seconds(HeaderName::from_static("x-deadline"));
    for (total, reserve, asked) in [(3, 0, 2), (2, 0, 1), (3, 1, 1), (4, 1, 2)] {
        let upstream = Upstream::new([Answer::status(503), Answer::status(200)]);
        let backup = Upstream::new([Answer::status(503)]);
        let service = ServiceBuilder::new()
            .layer(DeadlineLayer::new(secs(total)).propagate(seconds.clone()).reserve(secs(reserve)))
            .layer(FallbackLayer::new(backup))
            .layer(steady())
            .service(upstream.clone());
        service.oneshot(request("GET", [])).await.unwrap();
        assert_eq!(upstream.seen().len(), asked, "{total} s, of which {reserve} s are kept");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_said_to_this_layer_goes_no_further() {
    let said = || Request::builder().header("x-deadline-ms", "5000").header("grpc-timeout", "7S").body(()).unwrap();
    let layer = DeadlineLayer::new(secs(60)).accept(MS);
    let (headers, left) = given(&layer, said()).await.0.unwrap();
    assert_eq!((headers.get("x-deadline-ms"), left), (None, Some(secs(5))));
    assert_eq!(headers["grpc-timeout"], "7S", "it was not accepted: it is not this layer's");

    let (headers, _) = given(&layer.propagate(DeadlineHeader::grpc()), said()).await.0.unwrap();
    assert_eq!((headers.get("x-deadline-ms"), &headers["grpc-timeout"]), (None, &"5000000u".parse().unwrap()));

    // Envoy's "no limit" is not said to the upstream either.
    let layer = DeadlineLayer::new(Duration::MAX).accept(DeadlineHeader::envoy());
    let request = Request::builder().header("x-envoy-expected-rq-timeout-ms", "0").body(()).unwrap();
    assert!(given(&layer, request).await.0.unwrap().0.is_empty());
}

/// Two callers of one shared call, with so much time each; a deadline layer with `inner` is part of the call, which takes `takes`.
async fn shared([first, second]: [u64; 2], inner: Duration, takes: u64) -> [(u16, u64); 2] {
    let start = Instant::now();
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(90)).accept(MS))
        .layer(DedupLayer::new())
        .layer(DeadlineLayer::new(inner))
        .service(Upstream::new([Answer::status(200).after(secs(takes))]));
    let ask = |seconds: u64| {
        let mut request = request("POST", []);
        request.headers_mut().insert("authorization", "Bearer a".parse().unwrap());
        request.headers_mut().insert("x-deadline-ms", (seconds * 1000).into());
        let answer = service.clone().oneshot(request);
        async move { (answer.await.unwrap().status().as_u16(), start.elapsed().as_secs()) }
    };
    tokio::join!(ask(first), ask(second)).into()
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_time_of_its_own_does_not_end_a_shared_call_early() {
    assert_eq!(shared([10, 60], Duration::MAX, 30).await, [(504, 10), (200, 30)]);
    // With time of its own it does, at its own.
    assert_eq!(shared([10, 60], secs(40), 30).await, [(504, 10), (200, 30)]);
    assert_eq!(shared([10, 60], secs(20), 30).await, [(504, 10), (504, 20)]);
    // And where all callers have left, nothing is waited for.
    assert_eq!(shared([10, 12], secs(40), 30).await, [(504, 10), (504, 12)]);
}

#[tokio::test(start_paused = true)]
async fn a_shared_call_has_no_longer_than_the_layer_around_it_gives() {
    let start = Instant::now();
    let service = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(90)))
        .layer(DedupLayer::new())
        .layer(DeadlineLayer::new(secs(5)))
        .layer(steady())
        .service(Upstream::new([Answer::status(429).header("retry-after", "7")]));
    let mut request = request("POST", []);
    request.headers_mut().insert("authorization", "Bearer a".parse().unwrap());
    // No attempt could come in time: the answer is there at once.
    let response = service.oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), start.elapsed()), (429, Duration::ZERO));
}

fn steady() -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::new().backoff_base(secs(1)).jitter(Jitter::None)
}
