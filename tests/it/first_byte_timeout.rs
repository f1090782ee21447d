//! The wait for the first data of a response.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::first_byte_timeout::FirstByteTimeoutBody;
use tower_buttress::{
    CallBody, ExpectsEventStream, FirstByteEvent, FirstByteTimeoutLayer, Rejection, RejectionKind,
    RetryAfterBackoffLayer, TimeoutProfile,
};

use crate::support::Step::{Data, Fail, Hang, Wait};
use crate::support::upstream::{Answer, Upstream, request};
use crate::support::{Log, Script, Step, secs, trace};

struct Call {
    layer: FirstByteTimeoutLayer,
    request: Request<Empty<Bytes>>,
    head_after: Duration,
    response: http::response::Builder,
}

fn call(until: FirstByteEvent) -> Call {
    Call {
        layer: FirstByteTimeoutLayer::new(secs(20)).until(until),
        request: Request::new(Empty::new()),
        head_after: Duration::ZERO,
        response: Response::builder(),
    }
}

impl Call {
    async fn send(self, script: Script) -> Response<FirstByteTimeoutBody<Script>> {
        let mut answer = Some(self.response.body(script).unwrap());
        let service = self.layer.layer(service_fn(move |_| {
            let response = answer.take().unwrap();
            async move {
                tokio::time::sleep(self.head_after).await;
                Ok::<_, Infallible>(response)
            }
        }));
        service.oneshot(self.request).await.unwrap()
    }

    /// When the response was handed on, its status, and then what its body did.
    async fn check(self, steps: impl IntoIterator<Item = Step>, expected: &[&str]) {
        let start = Instant::now();
        let response = self.send(Script::new(steps)).await;
        let mut seen = vec![format!("+{}s {}", start.elapsed().as_secs(), response.status().as_u16())];
        match Rejection::of(&response) {
            Some(rejection) => seen.push(rejection.kind().to_string()),
            None => seen.extend(trace(response.into_body()).await),
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_response_is_withheld_until_its_first_data() {
    let steps = [Wait(secs(5)), Data("a"), Wait(secs(60)), Data("b"), Step::Trailers];
    call(FirstByteEvent::Data).check(steps, &["+5s 200", "+0s a", "+60s b", "+60s trailers", "+60s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn head_and_first_data_share_one_limit() {
    let late_head = Call { head_after: secs(21), ..call(FirstByteEvent::Data) };
    late_head.check([Data("a")], &["+20s 504", "first-byte-timeout"]).await;
    let late_data = Call { head_after: secs(15), ..call(FirstByteEvent::Data) };
    late_data.check([Wait(secs(6)), Data("a")], &["+20s 504", "first-byte-timeout"]).await;
    let in_time = Call { head_after: secs(15), ..call(FirstByteEvent::Data) };
    in_time.check([Wait(secs(4)), Data("a")], &["+19s 200", "+0s a", "+0s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn until_headers_the_body_may_be_late() {
    call(FirstByteEvent::Headers).check([Wait(secs(60)), Data("a")], &["+0s 200", "+60s a", "+60s end"]).await;
    let late = Call { head_after: secs(21), ..call(FirstByteEvent::Headers) };
    late.check([Data("a")], &["+20s 504", "first-byte-timeout"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_before_its_first_data_is_a_502() {
    call(FirstByteEvent::Data).check([Wait(secs(1)), Fail("cut")], &["+1s 502", "body-failed"]).await;
    call(FirstByteEvent::Data)
        .check([Data("a"), Fail("cut")], &["+0s 200", "+0s a", "+0s error: cut", "+0s end"])
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_what_is_wrong_is_not_replaced() {
    for status in [400, 429, 503] {
        let busy = || Call { response: Response::builder().status(status), ..call(FirstByteEvent::Data) };
        let head = format!("+0s {status}");
        busy().check([Wait(secs(1)), Fail("cut")], &[&head, "+1s error: cut", "+1s end"]).await;
        busy().check([Wait(secs(60)), Data("why")], &[&head, "+60s why", "+60s end"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_asked_for_is_obeyed_though_the_rest_of_its_answer_is_lost() {
    let busy = Answer::status(429).header("retry-after", "7").body(Script::new([Fail("cut")]));
    let upstream = Upstream::new([busy, Answer::status(200)]);
    let service = ServiceBuilder::new()
        .layer(RetryAfterBackoffLayer::new())
        .layer(FirstByteTimeoutLayer::new(secs(20)))
        .service(upstream.clone());
    assert_eq!(service.oneshot(request("POST", [])).await.unwrap().status(), 200);
    assert!(upstream.times()[1] >= 7.0);
}

#[tokio::test(start_paused = true)]
async fn the_cause_of_a_502_is_kept_and_not_shown() {
    let response = call(FirstByteEvent::Data).send(Script::new([Fail("secret host")])).await;
    let cause = std::error::Error::source(Rejection::of(&response).unwrap()).unwrap();
    assert_eq!(cause.to_string(), "secret host");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(!String::from_utf8_lossy(&body).contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn what_has_no_data_is_handed_on_at_the_head() {
    for status in [101, 204, 205, 304] {
        let response = Response::builder().status(status);
        let response = Call { response, ..call(FirstByteEvent::Data) }.send(Script::new([Hang])).await;
        assert_eq!(response.status(), status);
    }
    for method in [Method::HEAD, Method::CONNECT] {
        let request = Request::builder().method(method).body(Empty::new()).unwrap();
        let response = Call { request, ..call(FirstByteEvent::Data) }.send(Script::new([Hang])).await;
        assert_eq!(response.status(), 200);
    }
    call(FirstByteEvent::Data).check([], &["+0s 200", "+0s end"]).await;
    call(FirstByteEvent::Data).check([Wait(secs(2))], &["+2s 200", "+0s end"]).await;
    call(FirstByteEvent::Data).check([Wait(secs(2)), Step::Trailers], &["+2s 200", "+0s trailers", "+0s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn frames_without_bytes_are_no_data() {
    let steps = [Data(""), Data(""), Wait(secs(21)), Data("a")];
    call(FirstByteEvent::Data).check(steps, &["+20s 504", "first-byte-timeout"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_drops_the_upstream_at_once() {
    let log = Arc::new(Log::default());
    let script = Script::new([Hang]);
    let dropped = script.dropped();
    let layer = FirstByteTimeoutLayer::new(secs(20)).observer(log.clone());
    let mut script = Some(script);
    let mut service = layer.layer(service_fn(move |_| {
        let response = Response::new(script.take().unwrap());
        async { Ok::<_, Infallible>(response) }
    }));
    let mut answer = std::pin::pin!(service.call(Request::new(Empty::<Bytes>::new())));
    let response = answer.as_mut().await.unwrap();
    assert!(dropped());
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(log.names(), ["refused: first-byte-timeout"]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_drops_the_upstream() {
    let script = Script::new([Hang]);
    let dropped = script.dropped();
    assert!(tokio::time::timeout(secs(1), call(FirstByteEvent::Data).send(script)).await.is_err());
    assert!(dropped());
}

#[tokio::test(start_paused = true)]
async fn a_grpc_caller_is_refused_in_grpc() {
    let request = Request::builder().header(CONTENT_TYPE, "application/grpc").body(Empty::new()).unwrap();
    let response = Call { request, ..call(FirstByteEvent::Data) }.send(Script::new([Hang])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::FirstByteTimeout);
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_profile_in_the_request_wins() {
    let request = Request::builder().extension(TimeoutProfile::FAST.with_first_byte(secs(3)));
    let request = request.body(Empty::new()).unwrap();
    Call { request, ..call(FirstByteEvent::Data) }.check([Hang], &["+3s 504", "first-byte-timeout"]).await;
}

// --- Answers that are no streams ---

/// A layer that has 20 s for streams and 50 s for whole answers.
fn answers(request: http::request::Builder) -> Call {
    let call = call(FirstByteEvent::SseEvent);
    Call { layer: call.layer.clone().answer(secs(50)), request: request.body(Empty::new()).unwrap(), ..call }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_stream_has_a_limit_of_its_own() {
    let in_time = Call { head_after: secs(49), ..answers(Request::builder()) };
    in_time.check([Data("{}")], &["+49s 200", "+0s {}", "+0s end"]).await;
    answers(Request::builder()).check([Hang], &["+50s 504", "first-byte-timeout"]).await;
    // A layer that is not told so makes no difference.
    call(FirstByteEvent::SseEvent).check([Hang], &["+20s 504", "first-byte-timeout"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_known_by_what_the_request_says() {
    for request in [
        Request::builder().extension(ExpectsEventStream),
        Request::builder().header("accept", "text/event-stream"),
        Request::post("/v1beta/models/gemini:streamGenerateContent?alt=sse"),
    ] {
        answers(request).check([Hang], &["+20s 504", "first-byte-timeout"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_has_a_limit_for_answers_too() {
    let profile = TimeoutProfile::FAST.with_answer(secs(7));
    answers(Request::builder().extension(profile)).check([Hang], &["+7s 504", "first-byte-timeout"]).await;
    let stream = Request::builder().extension(profile).extension(ExpectsEventStream);
    answers(stream).check([Hang], &["+10s 504", "first-byte-timeout"]).await;
    // Where the layer has none for answers, it waits for the first byte.
    let request = Request::builder().extension(profile).body(Empty::new()).unwrap();
    Call { request, ..call(FirstByteEvent::Data) }.check([Hang], &["+10s 504", "first-byte-timeout"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_a_stream_after_all_has_its_limit_from_the_head_on() {
    for (head_after, refused) in [(0, 20), (5, 25), (45, 50)] {
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
        let call = Call { head_after: secs(head_after), response, ..answers(Request::builder()) };
        let steps = [Data(": ping\n\n"), Hang];
        call.check(steps, &[&format!("+{refused}s 504"), "first-byte-timeout"]).await;
    }
}

// --- FirstByteEvent::SseEvent ---

fn events() -> Call {
    Call { response: Response::builder().header(CONTENT_TYPE, "text/event-stream"), ..call(FirstByteEvent::SseEvent) }
}

#[tokio::test(start_paused = true)]
async fn a_comment_is_no_event() {
    let steps = || [Data(": ping\n\n"), Wait(secs(10)), Data(": ping\n\n"), Wait(secs(11)), Data("data: a\n\n")];
    events().check(steps(), &["+20s 504", "first-byte-timeout"]).await;
    let steps = [Data(": ping\n\n"), Wait(secs(10)), Data("data: a"), Wait(secs(5)), Data("\n\n"), Data("data: b\n\n")];
    let expected = ["+15s 200", "+0s : ping\n\n", "+0s data: a", "+0s \n\n", "+0s data: b\n\n", "+0s end"];
    events().check(steps, &expected).await;
}

/// The first event of an MCP server has an `id` and no data; an event of Anthropic's may be a `ping`.
#[tokio::test(start_paused = true)]
async fn an_event_of_any_kind_is_one() {
    for event in ["id: 1\ndata\n\n", "id: 1\n\n", "event: ping\n\n", "retry: 10\n\n", "x: y\n\n"] {
        let expected = ["+5s 200", &format!("+0s {event}"), "+60s end"];
        events().check([Wait(secs(5)), Data(event), Wait(secs(60))], &expected).await;
    }
}

/// Some providers send blank lines before a long JSON answer.
#[tokio::test(start_paused = true)]
async fn white_space_is_no_json() {
    let json = || Call { response: Response::builder().header(CONTENT_TYPE, "application/json"), ..events() };
    json().check([Data("\n"), Wait(secs(10)), Data("\n"), Hang], &["+20s 504", "first-byte-timeout"]).await;
    let expected = ["+5s 200", "+0s \n", "+0s \n {", "+1s }", "+1s end"];
    json().check([Data("\n"), Wait(secs(5)), Data("\n {"), Wait(secs(1)), Data("}")], &expected).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_readable_event_stream_is_judged_by_its_data() {
    let json = Call { response: Response::builder(), ..events() };
    json.check([Data(": ping"), Wait(secs(60))], &["+0s 200", "+0s : ping", "+60s end"]).await;
    let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").header(CONTENT_ENCODING, "br");
    let encoded = Call { response, ..events() };
    encoded.check([Data(": ping"), Wait(secs(60))], &["+0s 200", "+0s : ping", "+60s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_without_an_event_ends_as_it_is() {
    events().check([Data(": ping\n\n"), Wait(secs(3))], &["+3s 200", "+0s : ping\n\n", "+0s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_64_kib_or_1024_frames_are_withheld() {
    const KIB: &str = match std::str::from_utf8(&[b':'; 1024]) {
        Ok(text) => text,
        Err(_) => panic!(),
    };
    let response = events().send(Script::new(std::iter::repeat_n(Data(KIB), 64).chain([Hang]))).await;
    assert_eq!(response.status(), 200);
    assert!(response.body().size_hint().lower() >= 64 * 1024);
    let response = events().send(Script::new(std::iter::repeat_n(Data(":"), 1024).chain([Hang]))).await;
    assert_eq!(response.status(), 200);
}

// --- The request's body ---

/// An upstream that reads the request body to its end, thinks for `think`, and answers.
async fn upload<B>(body: B, think: Duration) -> (Duration, StatusCode)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tower_buttress::error::BoxError>,
{
    let start = Instant::now();
    let service = FirstByteTimeoutLayer::new(secs(20)).layer(service_fn(move |request: Request<_>| async move {
        BodyExt::collect(request.into_body()).await.unwrap();
        tokio::time::sleep(think).await;
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
    }));
    let response = service.oneshot(Request::new(body)).await.unwrap();
    (start.elapsed(), response.status())
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_is_not_the_upstreams_fault() {
    let slowly = || Script::new([Wait(secs(50)), Data("a"), Wait(secs(50)), Data("b")]);
    assert_eq!(upload(slowly(), secs(19)).await, (secs(119), StatusCode::OK));
    assert_eq!(upload(slowly(), secs(21)).await, (secs(120), StatusCode::GATEWAY_TIMEOUT));
}

#[tokio::test(start_paused = true)]
async fn with_no_time_at_all_a_slow_upload_is_still_waited_for() {
    let service = FirstByteTimeoutLayer::new(Duration::ZERO).layer(service_fn(|request: Request<CallBody>| async {
        BodyExt::collect(request.into_body()).await.unwrap();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"ok"))))
    }));
    let response = service.oneshot(Request::new(Script::new([Wait(secs(5)), Data("a")]))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_stops_reading_is_given_up() {
    let start = Instant::now();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move { while sender.send_data("chunk".into()).await.is_ok() {} });
    let service = FirstByteTimeoutLayer::new(secs(20)).layer(service_fn(|request: Request<CallBody>| async move {
        let mut body = request.into_body();
        tokio::time::sleep(secs(7)).await;
        body.frame().await.unwrap().unwrap();
        std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>().await
    }));
    let response = service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!((start.elapsed(), response.status()), (secs(27), StatusCode::GATEWAY_TIMEOUT));
}

/// An upstream that answers each part of the request with its own, and a caller who sends nothing before it has a head.
#[tokio::test(start_paused = true)]
async fn a_conversation_is_not_held_up() {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let service = FirstByteTimeoutLayer::new(secs(20)).layer(service_fn(|request: Request<CallBody>| async {
        // What a connection does: it asks for the first part with the head.
        let mut request = request.into_body();
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut request).poll_frame(cx))).await;
        assert!(first.is_pending());
        Ok::<_, Infallible>(Response::new(request))
    }));
    let start = Instant::now();
    let mut response = service.oneshot(Request::new(body)).await.unwrap().into_body();
    assert_eq!(start.elapsed(), Duration::ZERO);
    for part in ["hello", "world"] {
        sender.send_data(part.into()).await.unwrap();
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), part);
    }
}

/// A head at once; each piece of the request is answered with the same.
fn conversation() -> impl Service<Request<CallBody>, Response = Response<CallBody>, Error = Infallible> {
    service_fn(|request: Request<_>| async { Ok(Response::new(request.into_body())) })
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_for_the_head_gets_it() {
    let start = Instant::now();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let service = FirstByteTimeoutLayer::new(secs(20)).layer(conversation());
    let answer = tokio::time::timeout(secs(60), service.oneshot(Request::new(body)));
    let response = answer.await.expect("an answer").unwrap();
    sender.send_data("a".into()).await.unwrap();
    drop(sender);
    assert_eq!(trace(response.into_body()).await, ["+0s a", "+0s end"]);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_comes_to_wait_for_the_head_gets_it_then() {
    // The upstream reads in a task of its own, as a connection does, and says nothing.
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let service = FirstByteTimeoutLayer::new(secs(20)).layer(service_fn(|request: Request<CallBody>| async move {
        tokio::spawn(async move {
            tokio::time::sleep(secs(3)).await;
            let _ = BodyExt::collect(request.into_body()).await;
        });
        Ok::<_, Infallible>(Response::new(Script::new([Wait(secs(60)), Data("a")])))
    }));
    sender.send_data("begin".into()).await.unwrap();
    let start = Instant::now();
    let response = service.oneshot(Request::new(body)).await.unwrap();
    assert_eq!((start.elapsed(), response.status()), (secs(3), StatusCode::OK));
    drop(sender);
    assert_eq!(trace(response.into_body()).await, ["+57s a", "+57s end"]);
}
