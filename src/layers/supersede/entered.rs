//! A message in its conversation, from when it was read to the head of its answer.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::SupersedeBody;
use super::cancel_watch::CancelWatch;
use super::config::Config;
use super::reading::Arrived;
use super::shared::ConversationCall;
use super::waiting::Waiting;
use crate::body::observed::Observed;
use crate::body::request::CallBody;
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::supersede::Refusal;
use crate::proto::{grpc, retry_after};
use crate::rejection::RejectionKind;
use crate::rt::cancellation::GoesOn;
use crate::rt::ready::ReadyCall;

/// A message in its conversation.
pub(super) struct EnteredMessage {
    call: ConversationCall,
    /// `None`: it has its turn.
    waiting: Option<Box<Waiting>>,
    config: Arc<Config>,
}

// === impl EnteredMessage ===

impl EnteredMessage {
    /// Adds a message that was read to its conversation.
    pub(super) fn enter<S: Service<Request<CallBody>>>(
        service: S,
        mut request: Request<CallBody>,
        arrived: Arrived,
    ) -> Result<(ReadyCall<S, Request<CallBody>>, Self), RejectionKind> {
        let Arrived { message, order, config, shared } = arrived;
        let kind = match shared.arrive(&message, order, &config) {
            Ok(call) => {
                request.extensions_mut().insert(call.cancellation().clone());
                return Ok(if call.goes_at_once() {
                    (ReadyCall::new(service, request), Self { call, waiting: None, config })
                } else {
                    (ReadyCall::parked(service, request), Self { call, waiting: Some(Box::default()), config })
                });
            }
            Err(Refusal::Superseded) => RejectionKind::Superseded,
            Err(Refusal::Busy) => RejectionKind::ConversationBusy,
        };
        config.emitter.emit(&Event::Refused { kind });
        Err(kind)
    }

    /// Polls its `call` when it has its turn. Ready with `None` if another message has replaced it before its answer.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        call: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        if !self.call.cancellation().is_cancelled() {
            if self.poll_turn(cx).is_ready() {
                if let Poll::Ready(answered) = call(cx) {
                    return Poll::Ready(Some(answered));
                }
            }
            ready!(self.call.poll_cancelled(cx));
        }
        self.config.emitter.emit(&Event::Refused { kind: RejectionKind::Superseded });
        Poll::Ready(None)
    }

    /// Ready when its call may start.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(()) };
        if waiting.poll(&self.call, cx).is_pending() {
            // Its turn may have come meanwhile: check once more, with a waker in place.
            if self.call.poll_cancelled(cx).is_ready() {
                return Poll::Pending;
            }
            ready!(waiting.poll(&self.call, cx));
        }
        self.waiting = None;
        Poll::Ready(())
    }

    /// Handles the head of its answer.
    pub(super) fn answered<B>(self, response: Response<B>) -> Response<SupersedeBody<B>>
    where
        B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    {
        let Self { mut call, config, .. } = self;
        // The answer comes later, at another URL: until then a newer message replaces it.
        let goes_on = response.extensions().get::<GoesOn>().is_some();
        let is_final = !goes_on && !retry_after::is_retried(response.status(), response.headers());
        let is_over = response.body().is_end_stream();
        let is_2xx = response.status().is_success() && !goes_on;
        let is_served = is_2xx && grpc::is_success_at_head(response.headers());
        if is_over && is_final {
            // Nothing of it is remembered here.
            if is_served {
                call.announce_served();
            }
            call.answered();
            return response.map(SupersedeBody::inner);
        }
        if is_served {
            call.served();
        }
        if is_over {
            return response.map(SupersedeBody::inner);
        }
        if is_2xx && grpc::owes_status(response.headers()) {
            call.served_by_status();
        }
        let watch = CancelWatch { cancellation: call.cancellation().clone(), config };
        let call = call.until_end(is_final);
        response.map(|body| SupersedeBody::new(Observed::new(body, Some(call)), Some(watch)))
    }
}
