//! A stream ends with the error event of its dialect, whatever ended it.

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tower::ServiceBuilder;
use tower_buttress::error::{BoxError, StreamTruncated};
use tower_buttress::proto::dialect::Kind;
use tower_buttress::{DeadlineLayer, IdleBodyTimeoutLayer, Rejection, RejectionKind, SseHeartbeatLayer};

use super::{Asked, asked, events, late, through};
use crate::support::{Script, Step, secs, trace};

type Boxed = UnsyncBoxBody<Bytes, BoxError>;

fn layer() -> SseHeartbeatLayer {
    SseHeartbeatLayer::new(secs(15)).error_events(true)
}

fn to(path: &'static str) -> Asked {
    let mut request = asked();
    *request.uri_mut() = http::Uri::from_static(path);
    request
}

/// How the last event begins and ends for the clients of each dialect.
const EVENTS: [(&str, &str, &str); 6] = [
    (
        "/v1/chat/completions",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",",
        "\"param\":null}}\n\n",
    ),
    ("/v1/responses", "event: error\ndata: {\"type\":\"error\",\"sequence_number\":9,", "\"param\":null}}\n\n"),
    ("/v1/messages", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",", ".\"}}\n\n"),
    ("/v1beta/models/g:streamGenerateContent", "data: {\"error\":{\"code\":504,", "\"DEADLINE_EXCEEDED\"}}\n\n"),
    (
        "/v2/chat",
        "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",",
        ".\"}}\n\n",
    ),
    // Not Ollama's: that would be no event stream.
    ("/api/chat", "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\",", "null}}\n\n"),
];

fn boxed<B>(response: Response<B>) -> Boxed
where
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    response.into_body().boxed_unsync()
}

/// A stream that falls silent after two events.
fn silent() -> Response<Script> {
    let events =
        "data: {\"sequence_number\": 7}\n\ndata: {\"sequence_number\":8,\"text\":\"\\\"sequence_number\\\":3\"}\n\n";
    super::events(Script::new([Step::Data(events), Step::Hang]).unsized_())
}

/// The last bytes before the body fails.
async fn last(mut body: Boxed) -> String {
    let mut last = String::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return last };
        last = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
    }
    panic!("it ended cleanly, after {last}")
}

#[tokio::test(start_paused = true)]
async fn every_limit_is_an_event_that_the_clients_of_the_dialect_raise() {
    for (path, begin, end) in EVENTS {
        let check = |told: String| assert!(told.starts_with(begin) && told.ends_with(end), "{path}: {told}");
        let idle = ServiceBuilder::new().layer(layer()).layer(IdleBodyTimeoutLayer::new(secs(10))).into_inner();
        check(last(boxed(through(idle, to(path), silent()).await)).await);
        let deadline = ServiceBuilder::new().layer(layer()).layer(DeadlineLayer::new(secs(10))).into_inner();
        check(last(boxed(through(deadline, to(path), silent()).await)).await);
        check(last(boxed(through(layer().max_silence(secs(10)), to(path), silent()).await)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_the_head_was_sent_is_an_event_of_the_dialect() {
    let refused = || {
        let refused = Response::new(Script::new([]));
        let (mut head, body) = refused.into_parts();
        head.status = http::StatusCode::SERVICE_UNAVAILABLE;
        head.extensions.insert(Rejection::new(RejectionKind::CircuitOpen));
        Response::from_parts(head, body)
    };
    for (path, told) in [
        ("/v1/chat/completions", "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","),
        ("/v1/responses", "{\"type\":\"error\",\"sequence_number\":0,"),
        ("/v1beta/models/g:streamGenerateContent?alt=sse", "data: {\"error\":{\"code\":503,"),
    ] {
        let mut request = to(path);
        request.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
        // Told even where the events of streams that broke off are not wanted: there is no status any more.
        let service =
            tower::Layer::layer(&SseHeartbeatLayer::new(secs(15)).before_headers(secs(10)), late(secs(20), refused));
        let body = boxed(tower::ServiceExt::oneshot(service, request).await.unwrap());
        let event = last(body).await;
        assert!(event.contains(told), "{path}: {event}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_guard_found_is_sent_as_the_guard_rendered_it() {
    let truncated: BoxError = StreamTruncated::new(Some(Kind::Gemini), 0).into();
    let body = http_body_util::StreamBody::new(futures_util::stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"data: {}\n\n"))),
        Err(truncated),
    ]));
    let told = last(boxed(through(layer(), to("/v1/messages"), events(body)).await)).await;
    assert!(told.starts_with("data: {\"error\":{\"code\":502,"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn where_changes_are_forbidden_the_event_stands_in_place_of_the_rest() {
    let told = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"code\":null,\
                \"message\":\"The upstream failed in the middle of the stream.\"}}\n\n";
    let line = "{\"error\":\"The upstream failed in the middle of the stream.\"}\n";
    for (path, content_type, event, told) in [
        ("/v1/messages", "text/event-stream", "data: {}\n\n", told),
        ("/api/chat", "application/x-ndjson", "{}\n", line),
    ] {
        for by_caller in [true, false] {
            for error_events in [true, false] {
                let (mut request, steps) = (to(path), [Step::Data(event), Step::Wait(secs(60)), Step::Fail("secret")]);
                let mut answer = Response::new(Script::new(steps).unsized_());
                answer.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
                answer.headers_mut().insert("etag", HeaderValue::from_static("\"a\""));
                let headers = if by_caller { request.headers_mut() } else { answer.headers_mut() };
                headers.insert("cache-control", HeaderValue::from_static("no-cache, no-transform"));
                let before = answer.headers().clone();
                let layer = layer().error_events(error_events).max_silence(secs(30));
                let response = through(layer, request, answer).await;
                assert_eq!(*response.headers(), before, "{path}");
                let (event, told) = (format!("+0s {event}"), format!("+60s {told}"));
                let expected: &[&str] = match error_events {
                    true => &[&event, &told, "+60.05s error: secret", "+60.05s end"],
                    false => &[&event, "+60s error: secret", "+60s end"],
                };
                assert_eq!(trace(response.into_body()).await, expected, "{path}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn json_lines_of_ollama_end_with_a_line_that_says_why_and_have_no_heartbeats() {
    let lines = |steps: [Step; 3]| {
        let mut response = Response::new(Script::new(steps).unsized_());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/x-ndjson"));
        response
    };
    let whole = [Step::Data("{\"done\":false}\n"), Step::Wait(secs(60)), Step::Fail("secret")];
    let error = "{\"error\":\"The upstream failed in the middle of the stream.\"}\n";
    let body = through(layer(), to("/api/chat"), lines(whole.clone())).await.into_body();
    assert_eq!(
        trace(body).await,
        ["+0s {\"done\":false}\n", &format!("+60s {error}"), "+60.05s error: secret", "+60.05s end"]
    );
    let cut = [Step::Data("{\"done\":"), Step::Wait(secs(60)), Step::Fail("secret")];
    let body = through(layer(), to("/api/chat"), lines(cut)).await.into_body();
    assert_eq!(trace(body).await[1], "+60s error: secret", "no place in the middle of a line");
    let body = through(layer(), to("/lines"), lines(whole)).await.into_body();
    assert_eq!(trace(body).await[1], "+60s error: secret", "lines of another API");
}
