use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::config::Config;
use super::key::PendingMessage;
use super::shared::Shared;
use crate::body::request::{CallBody, RequestRead, RequestReading};

/// A message that is being read.
pub(super) struct Reading {
    /// Taken when the body has been read.
    head: Option<(Parts, Arrived)>,
    body: RequestReading,
}

/// A complete message, and its conversation.
pub(super) struct Arrived {
    pub(super) message: PendingMessage,
    /// Its place among all messages.
    pub(super) order: u64,
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
}

/// A request that was read.
pub(super) struct ReadMessage {
    pub(super) request: Request<CallBody>,
    /// `None`: it was not read to its end, and passes.
    pub(super) arrived: Option<Arrived>,
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(parts: Parts, body: CallBody, arrives: Arrived) -> Self {
        let config = &arrives.config;
        let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
        let body = RequestReading::new(body, bytes, limit, &config.memory, &parts.extensions);
        Self { head: Some((parts, arrives)), body }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ReadMessage> {
        let (body, is_whole) = ready!(self.poll_body(cx));
        // Polled again after its end.
        let Some((parts, arrived)) = self.head.take() else { return Poll::Pending };
        Poll::Ready(ReadMessage { request: Request::from_parts(parts, body), arrived: is_whole.then_some(arrived) })
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<(CallBody, bool)> {
        let Some((_, Arrived { message, config, .. })) = &mut self.head else { return Poll::Pending };
        Poll::Ready(match ready!(self.body.poll(cx, |data| message.read(data))) {
            RequestRead::Whole { data, trailers } => (CallBody::whole(data, trailers), true),
            RequestRead::Unread(body, why) => {
                config.bypassed(why.reason());
                (body, false)
            }
            RequestRead::Failed(body) => (body, false),
        })
    }
}
