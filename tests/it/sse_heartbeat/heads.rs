//! Which answers get heartbeats, and what their heads then say.

use http::{HeaderValue, Method, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use tower_buttress::{HeartbeatFrame, SseHeartbeatLayer};

use super::{Asked, asked, events, through};
use crate::support::{Script, Step, secs};

fn silent() -> Script {
    Script::new([Step::Wait(secs(20)), Step::Data("data: a\n\n")]).unsized_()
}

/// What comes of `change` and a silent stream.
async fn answered(request: Asked, change: impl FnOnce(&mut Response<Script>)) -> (Response<()>, String) {
    let mut response = events(silent());
    change(&mut response);
    let (parts, body) = through(SseHeartbeatLayer::new(secs(15)), request, response).await.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (Response::from_parts(parts, ()), text)
}

#[tokio::test(start_paused = true)]
async fn a_head_says_what_holds_of_a_stream_that_is_added_to() {
    let gone = ["etag", "accept-ranges", "content-digest", "repr-digest", "digest", "content-md5"];
    let (head, text) = answered(asked(), |response| {
        for name in gone {
            response.headers_mut().insert(name, HeaderValue::from_static("\"x\""));
        }
        response.headers_mut().insert("x-other", HeaderValue::from_static("stays"));
    })
    .await;
    assert!(gone.iter().all(|name| !head.headers().contains_key(*name)), "{:?}", head.headers());
    assert_eq!(head.headers()["x-other"], "stays");
    assert_eq!(head.headers()["x-accel-buffering"], "no");
    assert_eq!(head.headers()["cache-control"], "no-cache");
    assert_eq!(text, ": keepalive\n\ndata: a\n\n");
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_said_of_caches_and_buffers_stays() {
    let (head, _) = answered(asked(), |response| {
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("yes"));
    })
    .await;
    assert_eq!(
        (&head.headers()["cache-control"], &head.headers()["x-accel-buffering"]),
        (&"no-store".parse().unwrap(), &"yes".parse().unwrap())
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_stream_of_ours_passes_untouched() {
    let header = |name: &'static str, value: &'static str| {
        move |response: &mut Response<Script>| {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
    };
    let status = |status: StatusCode| move |response: &mut Response<Script>| *response.status_mut() = status;
    type Change = Box<dyn FnOnce(&mut Response<Script>)>;
    let changes: Vec<Change> = vec![
        Box::new(header("content-type", "application/json")),
        Box::new(header("content-encoding", "gzip")),
        Box::new(header("content-length", "9")),
        Box::new(header("cache-control", "public, No-Transform")),
        Box::new(status(StatusCode::PARTIAL_CONTENT)),
        Box::new(status(StatusCode::SERVICE_UNAVAILABLE)),
        Box::new(status(StatusCode::NOT_MODIFIED)),
        Box::new(status(StatusCode::SWITCHING_PROTOCOLS)),
        Box::new(status(StatusCode::RESET_CONTENT)),
    ];
    for change in changes {
        let (head, text) = answered(asked(), change).await;
        assert_eq!(text, "data: a\n\n", "{head:?}");
        assert!(!head.headers().contains_key("x-accel-buffering"), "{head:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_who_ask_for_a_head_or_forbid_changes_get_none() {
    let mut head = asked();
    *head.method_mut() = Method::HEAD;
    let mut strict = asked();
    strict.headers_mut().insert("cache-control", HeaderValue::from_static("no-transform"));
    for request in [head, strict] {
        assert_eq!(answered(request, |_| ()).await.1, "data: a\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_stream_stays_empty() {
    let response = through(SseHeartbeatLayer::new(secs(15)), asked(), events(Script::new([]))).await;
    assert!(response.body().is_end_stream() && !response.headers().contains_key("cache-control"));
}

#[tokio::test(start_paused = true)]
async fn the_length_has_no_upper_bound() {
    let response =
        through(SseHeartbeatLayer::new(secs(15)), asked(), events(Script::new([Step::Data("data: a\n\n")]))).await;
    let hint = response.body().size_hint();
    assert_eq!((hint.lower(), hint.upper()), (9, None));
}

#[tokio::test(start_paused = true)]
async fn digests_in_trailers_go_where_something_was_added() {
    for (wait, digest) in [(1, true), (20, false)] {
        let steps = [Step::Wait(secs(wait)), Step::Data("data: a\n\n"), Step::Trailers];
        let body = Digested(Script::new(steps).unsized_());
        let response = through(SseHeartbeatLayer::new(secs(15)), asked(), events(body)).await;
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        for name in ["content-digest", "signature", "x-amz-checksum-crc32", "x-checksum"] {
            assert_eq!(trailers.contains_key(name), digest, "{name}");
        }
        assert!(trailers.contains_key("server-timing"), "the others stay");
    }
}

/// Adds digests to the trailers, and what is none.
struct Digested(Script);

impl Body for Digested {
    type Data = bytes::Bytes;
    type Error = tower_buttress::error::BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx).map_ok(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                for name in ["content-digest", "signature", "x-amz-checksum-crc32", "server-timing"] {
                    trailers.insert(name, HeaderValue::from_static("x"));
                }
            }
            frame
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_can_have_a_frame_of_its_own() {
    let mut request = asked();
    request.extensions_mut().insert(HeartbeatFrame::BareNewline);
    assert_eq!(answered(request.clone(), |_| ()).await.1, "\ndata: a\n\n");
    let custom = HeartbeatFrame::custom(": thinking\n\n").unwrap();
    let (_, text) = answered(request, |response| drop(response.extensions_mut().insert(custom))).await;
    assert_eq!(text, ": thinking\n\ndata: a\n\n");
}
