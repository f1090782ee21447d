use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::error::{BoxError, BoxedError};
use crate::rt::layered::Layered;

/// Converts the errors of its service.
#[derive(Clone, Copy, Debug)]
pub struct ConvertsErrors;

/// A service whose error is a [`BoxedError`]. See [`AnyErrorLayer`](crate::AnyErrorLayer).
pub type AnyError<S> = Layered<S, ConvertsErrors>;

pin_project! {
    /// The future of [`AnyError`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct AnyErrorFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<S, R> Service<R> for Layered<S, ConvertsErrors>
where
    S: Service<R, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxedError;
    type Future = AnyErrorFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxedError>> {
        self.inner.poll_ready(cx).map_err(|err| BoxedError::new(err.into()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        AnyErrorFuture { inner: self.inner.call(request) }
    }
}

// === impl AnyErrorFuture ===

impl<F, T, E> Future for AnyErrorFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxedError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx).map_err(|err| BoxedError::new(err.into()))
    }
}
