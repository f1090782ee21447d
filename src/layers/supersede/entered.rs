//! A message in its conversation, from when it was read to the head of its answer.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::body::SupersedeBody;
use super::config::Config;
use super::reading::Arrived;
use super::shared::ConversationCall;
use super::waiting::Waiting;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::supersede::Refusal;
use crate::proto::retry_after;
use crate::rejection::RejectionKind;
use crate::rt::cancellation::GoesOn;

/// A message in its conversation.
pub(super) struct EnteredMessage {
    call: ConversationCall,
    /// `None`: it has its turn.
    waiting: Option<Box<Waiting>>,
    config: Arc<Config>,
}

// === impl EnteredMessage ===

impl EnteredMessage {
    /// A message that was read comes to its conversation.
    pub(super) fn enter(request: &mut Request<CallBody>, arrived: Arrived) -> Result<Self, RejectionKind> {
        let Arrived { message, order, config, shared } = arrived;
        let kind = match shared.arrive(&message, order, &config) {
            Ok(call) => {
                request.extensions_mut().insert(call.cancellation().clone());
                let waiting = (!call.goes_at_once()).then(Box::default);
                return Ok(Self { call, waiting, config });
            }
            Err(Refusal::Superseded) => RejectionKind::Superseded,
            Err(Refusal::Busy) => RejectionKind::ConversationBusy,
        };
        config.emitter.emit(&Event::Refused { kind });
        Err(kind)
    }

    /// Whether its turn came with it.
    pub(super) fn goes_at_once(&self) -> bool {
        self.waiting.is_none()
    }

    /// Ready when its call may be made.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(()) };
        if waiting.poll(&self.call, cx).is_pending() {
            // Its turn may have come meanwhile: it is looked at once more, with a waker in place.
            if self.call.poll_cancelled(cx).is_ready() {
                return Poll::Pending;
            }
            ready!(waiting.poll(&self.call, cx));
        }
        self.waiting = None;
        Poll::Ready(())
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.call.cancellation().is_cancelled()
    }

    /// Ready when its call is to end.
    pub(super) fn poll_superseded(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.call.poll_cancelled(cx)
    }

    /// Another message has taken its place, before there was an answer.
    pub(super) fn superseded(self) {
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::Superseded });
    }

    /// The head of its answer is here.
    pub(super) fn answered<B>(self, response: Response<B>) -> Response<SupersedeBody<B>>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError> + 'static,
    {
        let Self { call, config, .. } = self;
        // An answer that comes later, and elsewhere: until then a newer message takes its place.
        let goes_on = response.extensions().get::<GoesOn>().is_some();
        let is_final = !goes_on && !retry_after::is_retried(response.status(), response.headers());
        let is_over = response.body().is_end_stream();
        if is_over && is_final {
            // Nothing is remembered of it.
            call.answered();
            return response.map(SupersedeBody::untouched);
        }
        if response.status().is_success() && !goes_on {
            call.served();
        }
        if is_over {
            return response.map(SupersedeBody::untouched);
        }
        response.map(|body| SupersedeBody::watched(body, call, is_final, config))
    }
}
