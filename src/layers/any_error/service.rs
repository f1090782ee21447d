use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::error::{BoxError, BoxedError};

/// A service whose error is a [`BoxedError`]. See [`AnyErrorLayer`](crate::AnyErrorLayer).
#[derive(Clone, Debug)]
pub struct AnyError<S> {
    inner: S,
}

pin_project! {
    /// The future of [`AnyError`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct AnyErrorFuture<F> {
        #[pin]
        inner: F,
    }
}

// === impl AnyError ===

impl<S> AnyError<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self { inner }
    }

    /// The inner service.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, R> Service<R> for AnyError<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
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
