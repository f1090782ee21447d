//! The upstream of all proxies.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower_buttress::error::BoxError;

use super::sockets::{self, Party};

/// Answers over HTTP/1.1, with and without TLS.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    pub(crate) tls_addr: SocketAddr,
    asked: Arc<AtomicU64>,
}

/// A request header: milliseconds between two events of a stream. Without it they come at once.
pub(crate) const GAP: HeaderName = HeaderName::from_static("x-gap");

/// A request header: the stream is silent after this many events.
pub(crate) const SILENT_AFTER: HeaderName = HeaderName::from_static("x-silent-after");

/// The number of events in a stream, including `[DONE]`.
pub(crate) const EVENTS: usize = 101;

type Body = UnsyncBoxBody<Bytes, BoxError>;

// === impl Origin ===

impl Origin {
    pub(crate) async fn start(party: &Party) -> Result<Self, BoxError> {
        let asked = Arc::<AtomicU64>::default();
        let mut addrs = Vec::new();
        for tls in [None, Some(party.acceptor())] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            addrs.push(listener.local_addr()?);
            let asked = asked.clone();
            let service = service_fn(move |request| {
                asked.fetch_add(1, Relaxed);
                answer(request)
            });
            tokio::spawn(sockets::serve(listener, tls, service));
        }
        let [addr, tls_addr] = addrs.as_slice() else { return Err("no address".into()) };
        Ok(Self { addr: *addr, tls_addr: *tls_addr, asked })
    }

    /// The number of calls.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET {
        return Ok(json(
            r#"{"object":"list","data":[{"id":"sim","object":"model","created":1700000000,"owned_by":"us"}]}"#,
        ));
    }
    // The proxies see callers that leave.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let is_stream = body.windows(13).any(|part| part == br#""stream":true"#);
    if !is_stream {
        return Ok(json(
            r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"sim","choices":[{"index":0,"message":{"role":"assistant","content":"The answer is forty-two, as it has been for a while, and as it will be."},"finish_reason":"stop"}],"usage":{"prompt_tokens":180,"completion_tokens":17,"total_tokens":197}}"#,
        ));
    }
    let number = |name| head.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let (gap, silent_after) = (number(GAP).map(Duration::from_millis), number(SILENT_AFTER));
    let events = stream::unfold(0, move |nth| async move {
        if silent_after.is_some_and(|last| last == nth) {
            std::future::pending::<()>().await;
        }
        if let Some(gap) = gap.filter(|_| nth > 0) {
            sleep(gap).await;
        }
        Some((Ok(Frame::data(event(nth)?)), nth + 1))
    });
    let mut answer = Response::new(StreamBody::new(events).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(answer)
}

fn event(nth: u64) -> Option<Bytes> {
    const LAST: u64 = EVENTS as u64 - 2;
    Some(match nth {
        0..LAST => Bytes::from_static(
            b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n",
        ),
        LAST => Bytes::from_static(
            b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"sim\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        ),
        _ if nth == LAST + 1 => Bytes::from_static(b"data: [DONE]\n\n"),
        _ => return None,
    })
}

fn json(text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
