//! Streams that begin before there is an answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::{self, BoxError, StreamSilent, UnexpectedResponse};
use tower_buttress::{
    ExpectsEventStream, FirstByteTimeoutLayer, HeartbeatFrame, Rejection, RejectionKind, RetryAfterBackoffLayer,
    SseHeartbeatLayer,
};

use super::{Asked, asked, events, late};
use crate::support::{Script, Step, secs, trace};

fn layer() -> SseHeartbeatLayer {
    SseHeartbeatLayer::new(secs(15)).before_headers(secs(10))
}

fn expecting() -> Asked {
    to("/v1/messages")
}

/// A request that names event streams in its `Accept`.
fn to(path: &'static str) -> Asked {
    let mut request = asked();
    *request.uri_mut() = http::Uri::from_static(path);
    request.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
    request
}

fn stream() -> Response<Script> {
    events(Script::new([Step::Data("data: a\n\n"), Step::Trailers]).unsized_())
}

#[tokio::test(start_paused = true)]
async fn the_stream_begins_and_the_answer_follows() {
    let start = Instant::now();
    let response = layer().layer(late(secs(42), stream)).oneshot(expecting()).await.unwrap();
    assert_eq!((response.status(), start.elapsed()), (StatusCode::OK, secs(10)));
    let headers = response.headers();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(
        (&headers["cache-control"], &headers["x-accel-buffering"]),
        (&"no-cache".parse().unwrap(), &"no".parse().unwrap())
    );
    assert_eq!(
        trace(response.into_body()).await,
        [
            "+0s : keepalive\n\n",
            "+15s : keepalive\n\n",
            "+30s : keepalive\n\n",
            "+32s data: a\n\n",
            "+32s trailers",
            "+32s end"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_the_answer() {
    let answer = || Response::builder().status(429).body(Full::<Bytes>::from("busy")).unwrap();
    let response = layer().layer(late(secs(9), answer)).oneshot(expecting()).await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "busy");
}

#[tokio::test(start_paused = true)]
async fn only_callers_that_expect_an_event_stream_get_one_early() {
    let mut marked = expecting();
    marked.headers_mut().clear();
    let unmarked = marked.clone();
    marked.extensions_mut().insert(ExpectsEventStream);
    for (request, early) in [(unmarked, false), (marked, true), (expecting(), true)] {
        let start = Instant::now();
        layer().layer(late(secs(30), stream)).oneshot(request).await.unwrap();
        assert_eq!(start.elapsed() == secs(10), early);
    }
    let start = Instant::now();
    SseHeartbeatLayer::disabled()
        .before_headers(secs(10))
        .layer(late(secs(30), stream))
        .oneshot(expecting())
        .await
        .unwrap();
    assert_eq!(start.elapsed(), secs(30));
}

/// When the head came, and the bytes that came before the answer.
async fn begun(layer: SseHeartbeatLayer, request: Asked) -> (u64, String) {
    let start = Instant::now();
    let response = layer.layer(late(secs(30), stream)).oneshot(request).await.unwrap();
    let after = start.elapsed().as_secs();
    let all = response.into_body().collect().await.unwrap().to_bytes();
    (after, String::from_utf8(all.to_vec()).unwrap().replace("data: a\n\n", ""))
}

#[tokio::test(start_paused = true)]
async fn the_dialect_of_the_path_chooses_the_frame_and_whether_there_is_one() {
    let comments = (10, ": keepalive\n\n".repeat(2));
    assert_eq!(begun(layer(), to("/v1/chat/completions")).await, comments);
    assert_eq!(begun(layer(), to("/v1/responses")).await, comments);
    assert_eq!(begun(layer(), to("/v1beta/models/g:streamGenerateContent")).await, (10, "\n\n".to_owned()));
    for none in ["/v2/chat", "/api/chat", "/api/generate", "/mcp", "/"] {
        assert_eq!(begun(layer(), to(none)).await, (30, String::new()), "{none}");
    }
    // A frame that was set holds for every path.
    let newlines = (10, "\n\n".to_owned());
    assert_eq!(begun(layer().frame(HeartbeatFrame::BareNewline), to("/mcp")).await, newlines);
    let mut marked = to("/v2/chat");
    marked.extensions_mut().insert(HeartbeatFrame::BareNewline);
    assert_eq!(begun(layer(), marked).await, newlines);
}

#[tokio::test(start_paused = true)]
async fn gemini_streams_events_only_to_callers_that_say_so() {
    for (path, after) in [
        ("/v1beta/models/g:streamGenerateContent", 30),
        ("/v1beta/models/g:streamGenerateContent?key=k&alt=json", 30),
        ("/v1beta/models/g:streamGenerateContent?key=k&alt=sse", 10),
    ] {
        let mut request = to(path);
        request.headers_mut().clear();
        assert_eq!(begun(layer(), request).await.0, after, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_prefers_an_answer_later_gets_no_stream_now() {
    for (prefer, after) in [("respond-async, wait=10", 30), ("wait=10, Respond-Async", 30), ("return=minimal", 10)] {
        let mut request = expecting();
        request.headers_mut().insert("prefer", HeaderValue::from_static(prefer));
        assert_eq!(begun(layer(), request).await.0, after, "{prefer}");
    }
    // Where nothing inside answers later, the caller waits, and wants heartbeats as any other.
    let mut request = expecting();
    request.headers_mut().insert("prefer", HeaderValue::from_static("respond-async"));
    assert_eq!(begun(layer().respond_async(false), request).await.0, 10);
}

#[tokio::test(start_paused = true)]
async fn the_upstream_is_asked_for_nothing_compressed() {
    let never = SseHeartbeatLayer::new(secs(15)).before_headers(std::time::Duration::MAX);
    for (layer, asked) in [(layer(), false), (never, true), (SseHeartbeatLayer::disabled(), true)] {
        let service = layer.layer(service_fn(move |request: Asked| async move {
            assert_eq!(request.headers().contains_key("accept-encoding"), asked);
            Ok::<_, Infallible>(stream())
        }));
        let mut request = expecting();
        request.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip"));
        service.oneshot(request).await.unwrap();
    }
}

/// What comes of an answer that cannot follow: the event, and the error.
async fn failure(answer: Response<Script>) -> (String, BoxError) {
    let answer = Arc::new(std::sync::Mutex::new(Some(answer)));
    let service = layer().layer(late(secs(20), move || answer.lock().unwrap().take().unwrap()));
    let mut body = service.oneshot(expecting()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ": keepalive\n\n");
    let event = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let failure = body.frame().await.unwrap().unwrap_err();
    assert!(body.frame().await.is_none());
    (String::from_utf8(event.to_vec()).unwrap(), failure)
}

#[tokio::test(start_paused = true)]
async fn any_other_answer_is_an_error_and_no_clean_end() {
    let mut busy = stream();
    *busy.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let (event, err) = failure(busy).await;
    assert_eq!(
        event,
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"code\":null,\"message\":\"The \
         upstream answered 429 where a stream was expected.\"}}\n\n"
    );
    assert_eq!(error::find::<UnexpectedResponse>(&err).unwrap().status, 429);

    let mut compressed = stream();
    compressed.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
    for answer in [compressed, Response::new(Script::new([Step::Data("{}")]))] {
        let (event, err) = failure(answer).await;
        assert!(event.contains("\"api_error\""), "{event}");
        assert_eq!(error::find::<UnexpectedResponse>(&err).unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn retries_run_inside_and_a_refusal_is_an_event() {
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(RetryAfterBackoffLayer::new().seed(1))
        .layer(FirstByteTimeoutLayer::new(secs(30)))
        .service(service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>()));
    let response = service.oneshot(expecting()).await.unwrap();
    let mut body = response.into_body();
    let mut text = String::new();
    let err = loop {
        match body.frame().await.unwrap() {
            Ok(frame) => text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
            Err(err) => break err,
        }
    };
    assert!(text.starts_with(": keepalive\n\n: keepalive\n\nevent: error\n"), "{text}");
    assert!(text.contains("\"timeout_error\""), "{text}");
    assert_eq!(error::find::<Rejection>(&err).unwrap().kind(), RejectionKind::FirstByteTimeout);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_an_event_too() {
    let service = service_fn(|_: Asked| async {
        tokio::time::sleep(secs(20)).await;
        Err::<Response<Script>, _>(std::io::Error::other("no connection"))
    });
    let response = layer().layer(service).oneshot(expecting()).await.unwrap();
    let trace = trace(response.into_body()).await;
    assert!(trace[1].starts_with("+10s event: error\n") && trace[2] == "+10.05s error: no connection", "{trace:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_upstream_is_given_up() {
    let layer = SseHeartbeatLayer::new(secs(15)).max_silence(secs(40)).before_headers(secs(10));
    let never = service_fn(|_: Asked| std::future::pending::<Result<Response<Script>, Infallible>>());
    let mut body = layer.layer(never).oneshot(expecting()).await.unwrap().into_body();
    let err = loop {
        if let Err(err) = body.frame().await.unwrap() {
            break err;
        }
    };
    assert_eq!(error::find::<StreamSilent>(&err).unwrap().after, secs(40));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_a_sign_of_life() {
    let layer = SseHeartbeatLayer::new(secs(15)).max_silence(secs(40)).before_headers(secs(10));
    let thinks = || events(Script::new([Step::Wait(secs(30)), Step::Data("data: a\n\n")]).unsized_());
    let body = layer.layer(late(secs(30), thinks)).oneshot(expecting()).await.unwrap().into_body();
    let trace = trace(body).await;
    assert_eq!(trace[trace.len() - 2..], ["+50s data: a\n\n", "+50s end"]);
}

struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_client_leaves_the_upstream_is_dropped() {
    let gone = Arc::new(AtomicBool::new(false));
    let held = gone.clone();
    let service = layer().layer(service_fn(move |_: Asked| {
        let held = Gone(held.clone());
        async move {
            let _held = held;
            std::future::pending::<Result<Response<Script>, Infallible>>().await
        }
    }));
    let mut body = service.oneshot(expecting()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(!gone.load(SeqCst));
    drop(body);
    assert!(gone.load(SeqCst));
}
