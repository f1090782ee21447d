//! What counts as what.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use tokio::time::advance;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::verdict::{Classify, Grpc, Health, NextStep, Outcome, Standard, Verdict};
use tower_buttress::{
    CallBody, CallInfo, CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitReason, CircuitState,
    CircuitWindow, DeadlineLayer, Event, FirstByteTimeoutLayer, IdleBodyTimeoutLayer, Observer, Rejection, SlowCallBy,
    Tenant, TimeoutProfile,
};

use super::{Rig, as_is, stream};
use crate::support::upstream::{Answer, Upstream, request};
use crate::support::{Log, Script, Step, secs};

#[tokio::test(start_paused = true)]
async fn five_failures_open_and_the_sixth_call_is_refused() {
    let rig = Rig::opened(as_is, vec![]);
    assert_eq!(rig.calls(7).await, ["503 said", "503 said", "503 said", "503 said", "503 said", "refused", "refused"]);
    assert_eq!(rig.upstream.seen().len(), 5);
    assert_eq!(rig.circuit().snapshot().refused, 2);
    assert_eq!(
        rig.log.names(),
        ["circuit_changed: open", "refused: circuit-open", "refused: circuit-open"],
        "one event per change"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_the_next_try_is() {
    let rig = Rig::opened(as_is, vec![]);
    rig.open().await;
    advance(Duration::from_millis(1_500)).await;
    let refused = rig.head().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "4", "three and a half, and never too early");
    assert_eq!(Rejection::of(&refused).unwrap().retry_after(), Some(Duration::from_millis(3_500)));
    assert_eq!(refused.headers()["content-type"], "application/problem+json");

    let mut grpc = request("POST", []);
    grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc+proto"));
    let refused = rig.service.clone().oneshot(grpc).await.unwrap();
    assert_eq!(refused.status(), 200);
    assert_eq!(refused.headers()["grpc-status"], "14");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "3500");
}

#[tokio::test(start_paused = true)]
async fn an_error_counts_and_is_passed_on() {
    let rig = Rig::new(as_is, Upstream::new((0..5).map(|_| Answer::fails(ErrorKind::ConnectionReset))));
    assert_eq!(rig.calls(6).await, ["connection reset"; 5].into_iter().chain(["refused"]).collect::<Vec<_>>());
}

/// Each stream has been evidence of life: more of them are needed than of failures at once.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_200_and_drops_its_streams_is_down() {
    let cut = || stream([Step::Data("some"), Step::Wait(secs(1)), Step::Fail("cut")]);
    let rig = Rig::new(as_is, Upstream::new((0..15).map(|_| cut())));
    assert_eq!(rig.calls(16).await, ["200 cut"; 15].into_iter().chain(["refused"]).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_stalls_after_its_first_data_is_down() {
    let cut = || stream([Step::Data("some"), Step::Wait(secs(30)), Step::Fail("cut")]);
    let rig = Rig::new(as_is, Upstream::new((0..5).map(|_| cut())));
    assert_eq!(rig.calls(6).await, ["200 cut"; 5].into_iter().chain(["refused"]).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_failed_status_counts_though_its_body_is_not_read() {
    let rig = Rig::opened(as_is, vec![]);
    for _ in 0..5 {
        drop(rig.head().await);
    }
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_succeeded_at_its_first_data_and_failed_after_all_when_its_body_does() {
    let steps = [Step::Data(""), Step::Data("a"), Step::Wait(secs(1)), Step::Fail("cut")];
    let rig = Rig::new(as_is, Upstream::new([stream(steps)]));
    let seen = || {
        let stats = rig.circuit().snapshot().stats;
        (stats.calls, stats.failures)
    };
    let mut body = rig.head().await.unwrap().into_body();
    assert_eq!(seen(), (0, 0), "the head of a stream says nothing");
    body.frame().await.unwrap().unwrap();
    assert_eq!(seen(), (0, 0), "nor does a frame without data");
    body.frame().await.unwrap().unwrap();
    assert_eq!(seen(), (1, 0));
    body.frame().await.unwrap().unwrap_err();
    assert_eq!(seen(), (1, 1));
    drop(body);
    assert_eq!(seen(), (1, 1));
}

/// Readers of event streams leave at `[DONE]`.
#[tokio::test(start_paused = true)]
async fn five_failures_among_hundreds_of_streams_that_were_read_to_done_open_nothing() {
    let answers = (1..=500).map(|call| match call % 100 {
        0 => Answer::status(500),
        _ => stream([Step::Data("data: hi\n\n"), Step::Data("data: [DONE]\n\n"), Step::Hang]),
    });
    let rig = Rig::new(as_is, Upstream::new(answers));
    for _ in 0..500 {
        let response = rig.head().await.unwrap();
        if response.status() == 200 {
            let mut body = response.into_body();
            for _ in 0..2 {
                body.frame().await.unwrap().unwrap();
            }
        }
        advance(Duration::from_millis(20)).await;
    }
    let snapshot = rig.circuit().snapshot();
    assert_eq!((snapshot.state, snapshot.stats.calls, snapshot.stats.failures), (CircuitState::Closed, 500, 5));
}

/// What flows from before is evidence of life, once a second.
#[tokio::test(start_paused = true)]
async fn failures_beside_a_stream_that_flows_do_not_open() {
    let flows = (0..20).flat_map(|_| [Step::Data("tick"), Step::Wait(secs(1))]);
    let failures = (0..11).map(|_| Answer::status(500));
    let rig = Rig::new(as_is, Upstream::new([stream(flows)].into_iter().chain(failures)));
    let body = rig.head().await.unwrap().into_body();
    let reads = tokio::spawn(body.collect());
    tokio::time::sleep(Duration::from_millis(8_500)).await;
    rig.calls(8).await;
    tokio::time::sleep(secs(4)).await;
    rig.calls(1).await;
    assert_eq!(rig.state(), CircuitState::Closed, "not more than two seconds were silent");
    // When it has ended, five seconds of silence are enough.
    reads.await.unwrap().unwrap();
    rig.calls(1).await;
    assert_eq!(rig.state(), CircuitState::Closed);
    advance(secs(5)).await;
    rig.calls(1).await;
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_counts_at_the_head() {
    let rig = Rig::new(as_is, Upstream::new([Answer::status(204).body(Script::new([]))]));
    let _response = rig.head().await.unwrap();
    assert_eq!(rig.circuit().snapshot().stats.calls, 1);
}

/// Servers do not read what they must not send.
#[tokio::test(start_paused = true)]
async fn what_has_no_body_on_the_wire_counts_at_the_head() {
    let unread = |status| Answer::status(status).body(Script::new([Step::Hang]).unsized_());
    let asked = [("GET", 101), ("GET", 204), ("GET", 205), ("GET", 304), ("HEAD", 200), ("CONNECT", 200)];
    let rig = Rig::new(as_is, Upstream::new(asked.map(|(_, status)| unread(status))));
    for (nth, (method, _)) in (1..).zip(asked) {
        rig.service.clone().oneshot(request(method, [])).await.unwrap();
        assert_eq!(rig.circuit().snapshot().stats.calls, nth);
    }

    let rig = Rig::new(as_is, Upstream::new([unread(200)]));
    rig.circuit().open_for(Duration::ZERO);
    rig.service.clone().oneshot(request("HEAD", [])).await.unwrap();
    assert_eq!(rig.state(), CircuitState::Closed, "a probe too");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_soon_says_nothing_and_after_the_first_data_takes_nothing_back() {
    let hang = || Answer::status(200).body(Script::new([Step::Data("some"), Step::Hang]).unsized_());
    let answers = (0..20).map(|_| Answer::never()).chain((0..20).map(|_| hang()));
    let rig = Rig::new(as_is, Upstream::new(answers));
    for _ in 0..20 {
        let call = rig.begin().await;
        assert!(tokio::time::timeout(secs(44), call).await.is_err());
    }
    for _ in 0..10 {
        drop(rig.head().await.unwrap());
    }
    assert_eq!(rig.circuit().snapshot().stats.calls, 0);
    for _ in 0..10 {
        let mut body = rig.head().await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        advance(secs(60)).await;
    }
    let snapshot = rig.circuit().snapshot();
    assert_eq!((snapshot.state, snapshot.stats.failures), (CircuitState::Closed, 0));
}

/// The limit of the first byte is known from the settings or from the request; half of it is patience enough.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_after_a_long_wait_has_failed() {
    let hung = || Upstream::new((0..8).map(|_| Answer::never()));
    let failures = |rig: &Rig| rig.circuit().snapshot().stats.failures;
    let give_up = async |rig: &Rig, after, first_byte: Option<u64>| {
        let mut request = request("GET", []);
        if let Some(first_byte) = first_byte {
            request.extensions_mut().insert(TimeoutProfile::STANDARD.with_first_byte(secs(first_byte)));
        }
        let call = rig.service.clone().oneshot(request);
        assert!(tokio::time::timeout(after, call).await.is_err());
    };
    let rig = Rig::new(|layer| layer.configure(|config| config.first_byte(secs(20))), hung());
    give_up(&rig, secs(10) - Duration::from_millis(1), None).await;
    assert_eq!(failures(&rig), 0);
    give_up(&rig, secs(10), None).await;
    assert_eq!(failures(&rig), 1);
    give_up(&rig, secs(10), Some(90)).await;
    assert_eq!(failures(&rig), 1, "this one was not to expect anything yet");
    give_up(&rig, secs(2), Some(4)).await;
    assert_eq!(failures(&rig), 2);

    // The time of a slow call goes before, where it is longer; where it is all that is known, it is enough.
    let slow = |layer: CircuitBreakerLayer| layer.configure(|config| config.slow_calls(secs(12), 1.0));
    for first_byte in [None, Some(20)] {
        let rig = Rig::new(slow, hung());
        if let Some(first_byte) = first_byte {
            let _ = rig.layer.clone().configure(|config| config.first_byte(secs(first_byte)));
        }
        give_up(&rig, secs(11), None).await;
        assert_eq!(failures(&rig), 0);
        give_up(&rig, secs(12), None).await;
        assert_eq!(failures(&rig), 1);
    }
}

/// It is not the upstream that is waited for.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_before_its_request_was_sent_says_nothing() {
    let config = |layer: CircuitBreakerLayer| layer.configure(|config| config.first_byte(secs(2)));
    let rig = Rig::new(config, Upstream::new([Answer::never(), Answer::never()]));
    let call = rig.service.clone().oneshot(request("POST", [Step::Data("some"), Step::Hang]));
    assert!(tokio::time::timeout(secs(60), call).await.is_err());
    assert_eq!(rig.circuit().snapshot().stats.calls, 0);

    // Where the layer sees the body being sent, the wait begins with its end.
    let slow_upload = || [Step::Data("some"), Step::Wait(secs(30)), Step::Data("more")];
    let rig = Rig::new(config, Upstream::new((0..2).map(|_| Answer::never())));
    for (patience, failures) in [(secs(30), 0), (secs(31), 1)] {
        let call = rig.service.clone().oneshot(request("POST", slow_upload()).map(CallBody::new));
        assert!(tokio::time::timeout(patience, call).await.is_err());
        assert_eq!(rig.circuit().snapshot().stats.failures, failures);
    }

    // Nor is it while the service is not ready.
    rig.upstream.clone().ready_after(secs(100));
    let call = rig.service.clone().oneshot(request("GET", []));
    assert!(tokio::time::timeout(secs(60), call).await.is_err());
    assert_eq!(rig.circuit().snapshot().stats.calls, 0);
}

/// A hundred calls of ten seconds, and their callers have no more patience.
#[tokio::test(start_paused = true)]
async fn a_hung_upstream_opens_though_every_deadline_is_shorter_than_its_limits() {
    let breaker = CircuitBreakerLayer::new().configure(|config| config.slow_calls(secs(2), 0.5));
    fn hung<B>(_: Request<B>) -> impl Future<Output = Result<Response<Empty<Bytes>>, Infallible>> {
        std::future::pending()
    }
    let outside = ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(10)))
        .layer(breaker.clone())
        .layer(FirstByteTimeoutLayer::new(secs(20)))
        .service(service_fn(hung));
    // All count as calls of one tenant, which opens the circuit after a minute of silence.
    for _ in 0..6 {
        assert_eq!(outside.clone().oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap().status(), 504);
    }
    assert_eq!(breaker.handle().state(), CircuitState::Open);

    // Inside it the deadline is an answer of ours, and no more than that.
    let breaker = CircuitBreakerLayer::new().configure(|config| config.first_byte(secs(20)));
    let inside =
        ServiceBuilder::new().layer(breaker.clone()).layer(DeadlineLayer::new(secs(10))).service(service_fn(hung));
    for _ in 0..6 {
        assert_eq!(inside.clone().oneshot(Request::new(Empty::<Bytes>::new())).await.unwrap().status(), 504);
    }
    assert_eq!(breaker.handle().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn one_tenant_that_gives_up_again_and_again_does_not_open_for_others() {
    let answers = (0..40).map(|_| Answer::never());
    let rig = Rig::new(|layer| layer.configure(|config| config.first_byte(secs(20))), Upstream::new(answers));
    let give_up = async |tenant: &'static str| {
        let mut request = request("GET", []);
        request.extensions_mut().insert(Tenant::new(tenant));
        assert!(tokio::time::timeout(secs(10), rig.service.clone().oneshot(request)).await.is_err());
    };
    // Four at a time, which count once.
    for _ in 0..4 {
        tokio::join!(give_up("a"), give_up("a"), give_up("a"), give_up("a"));
    }
    assert_eq!(rig.circuit().snapshot().stats.failures, 4);
    give_up("a").await;
    assert_eq!(rig.state(), CircuitState::Closed, "five in a row, but of one");
    give_up("b").await;
    assert_eq!(rig.state(), CircuitState::Open, "another one says so, too");
}

/// The upstream reads `x-api-key`, and ignores the `Authorization` that the caller makes up.
#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_with_many_credentials_does_not_open_for_others() {
    let answers = (0..20).map(|_| Answer::never());
    let rig = Rig::new(|layer| layer.configure(|config| config.first_byte(secs(20))), Upstream::new(answers));
    let give_up = async |made_up: u32| {
        let mut request = request("GET", []);
        request.headers_mut().insert("authorization", format!("Bearer {made_up}").parse().unwrap());
        request.headers_mut().insert("x-api-key", HeaderValue::from_static("valid"));
        assert!(tokio::time::timeout(secs(10), rig.service.clone().oneshot(request)).await.is_err());
    };
    for round in 0..3 {
        let call = |nth: u32| give_up(5 * round + nth);
        tokio::join!(call(0), call(1), call(2), call(3), call(4));
    }
    assert_eq!((rig.circuit().snapshot().stats.failures, rig.state()), (3, CircuitState::Closed));
}

/// Panics where it is told to.
#[derive(Clone, Copy)]
enum PanicsWhen {
    Called,
    Polled,
    Read,
}

struct PanickingBody;

impl Body for PanickingBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        panic!("in the body")
    }
}

impl Service<Request<Script>> for PanicsWhen {
    type Response = Response<PanickingBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<PanickingBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Script>) -> Self::Future {
        match self {
            Self::Called => panic!("in the call"),
            Self::Polled => Box::pin(poll_fn(|_| panic!("in the future"))),
            Self::Read => Box::pin(async { Ok(Response::new(PanickingBody)) }),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_counts_and_is_passed_on() {
    for panics in [PanicsWhen::Called, PanicsWhen::Polled, PanicsWhen::Read] {
        let layer = CircuitBreakerLayer::new();
        for _ in 0..5 {
            let service = layer.layer(panics);
            let call = tokio::spawn(async move {
                let Ok(response) = service.oneshot(request("GET", [])).await;
                response.into_body().collect().await.map(drop)
            });
            assert!(call.await.unwrap_err().is_panic());
        }
        assert_eq!(layer.handle().state(), CircuitState::Open);
        assert_eq!(layer.handle().snapshot().stats.failures, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_panics_says_nothing_of_the_upstream() {
    let rig = Rig::new(as_is, Upstream::new((0..5).map(|_| stream([Step::Data("some"), Step::Hang]))));
    for _ in 0..5 {
        let response = rig.head().await.unwrap();
        let reads = tokio::spawn(async move {
            let _response = response;
            panic!("a bug of ours")
        });
        assert!(reads.await.unwrap_err().is_panic());
    }
    assert_eq!(rig.circuit().snapshot().stats.calls, 0);
}

/// Counts how often it is asked whether it is ready, and never is.
#[derive(Clone, Default)]
struct NeverReady(Arc<AtomicUsize>);

impl Service<Request<Script>> for NeverReady {
    type Response = Response<Script>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Script>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.fetch_add(1, SeqCst);
        Poll::Pending
    }

    fn call(&mut self, _: Request<Script>) -> Self::Future {
        unreachable!("it is never ready")
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_answers_without_asking_whether_the_service_is_ready() {
    let service = NeverReady::default();
    let layer = CircuitBreakerLayer::new();
    layer.handle().isolate();
    let refused = layer.layer(service.clone()).oneshot(request("GET", [])).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(!refused.headers().contains_key("retry-after"), "it is unknown when it will be closed");

    let keyed = CircuitBreakerLayer::new().key(|parts| Some(parts.uri.host()?.into()));
    keyed.handle_for("upstream").isolate();
    assert_eq!(keyed.layer(service.clone()).oneshot(request("GET", [])).await.unwrap().status(), 503);
    assert_eq!(service.0.load(SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn while_closed_a_service_that_is_not_ready_holds_its_callers_back() {
    let mut service = CircuitBreakerLayer::new().layer(NeverReady::default());
    let ready = poll_fn(|cx| Poll::Ready(Service::<Request<Script>>::poll_ready(&mut service, cx))).await;
    assert!(ready.is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_made_ready_has_failed() {
    let upstream = Upstream::new([]).ready_fails_after(0, ErrorKind::ConnectionRefused);
    let rig = Rig::new(as_is, upstream);
    for _ in 0..5 {
        let err = rig.service.clone().oneshot(request("GET", [])).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_callers_short_deadline_is_neutral_at_every_stage() {
    let silent = || service_fn(|_: Request<_>| std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>());
    let stalls = || {
        service_fn(|_: Request<_>| async {
            Ok::<_, Infallible>(Response::new(Script::new([Step::Data("a"), Step::Hang]).unsized_()))
        })
    };
    let neutral = |circuit: CircuitBreakerHandle| {
        let snapshot = circuit.snapshot();
        // The streams had begun.
        let stats = snapshot.stats;
        assert_eq!((snapshot.state, stats.calls, stats.failures), (CircuitState::Closed, 20, 0));
    };
    let (breaker, deadline) = (CircuitBreakerLayer::new(), DeadlineLayer::new(secs(1)));
    for _ in 0..10 {
        let outside = ServiceBuilder::new().layer(&deadline).layer(&breaker).service(silent());
        assert_eq!(outside.oneshot(request("GET", [])).await.unwrap().status(), 504);
        let inside = ServiceBuilder::new().layer(&breaker).layer(&deadline).service(silent());
        assert_eq!(inside.oneshot(request("GET", [])).await.unwrap().status(), 504);
        let outside = ServiceBuilder::new().layer(&deadline).layer(&breaker).service(stalls());
        assert!(outside.oneshot(request("GET", [])).await.unwrap().collect().await.is_err());
        let inside = ServiceBuilder::new().layer(&breaker).layer(&deadline).service(stalls());
        assert!(inside.oneshot(request("GET", [])).await.unwrap().collect().await.is_err());
    }
    neutral(breaker.handle());
}

#[tokio::test(start_paused = true)]
async fn the_timeouts_below_are_failures_of_the_upstream() {
    let (first_byte, idle) = (CircuitBreakerLayer::new(), CircuitBreakerLayer::new());
    for _ in 0..15 {
        let upstream = Upstream::new([Answer::never()]);
        let service = ServiceBuilder::new().layer(&first_byte).layer(FirstByteTimeoutLayer::new(secs(1)));
        let status = service.service(upstream).oneshot(request("GET", [])).await.unwrap().status();
        assert!([503, 504].contains(&status.as_u16()));
        let upstream = Upstream::new([stream([Step::Data("a"), Step::Hang])]);
        let service = ServiceBuilder::new().layer(&idle).layer(IdleBodyTimeoutLayer::new(secs(1)));
        assert!(service.service(upstream).oneshot(request("GET", [])).await.unwrap().collect().await.is_err());
    }
    assert_eq!(first_byte.handle().state(), CircuitState::Open);
    assert_eq!(idle.handle().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_inside_another_does_not_open_it() {
    let (outer, inner) = (CircuitBreakerLayer::new(), CircuitBreakerLayer::new());
    inner.handle().isolate();
    for _ in 0..20 {
        let service = ServiceBuilder::new().layer(&outer).layer(&inner).service(Upstream::new([]));
        assert_eq!(service.oneshot(request("GET", [])).await.unwrap().status(), 503);
    }
    assert_eq!(outer.handle().state(), CircuitState::Closed);
}

fn slow(layer: CircuitBreakerLayer) -> CircuitBreakerLayer {
    layer.configure(|config| config.slow_calls(secs(2), 1.0).min_calls(10))
}

#[tokio::test(start_paused = true)]
async fn a_body_is_slow_by_its_first_data_and_not_by_its_length() {
    // As long as allowed is not longer; and then a minute of stream.
    let long = || stream([Step::Wait(secs(1)), Step::Data("a"), Step::Wait(secs(60)), Step::Data("b")]).after(secs(1));
    let rig = Rig::new(slow, Upstream::new((0..10).map(|_| long())));
    rig.calls(10).await;
    assert_eq!(rig.state(), CircuitState::Closed);
    assert_eq!(rig.circuit().snapshot().stats.slow, 0);

    let late = || stream([Step::Wait(secs(1)), Step::Data("a")]).after(Duration::from_millis(1_001));
    let rig = Rig::new(slow, Upstream::new((0..10).map(|_| late())));
    rig.calls(9).await;
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.call().await;
    assert_eq!(rig.state(), CircuitState::Open);
    assert_eq!(rig.circuit().snapshot().stats.slow, 10);
}

#[tokio::test(start_paused = true)]
async fn a_body_is_slow_by_its_length_where_that_is_asked_for() {
    let long = || stream([Step::Data("a"), Step::Wait(secs(3)), Step::Data("b")]);
    let rig = Rig::new(
        |layer| slow(layer).configure(|config| config.slow_by(SlowCallBy::WholeBody)),
        Upstream::new((0..10).map(|_| long())),
    );
    rig.calls(10).await;
    assert_eq!(rig.circuit().snapshot().stats.slow, 10);
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_head_without_a_body_can_be_slow_and_so_can_a_failure() {
    let answers =
        [Answer::status(204).body(Script::new([])), Answer::status(500), Answer::fails(ErrorKind::BrokenPipe)];
    let rig = Rig::new(slow, Upstream::new(answers.map(|answer| answer.after(secs(3)))));
    rig.calls(3).await;
    let stats = rig.circuit().snapshot().stats;
    assert_eq!((stats.calls, stats.failures, stats.slow), (3, 2, 3));
}

#[tokio::test(start_paused = true)]
async fn trailers_are_shown_to_the_classifier() {
    fn unavailable(_: Request<Script>) -> impl Future<Output = Result<Response<GrpcBody>, Infallible>> {
        std::future::ready(Ok(Response::new(GrpcBody(vec![trailers("14"), Frame::data("m".into())]))))
    }
    let layer = CircuitBreakerLayer::new().configure(|config| config.min_calls(5)).classifier(Grpc::new());
    for _ in 0..5 {
        let response = layer.layer(service_fn(unavailable)).oneshot(request("POST", [])).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "14", "and passed on");
    }
    assert_eq!(layer.handle().state(), CircuitState::Open);
}

/// Whatever came before: without its status a gRPC call has not ended.
#[tokio::test(start_paused = true)]
async fn a_grpc_stream_that_ends_without_trailers_has_failed() {
    async fn ends(kind: &'static str, status: bool) -> u64 {
        let upstream = service_fn(move |_: Request<Script>| async move {
            let mut response = Response::new(GrpcBody(vec![Frame::data("m".into())]));
            response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
            if status {
                response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
            }
            Ok::<_, Infallible>(response)
        });
        let layer = CircuitBreakerLayer::new().classifier(Grpc::new());
        let response = layer.layer(upstream).oneshot(request("POST", [])).await.unwrap();
        response.into_body().collect().await.unwrap();
        let stats = layer.handle().snapshot().stats;
        assert_eq!(stats.calls, 1);
        stats.failures
    }
    assert_eq!(ends("application/grpc", false).await, 1);
    assert_eq!(ends("application/grpc+proto", false).await, 1);
    assert_eq!(ends("application/grpc", true).await, 0, "its head has the status");
    assert_eq!(ends("application/grpc-web+proto", false).await, 0, "its trailers are in its body");
    assert_eq!(ends("application/json", false).await, 0);
}

/// Its frames, last first. Of unknown length, as gRPC's are.
struct GrpcBody(Vec<Frame<Bytes>>);

fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    Frame::trailers(trailers)
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_extends_the_open_time_even_where_a_retry_is_forbidden() {
    let busy = || Answer::status(503).header("retry-after", "60").header("x-should-retry", "false");
    let rig = Rig::new(as_is, Upstream::new((0..5).map(|_| busy())));
    rig.open().await;
    assert_eq!(rig.circuit().snapshot().open_for, Some(secs(15)), "but for no longer than that");
}

#[tokio::test(start_paused = true)]
async fn a_bad_key_of_one_caller_does_not_open_the_circuit() {
    let rig = Rig::new(as_is, Upstream::new((0..100).map(|_| Answer::status(401))));
    rig.calls(100).await;
    assert_eq!(rig.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_layer_and_their_services_are_one_breaker() {
    let layer = CircuitBreakerLayer::new();
    let a = layer.clone().layer(Upstream::new((0..3).map(|_| Answer::status(500))));
    let b = layer.layer(Upstream::new((0..2).map(|_| Answer::status(500))));
    for service in [&a, &b, &a, &b, &a] {
        service.clone().oneshot(request("GET", [])).await.unwrap();
    }
    assert_eq!(a.clone().oneshot(request("GET", [])).await.unwrap().status(), 503);
    assert_eq!(layer.handle().state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_layer_passes_everything() {
    let rig = Rig::new(|_| CircuitBreakerLayer::disabled(), Upstream::new((0..20).map(|_| Answer::status(500))));
    assert_eq!(rig.calls(20).await, ["500 said"; 20]);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_only_counts_tells_and_lets_pass() {
    let rig = Rig::new(
        |layer| layer.configure(|config| config.metrics_only(true)),
        Upstream::new((0..20).map(|_| Answer::status(500))),
    );
    assert_eq!(rig.calls(20).await, ["500 said"; 20]);
    assert_eq!(rig.log.names(), ["circuit_would_open: consecutive-failures"]);
    assert_eq!(rig.circuit().snapshot().stats.failures, 20);
}

#[tokio::test(start_paused = true)]
async fn by_hand_it_opens_closes_and_only_counts() {
    let rig = Rig::new(as_is, Upstream::new((0..11).map(|_| Answer::status(500))));
    let circuit = rig.circuit();
    let mut states = circuit.subscribe();
    circuit.open_for(secs(60));
    assert_eq!(rig.call().await, "refused");
    circuit.close();
    circuit.metrics_only();
    rig.calls(5).await;
    circuit.disable();
    rig.calls(5).await;
    assert_eq!(rig.circuit().snapshot().stats.calls, 0);
    assert_eq!(*states.borrow_and_update(), CircuitState::Disabled, "the latest, always");
    circuit.close();
    assert_eq!(rig.call().await, "500 said");
    states.changed().await.unwrap();
    assert_eq!(*states.borrow(), CircuitState::Closed);
    assert_eq!(circuit.snapshot().stats.failures, 1);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_is_woken_by_a_change() {
    let rig = Rig::opened(as_is, vec![Answer::status(200)]);
    let mut states = rig.circuit().subscribe();
    let opened = tokio::spawn(async move { *states.wait_for(|state| *state == CircuitState::Open).await.unwrap() });
    tokio::task::yield_now().await;
    rig.open().await;
    assert_eq!(opened.await.unwrap(), CircuitState::Open);
}

/// Looks at the circuit it is told of: under a lock, that would be the end of it.
struct Curious(CircuitBreakerHandle);

/// Where to find the circuit that an observer was made before.
#[derive(Default)]
struct Late(std::sync::OnceLock<Curious>, AtomicUsize);

impl Observer for Late {
    fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
        if let (Event::CircuitChanged { change, .. }, Some(Curious(circuit))) = (event, self.0.get()) {
            assert_eq!(circuit.state(), change.to);
            circuit.close();
            self.1.fetch_add(1, SeqCst);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_steer_the_circuit_of_its_event() {
    let observer = Arc::new(Late::default());
    let layer = CircuitBreakerLayer::new().observer(observer.clone());
    let _ = observer.0.set(Curious(layer.handle()));
    let service = layer.layer(Upstream::new((0..5).map(|_| Answer::status(500))));
    for _ in 0..5 {
        service.clone().oneshot(request("GET", [])).await.unwrap();
    }
    assert_eq!(layer.handle().state(), CircuitState::Closed);
    assert_eq!(observer.1.load(SeqCst), 2, "it opened, and was closed");
}

#[tokio::test(start_paused = true)]
async fn an_event_says_what_the_old_state_had_seen() {
    let rig = Rig::opened(as_is, vec![Answer::status(200)]);
    rig.open().await;
    advance(secs(5)).await;
    rig.call().await;
    let changes: Vec<_> = rig.log.events().iter().filter_map(changed).collect();
    let told: Vec<_> = changes.iter().map(|change| (change.to, change.reason, change.stats.failures)).collect();
    assert_eq!(
        told,
        [
            (CircuitState::Open, CircuitReason::ConsecutiveFailures, 5),
            (CircuitState::HalfOpen, CircuitReason::OpenTimeOver, 5),
            (CircuitState::Closed, CircuitReason::ProbesSucceeded, 0),
        ]
    );
    assert_eq!(changes[0].to_string(), "closed -> open (consecutive-failures): 5 of 5 calls failed, open for 5s");
}

fn changed(event: &Event) -> Option<tower_buttress::CircuitChange> {
    match event {
        Event::CircuitChanged { change, .. } => Some(*change),
        _ => None,
    }
}

#[test]
fn settings_that_cannot_work_are_moved_to_the_nearest_that_can() {
    let config = CircuitBreakerConfig::new;
    let nearest = |ratio| config().failure_ratio(ratio).slow_calls(secs(1), ratio);
    for (ratio, clamped) in [(-0.5, 0.001), (0.0, 0.001), (1.1, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0)] {
        assert_eq!(nearest(ratio), nearest(clamped), "{ratio}");
    }
    let window = |millis| config().window(CircuitWindow::Time(Duration::from_millis(millis)));
    assert_eq!(window(9), window(10));
    assert_ne!(window(10), window(11));
    assert_eq!(config().open_duration(secs(2), secs(1)), config().open_duration(secs(2), secs(2)));
    assert_eq!(config().open_duration(Duration::ZERO, Duration::ZERO), {
        config().open_duration(Duration::from_nanos(1), Duration::from_nanos(1))
    });
    for (jitter, clamped) in [(-1.0, 0.0), (f64::NAN, 0.0), (1.1, 1.0)] {
        assert_eq!(config().jitter(jitter), config().jitter(clamped));
    }
    assert_eq!(config().min_calls(0).max_probes(0).max_keys(0), config().min_calls(1).max_probes(1).max_keys(1));
    assert_eq!(config().consecutive_failures(0), config().consecutive_failures(1));
}

#[tokio::test(start_paused = true)]
async fn a_handle_stays_alive_when_settings_change() {
    let log = Arc::new(Log::default());
    let layer = CircuitBreakerLayer::new();
    let (circuit, keyed) = (layer.handle(), layer.handle_for("a"));
    let service = layer.clone().layer(Upstream::new((0..3).map(|_| Answer::status(500))));
    let layer = layer.observer(log.clone()).configure(|config| config.consecutive_failures(2)).classifier(Grpc::new());
    for _ in 0..2 {
        service.clone().oneshot(request("GET", [])).await.unwrap();
    }
    assert_eq!(circuit.state(), CircuitState::Open, "a service that was made before has them too");
    assert_eq!(layer.handle().snapshot(), circuit.snapshot());
    assert_eq!(log.names(), ["circuit_changed: open"]);
    keyed.isolate();
    assert_eq!(layer.handle_for("a").state(), CircuitState::Isolated);
    // What only counts has never opened.
    let layer = layer.configure(|config| config.metrics_only(true));
    circuit.close();
    let _ = layer.configure(|config| config.metrics_only(true));
    assert_eq!(circuit.state(), CircuitState::Closed, "by hand");
}

#[tokio::test(start_paused = true)]
async fn times_without_end_do_not_panic() {
    let endless = |layer: CircuitBreakerLayer| {
        layer.configure(|config| {
            let config = config.open_duration(Duration::MAX, Duration::MAX).probe_timeout(Duration::MAX);
            config.window(CircuitWindow::Time(Duration::MAX)).jitter(1.0).first_byte(Duration::MAX)
        })
    };
    let rig = Rig::opened(endless, vec![]);
    rig.open().await;
    assert_eq!(rig.call().await, "refused");
    assert!(rig.circuit().snapshot().open_for > Some(secs(86_400 * 365)));
}

#[tokio::test(start_paused = true)]
async fn half_of_the_calls_in_the_window_open_it_and_a_new_window_does_not() {
    let statuses = || (0..5).flat_map(|_| [500, 200]).map(Answer::status);
    let ratio_only = |layer: CircuitBreakerLayer| {
        layer.configure(|config| config.consecutive_failures(None).min_calls(10).failure_ratio(0.5))
    };
    let rig = Rig::new(ratio_only, Upstream::new(statuses()));
    rig.calls(9).await;
    assert_eq!(rig.state(), CircuitState::Closed);
    rig.call().await;
    assert_eq!(rig.state(), CircuitState::Open);

    let rig = Rig::new(ratio_only, Upstream::new(statuses()));
    for _ in 0..10 {
        rig.call().await;
        advance(secs(10)).await;
    }
    assert_eq!(rig.state(), CircuitState::Closed, "never more than six of them in a minute");
}

#[tokio::test(start_paused = true)]
async fn only_a_run_can_be_asked_for() {
    let run_only =
        |layer: CircuitBreakerLayer| layer.configure(|config| config.min_calls(u32::MAX).consecutive_failures(3));
    let statuses = (0..40).map(|n| Answer::status(if n % 3 == 2 { 200 } else { 500 }));
    let rig = Rig::new(run_only, Upstream::new(statuses.chain((0..3).map(|_| Answer::status(500)))));
    rig.calls(40).await;
    assert_eq!(rig.state(), CircuitState::Closed);
    advance(secs(5)).await;
    rig.calls(3).await;
    assert_eq!(rig.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_classifier_sees_the_request() {
    // Of one path only, a 404 means that the upstream is not whole.
    let by_path = |outcome: &Outcome<'_>| {
        let path = outcome.request().map(|request| request.uri.path().to_owned());
        match (outcome.status(), path.as_deref()) {
            (Some(StatusCode::NOT_FOUND), Some("/v1/chat")) => Verdict::new(NextStep::GiveUp, Health::Failure),
            _ => Standard::new().classify(outcome),
        }
    };
    for (uri, state) in [("/v1/chat", CircuitState::Open), ("/v1/files", CircuitState::Closed)] {
        let layer = CircuitBreakerLayer::new().classifier(by_path);
        for _ in 0..10 {
            let mut asked = request("GET", []);
            *asked.uri_mut() = uri.parse().unwrap();
            let service = layer.layer(Upstream::new([Answer::status(404)]));
            service.oneshot(asked).await.unwrap().into_body().collect().await.unwrap();
        }
        assert_eq!(layer.handle().state(), state, "{uri}");
    }
}
