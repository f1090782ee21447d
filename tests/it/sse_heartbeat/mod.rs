//! Heartbeats: where they go, when, and what becomes of the rest.

mod before_headers;
mod dialects;
mod harmless;
mod heads;
mod notices;
mod silence;
mod sockets;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Empty;
use tokio::time::Sleep;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::error::BoxError;

type Asked = Request<Empty<Bytes>>;

fn asked() -> Asked {
    Request::new(Empty::new())
}

/// An event stream with this body.
fn events<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

/// What comes of one request when the service inside answers with `response`.
async fn through<L, B, R>(layer: L, request: Asked, response: Response<B>) -> Response<R>
where
    L: Layer<Once<B>>,
    L::Service: Service<Asked, Response = Response<R>, Error = Infallible>,
    B: Send + 'static,
{
    let Ok(response) = layer.layer(Once(Some(response))).oneshot(request).await;
    response
}

/// Answers once.
struct Once<B>(Option<Response<B>>);

impl<B> Service<Asked> for Once<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Asked) -> Self::Future {
        std::future::ready(Ok(self.0.take().expect("called once")))
    }
}

/// A body of any bytes, each piece after a wait.
struct Pieces {
    pieces: VecDeque<(Duration, Bytes)>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pieces {
    fn new(pieces: impl IntoIterator<Item = (Duration, Bytes)>) -> Self {
        Self { pieces: pieces.into_iter().collect(), sleep: None }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some((wait, _)) = self.pieces.front() else { return Poll::Ready(None) };
        let wait = *wait;
        if !wait.is_zero() {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            std::task::ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        let piece = self.pieces.pop_front().map(|(_, piece)| Ok(Frame::data(piece)));
        Poll::Ready(piece)
    }
}

/// A service that takes so long to answer.
fn late<B, F>(
    wait: Duration,
    answer: F,
) -> impl Service<Asked, Response = Response<B>, Error = Infallible, Future: Send>
where
    F: Fn() -> Response<B> + Send + Sync + Clone + 'static,
    B: Send + 'static,
{
    service_fn(move |_| {
        let answer = answer.clone();
        async move {
            tokio::time::sleep(wait).await;
            Ok(answer())
        }
    })
}
