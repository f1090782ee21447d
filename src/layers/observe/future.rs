use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::ObserveBody;
use super::call::ObservedCall;
use super::outcome::CallEnd;

pin_project! {
    /// The future of [`Observe`](super::Observe).
    #[must_use = "futures do nothing unless polled"]
    pub struct ObserveFuture<F> {
        #[pin]
        inner: F,
        call: Option<ObservedCall>,
    }
}

// === impl ObserveFuture ===

impl<F> ObserveFuture<F> {
    pub(super) const fn new(inner: F, call: Option<ObservedCall>) -> Self {
        Self { inner, call }
    }
}

impl<F, B, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ObserveBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = match this.call {
            None => this.inner.poll(cx),
            Some(call) => call.within(|| this.inner.poll(cx)),
        };
        let Poll::Ready(result) = polled else { return Poll::Pending };
        let mut call = this.call.take();
        if let Some(call) = &mut call {
            match &result {
                Ok(response) => call.head(response.status()),
                Err(_) => call.ended(CallEnd::Failed),
            }
        }
        Poll::Ready(result.map(|response| response.map(|body| ObserveBody::new(body, call))))
    }
}

impl<F> fmt::Debug for ObserveFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveFuture").finish_non_exhaustive()
    }
}
