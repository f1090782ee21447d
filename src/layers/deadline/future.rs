use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::DeadlineBody;
use crate::error::BoxError;
use crate::event::{Emitter, Event};
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::deadline::Deadline;
use crate::rt::timer::LazyTimer;

pin_project! {
    /// The future of [`DeadlineService`](crate::DeadlineService).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineFuture<F> {
        // `None`: refused, and dropped.
        #[pin]
        call: Option<F>,
        limit: Option<Limit>,
        wire: RejectionFormat,
    }
}

/// The deadline of one call, and what it takes to keep it: first the future has it, then the body.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) deadline: Deadline,
    pub(super) total: Duration,
    pub(super) timer: LazyTimer,
    pub(super) emitter: Emitter,
}

// === impl DeadlineFuture ===

impl<F> DeadlineFuture<F> {
    pub(super) fn unlimited(call: F) -> Self {
        Self { call: Some(call), limit: None, wire: RejectionFormat::Http }
    }

    pub(super) fn limited(call: F, limit: Limit, wire: RejectionFormat) -> Self {
        Self { call: Some(call), limit: Some(limit), wire }
    }

    #[cold]
    pub(super) fn spent(wire: RejectionFormat, emitter: &Emitter) -> Self {
        emitter.emit(&Event::Refused { kind: RejectionKind::DeadlineExceeded });
        Self { call: None, limit: None, wire }
    }
}

impl<F, B, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            let polled = match this.limit {
                Some(limit) => {
                    let _entered = limit.deadline.enter();
                    call.poll(cx)
                }
                None => call.poll(cx),
            };
            if let Poll::Ready(result) = polled {
                return Poll::Ready(result.map(|response| DeadlineBody::limited(response, this.limit.take())));
            }
            // Without a limit there is nothing to wait for but the call.
            let Some(limit) = this.limit else { return Poll::Pending };
            ready!(limit.timer.poll_until(limit.deadline.instant(), cx));
            limit.emitter.emit(&Event::Refused { kind: RejectionKind::DeadlineExceeded });
        }
        this.call.set(None);
        let rejection = Rejection::new(RejectionKind::DeadlineExceeded);
        Poll::Ready(Ok(DeadlineBody::refuse(rejection, *this.wire)))
    }
}

// === impl Limit ===

impl Limit {
    pub(super) fn new(deadline: Deadline, total: Duration, emitter: Emitter) -> Self {
        Self { deadline, total, timer: LazyTimer::default(), emitter }
    }
}
