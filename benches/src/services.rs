//! The bare service, and how services are called.

use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use tower::{Layer, Service};

/// Answers every request with an empty body.
#[derive(Clone, Copy, Debug)]
pub struct Bare {
    /// Whether the answer is pending once.
    pub pending: bool,
    /// Whether it reads the request's body first.
    pub reads: bool,
}

/// Its answer.
#[derive(Debug)]
pub struct Answer {
    pending: bool,
}

/// Answers once, with this body.
#[derive(Debug)]
pub struct Once<B>(Option<B>);

impl<B: Body + Unpin> Service<Request<B>> for Bare {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<B>) -> Answer {
        if self.reads {
            let mut body = request.into_body();
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(_)) = black_box(Pin::new(&mut body).poll_frame(&mut cx)) {}
        }
        Answer { pending: self.pending }
    }
}

impl Future for Answer {
    type Output = Result<Response<Empty<Bytes>>, Infallible>;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::take(&mut self.pending) { Poll::Pending } else { Poll::Ready(Ok(Response::new(Empty::new()))) }
    }
}

impl<B, R> Service<Request<R>> for Once<B> {
    type Response = Response<B>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<B>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<R>) -> Self::Future {
        std::future::ready(Ok(Response::new(self.0.take().expect("called once"))))
    }
}

/// `body` through `layer`.
pub fn through<L, B, R>(layer: L, body: B) -> R
where
    L: Layer<Once<B>>,
    L::Service: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
{
    let mut service = layer.layer(Once(Some(body)));
    let Ok(response) = finish(service.call(Request::new(Empty::new())));
    response.into_body()
}

/// Calls a number of times, with an empty body.
pub fn call<S: Service<Request<Empty<Bytes>>>>(mut service: S, calls: u64) {
    for _ in 0..calls {
        drop(black_box(finish(service.call(Request::new(Empty::new())))));
    }
}

/// Calls a number of times, with a body of one frame.
pub fn upload<S: Service<Request<Full<Bytes>>>>(mut service: S, calls: u64) {
    for _ in 0..calls {
        drop(black_box(finish(service.call(Request::new(Full::new(Bytes::from_static(b"{\"stream\":true}")))))));
    }
}

/// Calls a number of times, each with a request of its own.
pub fn send<S: Service<R>, R>(mut service: S, request: impl Fn() -> R, calls: u64) {
    for _ in 0..calls {
        drop(black_box(finish(service.call(request()))));
    }
}

/// Runs a future to its end, without a runtime.
pub fn finish<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = poll(future.as_mut(), &mut cx) {
            return output;
        }
    }
}

/// The call of a runtime: not inlined into the loop that makes it.
#[inline(never)]
fn poll<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(cx)
}
