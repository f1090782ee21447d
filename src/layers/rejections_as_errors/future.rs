use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use crate::error::BoxError;
use crate::rejection::Rejection;

pin_project! {
    /// The future of [`RejectionsAsErrors`](crate::rejections_as_errors::RejectionsAsErrors).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct RejectionsAsErrorsFuture<F> {
        #[pin]
        inner: F,
        enabled: bool,
    }
}

// === impl RejectionsAsErrorsFuture ===

impl<F> RejectionsAsErrorsFuture<F> {
    pub(super) fn new(inner: F, enabled: bool) -> Self {
        Self { inner, enabled }
    }
}

impl<F, B, E> Future for RejectionsAsErrorsFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx)).map_err(Into::into)?;
        match Rejection::of(&response) {
            Some(rejection) if *this.enabled => Poll::Ready(Err(rejection.clone().into())),
            _ => Poll::Ready(Ok(response)),
        }
    }
}
