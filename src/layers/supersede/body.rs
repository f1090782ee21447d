use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::config::Config;
use super::shared::ConversationCall;
use crate::body::boxed::{self, Polled};
use crate::body::observed::{BodyEnd, BodyObserver, Observed};
use crate::body::response::ResponseBody;
use crate::error::{BoxError, Superseded};
use crate::event::Event;
use crate::rejection::{Rejection, RejectionFormat};
use crate::rt::cancellation::Cancellation;

pin_project! {
    /// The response body of [`Supersede`](crate::supersede::Supersede): it fails when a newer message replaces its own.
    pub struct SupersedeBody<B> {
        // `None`: it was superseded.
        #[pin]
        body: Option<Observed<ResponseBody<B>, Box<EndObserver>>>,
        // `None`: it cannot be superseded, or no more.
        ends: Option<CancelWatch>,
    }
}

/// Holds a call until its body has ended.
pub(super) struct EndObserver {
    pub(super) call: Option<ConversationCall>,
    /// Whether clients do not retry the complete answer.
    pub(super) is_final: bool,
}

/// Ends the body when its call is cancelled.
struct CancelWatch {
    cancellation: Cancellation,
    config: Arc<Config>,
}

// === impl SupersedeBody ===

impl<B> SupersedeBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    /// That of a request that passes.
    pub(super) fn untouched(body: B) -> Self {
        Self { body: Some(Observed::new(ResponseBody::inner(body), None)), ends: None }
    }

    /// That of a message.
    pub(super) fn watched(body: B, call: ConversationCall, is_final: bool, config: Arc<Config>) -> Self {
        let ends = Some(CancelWatch { cancellation: call.cancellation().clone(), config });
        let watching = EndObserver { call: Some(call), is_final };
        Self { body: Some(Observed::new(ResponseBody::inner(body), Some(Box::new(watching)))), ends }
    }

    #[cold]
    pub(super) fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        ResponseBody::refuse(rejection, format).map(|body| Self { body: Some(Observed::new(body, None)), ends: None })
    }
}

impl<B> SupersedeBody<B> {
    /// Drops the inner body first, which ends the upstream call.
    #[cold]
    fn end(self: Pin<&mut Self>) -> Polled {
        let mut this = self.project();
        this.body.set(None);
        let Some(CancelWatch { config, .. }) = this.ends.take() else { return Poll::Ready(None) };
        config.emitter.emit(&Event::Superseded);
        Poll::Ready(Some(Err(Superseded::new().into())))
    }
}

impl<B> Body for SupersedeBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.as_mut().project();
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let Some(ends) = this.ends.as_ref() else { return body.poll_frame(cx) };
        if ends.cancellation.is_cancelled() {
            return self.end();
        }
        let polled = body.poll_frame(cx);
        if polled.is_pending() {
            boxed::discard_pending(polled);
            return if ends.cancellation.poll(cx).is_ready() { self.end() } else { Poll::Pending };
        }
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            *this.ends = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B> fmt::Debug for SupersedeBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupersedeBody").field("superseded", &self.body.is_none()).finish_non_exhaustive()
    }
}

// === impl EndObserver ===

impl BodyObserver for EndObserver {
    fn data(&mut self, _empty: bool) {}

    fn trailers(&mut self, _trailers: &HeaderMap) {}

    fn over(&mut self, end: BodyEnd<'_>) {
        let call = self.call.take();
        if let (BodyEnd::Complete, true, Some(call)) = (end, self.is_final, call) {
            call.answered();
        }
    }
}
