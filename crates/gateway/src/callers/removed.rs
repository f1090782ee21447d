//! Ends waiting calls whose caller key is removed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::{Layer, Service};
use tower_buttress::ServedBy;
use tower_buttress::error::BoxError;

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

pin_project! {
    /// The response body of [`RemovedKey`]. `Either` would take each frame apart to map its error, which needs none.
    #[project = BodyProj]
    pub(crate) enum RemovedKeyBody<B> {
        Answer { #[pin] body: B },
        Refusal { body: AnswerBody },
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
{
    type Response = Response<RemovedKeyBody<B>>;
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
{
    type Output = Result<Response<RemovedKeyBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Polled first: a removed key starts no call and gets no answer, even one that is ready.
        if this.removal.as_pin_mut().is_none_or(|removal| removal.poll(cx).is_pending()) {
            return this.call.poll(cx).map_ok(|answer| answer.map(|body| RemovedKeyBody::Answer { body }));
        }
        let mut answer = problem::removed_key().map(|body| RemovedKeyBody::Refusal { body });
        answer.extensions_mut().insert(ServedBy::new("gateway"));
        Poll::Ready(Ok(answer))
    }
}

// === impl RemovedKeyBody ===

impl<B: Body<Data = Bytes, Error = BoxError>> Body for RemovedKeyBody<B> {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            BodyProj::Answer { body } => body.poll_frame(cx),
            BodyProj::Refusal { body } => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer { body } => body.is_end_stream(),
            Self::Refusal { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Answer { body } => body.size_hint(),
            Self::Refusal { body } => body.size_hint(),
        }
    }
}
