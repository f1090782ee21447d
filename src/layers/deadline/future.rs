use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::DeadlineBody;
use super::limit::DeadlineLimit;
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::event::Event;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};

pin_project! {
    /// The future of [`DeadlineService`](crate::deadline::DeadlineService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineFuture<F> {
        // `None`: refused, and dropped.
        #[pin]
        call: Option<F>,
        limit: Option<DeadlineLimit>,
        format: RejectionFormat,
    }
}

// === impl DeadlineFuture ===

impl<F> DeadlineFuture<F> {
    /// `call`: `None` if it is refused at once, with this format. `limit`: `None` if it has no deadline.
    pub(super) fn new(call: Option<F>, limit: Option<DeadlineLimit>, format: RejectionFormat) -> Self {
        Self { call, limit, format }
    }
}

impl<F, B, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            let polled = {
                let _entered = this.limit.as_ref().map(DeadlineLimit::enter);
                call.poll(cx)
            };
            if let Poll::Ready(result) = polled {
                return Poll::Ready(
                    result.map(|response| response.map(|body| DeadlineBody::new(body, this.limit.take()))),
                );
            }
            // Without a limit there is nothing to wait for but the call.
            let Some(limit) = this.limit else { return Poll::Pending };
            ready!(limit.poll_passed(cx));
            limit.emitter.emit(&Event::Refused { kind: RejectionKind::DeadlineExceeded });
        }
        this.call.set(None);
        let rejection = Rejection::new(RejectionKind::DeadlineExceeded);
        Poll::Ready(Ok(DeadlineBody::refuse(rejection, *this.format)))
    }
}
