//! Callers that come back to an answer read the events after their event's id, in any stream. With a made-up id they
//! read no event that was not sent.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::proto::sse::{Item, Parser};
use tower_buttress::{DedupLayer, Resumable, Tenant};

pub(crate) const VOCABULARY: &[&[u8]] = &[
    // Separates the stream from the made-up id.
    b"\xFF",
    b"\n",
    b"\r\n\r\n",
    b"\r",
    b"\xEF\xBB\xBF",
    b"data: a\n\n",
    b"data: b\r\ndata: c\r\n\r\n",
    b"data: d\r\r",
    b"event: e\ndata: f\n\n",
    b"id: 0000000000000000.7\ndata: g\n\n",
    b"id\n\n",
    b"id: \0\ndata: h\n\n",
    b": comment\n\n",
    b": comment\r\r",
    b"retry: 1\n\n",
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n",
    b"data: [DONE]\n\n",
    b"0000000000000000.",
    b"0000000000000001.0",
    b".18446744073709551615",
    b".18446744073709551616",
];

/// A body in pieces that ends cleanly or breaks.
struct Pieces {
    left: VecDeque<Bytes>,
    breaks: bool,
}

/// A caller's view: the events, each with the id after it, and whether the body ended cleanly.
struct Heard {
    events: Vec<(String, String)>,
    ids: Vec<String>,
    is_whole: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.left.pop_front() {
            Some(piece) => Some(Ok(Frame::data(piece))),
            None => self.breaks.then(|| Err(io::ErrorKind::ConnectionReset.into())),
        })
    }
}

/// The first bytes choose the size of the pieces, and whether the stream breaks; the rest is the stream and an id.
pub(crate) fn run(input: &[u8]) {
    let (choices, input) = input.split_at(input.len().min(2));
    let choice = |at: usize| usize::from(choices.get(at).copied().unwrap_or_default());
    let (size, breaks) = (choice(0) % 64 + 1, choice(1) % 4 == 0);
    let mut parts = input.splitn(2, |byte| *byte == 0xFF);
    let stream = Bytes::copy_from_slice(parts.next().unwrap_or_default());
    let id = parts.next().unwrap_or_default();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() else {
        return;
    };
    runtime.block_on(async {
        let upstream = service_fn(move |_: Request<_>| {
            let left = stream.chunks(size).map(Bytes::copy_from_slice).collect();
            let mut response = Response::new(Pieces { left, breaks });
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            async move { Ok::<_, Infallible>(response) }
        });
        let mut service = DedupLayer::new().resumable(Resumable::at("/answers")).layer(upstream);
        come_back(&mut service, id).await;
    });
}

async fn come_back<S, B>(service: &mut S, made_up: &[u8])
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes> + Unpin,
{
    let first =
        Request::post("/v1/runs").header("idempotency-key", "k").extension(Tenant::new("t")).body(Full::from("{}"));
    let Ok(response) = ask(service, first).await else { return };
    let location = response.headers().get("content-location").and_then(|at| at.to_str().ok()).map(str::to_owned);
    let Some(location) = location else { return };
    let heard = hear(response.into_body()).await;
    for (at, id) in heard.ids.iter().enumerate().take(8) {
        let left = heard.events.get(at + 1..).unwrap_or_default();
        let Ok(response) =
            ask(service, Request::get(&location).header("last-event-id", id).body(Full::default())).await
        else {
            continue;
        };
        let status = response.status();
        let rest = hear(response.into_body()).await;
        match status {
            StatusCode::OK => {
                assert_eq!(rest.is_whole, heard.is_whole, "behind {id}");
                assert_eq!(rest.events, left, "behind {id}");
            }
            StatusCode::NO_CONTENT => assert!(left.is_empty() && heard.is_whole, "there is more behind {id}"),
            status => assert!(!heard.is_whole, "{status} behind {id}"),
        }
    }
    let made_up = Request::get(&location).header("last-event-id", made_up).body(Full::default());
    if let Ok(response) = ask(service, made_up).await {
        let status = response.status().as_u16();
        assert!([200, 204, 410, 412].contains(&status), "{status}");
        let rest = hear(response.into_body()).await;
        assert!(status != 200 || heard.events.ends_with(&rest.events), "it has what was not said");
    }
}

async fn ask<S>(service: &mut S, request: http::Result<Request<Full<Bytes>>>) -> http::Result<S::Response>
where
    S: Service<Request<Full<Bytes>>, Error = Infallible>,
{
    let request = request?;
    let Ok(ready) = service.ready().await;
    let Ok(response) = ready.call(request).await;
    Ok(response)
}

async fn hear<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Heard {
    let (mut text, mut is_whole) = (Vec::new(), true);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => is_whole = false,
        }
    }
    let (mut parser, mut rest) = (Parser::new(), &text[..]);
    let mut heard = Heard { events: Vec::new(), ids: Vec::new(), is_whole };
    while let Some(item) = parser.next(&mut rest) {
        if let Item::Message(message) = item {
            heard.events.push((message.event_type.into_owned(), message.data.into_owned()));
            heard.ids.push(message.last_event_id.into_owned());
        }
    }
    heard
}
