//! The provider and its faults.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower_buttress::error::BoxError;

use super::answers::{Answer, mix};

/// Answers calls over HTTP/1.1 and HTTP/2.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    addr: SocketAddr,
    asked: Arc<AtomicU64>,
}

/// The fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Status(u16),
    /// Closes the connection before the head.
    NoHead,
    /// Closes it within the answer.
    Cut,
    /// Ends the answer cleanly but early.
    EndsEarly,
    /// Sends nothing more.
    Stalls,
    /// Sends an error in the stream.
    Tells,
}

/// The shares of 1,000 calls.
const MIX: [(u64, Fault); 7] = [
    (25, Fault::Status(500)),
    (15, Fault::Status(429)),
    (15, Fault::NoHead),
    (35, Fault::Cut),
    (15, Fault::EndsEarly),
    (10, Fault::Stalls),
    (10, Fault::Tells),
];

type Body = UnsyncBoxBody<Bytes, BoxError>;

// === impl Provider ===

impl Provider {
    pub(crate) async fn start(gap: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let provider = Self { addr: listener.local_addr()?, asked: Arc::default() };
        let asked = provider.asked.clone();
        tokio::spawn(async move {
            loop {
                // The gateway closed its side, or there are no descriptors left: it retries.
                let Ok((socket, _)) = listener.accept().await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let _ = socket.set_nodelay(true);
                let asked = asked.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, asked.fetch_add(1, Relaxed), gap));
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(10_000);
                    // Faults end it with an error.
                    let _ = builder.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Ok(provider)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The number of calls.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }
}

async fn answer(request: Request<Incoming>, number: u64, gap: Duration) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
    let call = body["messages"][0]["content"].as_str().and_then(|call| call.parse().ok()).ok_or("no number")?;
    let (answer, begins) = left_off(&head.headers).unwrap_or((Answer { call, version: number }, 0));
    let fault = fault(number);
    match fault {
        Fault::NoHead => return Err("closed before the head".into()),
        Fault::Status(status) => {
            let error = r#"{"error":{"message":"It fails.","type":"server_error","code":null}}"#;
            let response = Response::builder().status(status).header(CONTENT_TYPE, "application/json");
            return Ok(response.header("retry-after", "1").body(full(error))?);
        }
        _ => {}
    }
    let is_stream = body["stream"].as_bool().unwrap_or_default();
    if !is_stream {
        sleep(gap * 5).await;
        let (mut text, is_broken) = (answer.object(), fault != Fault::None);
        if is_broken {
            text.truncate(text.len() / 2);
        }
        let parts = [Some(Ok(Frame::data(Bytes::from(text)))), is_broken.then(|| Err("cut".into()))];
        let body = StreamBody::new(stream::iter(parts.into_iter().flatten())).boxed_unsync();
        return Ok(Response::builder().header(CONTENT_TYPE, "application/json").body(body)?);
    }
    // An answer with its finish reason is whole, with or without `[DONE]`: faults come before it.
    let most = answer.len().saturating_sub(2 + begins);
    let fault = if most == 0 { Fault::None } else { fault };
    let ends = if fault == Fault::None { answer.len() } else { begins + mix(number, 4) % most };
    let events = stream::unfold(begins, move |nth| async move {
        // Half of the gap on average, never all at once.
        sleep(gap / 2 + gap.mul_f64((mix(number, nth) % 100) as f64 / 100.0)).await;
        let event = match fault {
            _ if nth < ends => answer.event(nth)?,
            Fault::Tells if nth == ends => {
                r#"data: {"error":{"message":"It fails.","type":"server_error"}}"#.to_owned()
            }
            Fault::Cut => return Some((Err(BoxError::from("cut")), nth)),
            Fault::Stalls => std::future::pending().await,
            _ => return None,
        };
        let id = if answer.has_ids() && nth < ends { format!("id: {}\n", answer.id(nth)) } else { String::new() };
        Some((Ok(Frame::data(Bytes::from(format!("{id}{event}\n\n")))), nth + 1))
    });
    let body = StreamBody::new(events).boxed_unsync();
    Ok(Response::builder().header(CONTENT_TYPE, HeaderValue::from_static("text/event-stream")).body(body)?)
}

/// Where a broken stream continues.
fn left_off(headers: &HeaderMap) -> Option<(Answer, u64)> {
    let (answer, next) = Answer::of_id(headers.get("last-event-id")?.to_str().ok()?)?;
    (next < answer.len()).then_some((answer, next))
}

fn fault(number: u64) -> Fault {
    let mut draw = mix(number, 3) % 1_000;
    for (share, fault) in MIX {
        match draw.checked_sub(share) {
            Some(rest) => draw = rest,
            None => return fault,
        }
    }
    Fault::None
}

fn full(text: &'static str) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}
