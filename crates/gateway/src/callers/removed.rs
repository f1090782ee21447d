//! Ends waiting calls whose caller key is removed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Either;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};
use tower_buttress::ServedBy;

use crate::answer_body::AnswerBody;
use crate::problem;

/// In a request's extensions: cancelled when the caller's key is removed.
#[derive(Clone, Debug)]
pub(crate) struct KeyRemoval(pub(super) CancellationToken);

/// Ends a call when its key is removed before it has an answer. An answer that has begun continues to its end.
///
/// Sits inside the heartbeats, so that a stream that began early ends with an error event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemovedKeyLayer;

/// The service of [`RemovedKeyLayer`].
#[derive(Clone, Debug)]
pub(crate) struct RemovedKey<S> {
    inner: S,
}

pin_project! {
    /// The future of [`RemovedKey`].
    pub(crate) struct RemovedKeyFuture<F> {
        #[pin]
        call: F,
        #[pin]
        removal: Option<WaitForCancellationFutureOwned>,
    }
}

// === impl KeyRemoval ===

impl KeyRemoval {
    /// Completes when the key is removed.
    pub(crate) async fn wait(self) {
        self.0.cancelled_owned().await;
    }
}

// === impl RemovedKeyLayer ===

impl<S> Layer<S> for RemovedKeyLayer {
    type Service = RemovedKey<S>;

    fn layer(&self, inner: S) -> RemovedKey<S> {
        RemovedKey { inner }
    }
}

// === impl RemovedKey ===

impl<S, A, B> Service<Request<A>> for RemovedKey<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<Either<B, AnswerBody>>;
    type Error = S::Error;
    type Future = RemovedKeyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let removal = request.extensions().get().map(|KeyRemoval(token)| token.clone().cancelled_owned());
        RemovedKeyFuture { call: self.inner.call(request), removal }
    }
}

// === impl RemovedKeyFuture ===

impl<F, B, E> Future for RemovedKeyFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
{
    type Output = Result<Response<Either<B, AnswerBody>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Polled first: a removed key starts no call and gets no answer, even one that is ready.
        if this.removal.as_pin_mut().is_none_or(|removal| removal.poll(cx).is_pending()) {
            return this.call.poll(cx).map_ok(|answer| answer.map(Either::Left));
        }
        let mut answer = problem::removed_key().map(Either::Right);
        answer.extensions_mut().insert(ServedBy::new("gateway"));
        Poll::Ready(Ok(answer))
    }
}
