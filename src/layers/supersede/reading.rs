use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::config::Config;
use super::key::{PendingMessage, Recognition, is_message};
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

/// What becomes of a request.
#[allow(clippy::large_enum_variant, reason = "most are messages, and it lives for a moment")]
pub(super) enum Intake {
    Passes(Request<CallBody>),
    /// It may be a message, and is read first.
    Reads(Box<Reading>),
    /// It is a message that was read.
    Arrives(Request<CallBody>, Arrived),
}

// === impl Intake ===

impl Intake {
    /// Decides on a new request.
    pub(super) fn of(request: Request<CallBody>, config: &Arc<Config>, shared: &Arc<Shared>) -> Self {
        if !is_message(&request, config) {
            return Self::Passes(request);
        }
        let (parts, body) = request.into_parts();
        let message = match Recognition::of(&parts, config, shared.callers()) {
            Recognition::Message(message) => message,
            Recognition::Passes(reason) => {
                if let Some(reason) = reason {
                    config.bypassed(reason);
                }
                return Self::Passes(Request::from_parts(parts, body));
            }
        };
        let (config, shared) = (config.clone(), shared.clone());
        let mut arrived = Arrived { message, order: shared.next_order(), config, shared };
        match body.in_memory().filter(|data| data.len() <= arrived.config.max_body_bytes) {
            Some(data) => {
                arrived.message.read(data);
                Self::Arrives(Request::from_parts(parts, body), arrived)
            }
            None => Self::Reads(Box::new(Reading::new(parts, body, arrived))),
        }
    }
}

// === impl Reading ===

impl Reading {
    fn new(parts: Parts, body: CallBody, arrives: Arrived) -> Self {
        let config = &arrives.config;
        let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
        let body = RequestReading::new(body, bytes, limit, &config.memory, &parts);
        Self { head: Some((parts, arrives)), body }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Intake> {
        // Polled again after its end.
        let Some((_, Arrived { message, .. })) = &mut self.head else { return Poll::Pending };
        let read = ready!(self.body.poll(cx, |data| message.read(data)));
        let Some((parts, arrived)) = self.head.take() else { return Poll::Pending };
        let body = match read {
            RequestRead::Whole { data, trailers } => {
                let request = Request::from_parts(parts, CallBody::whole(data, trailers));
                return Poll::Ready(Intake::Arrives(request, arrived));
            }
            RequestRead::Unread(body, why) => {
                arrived.config.bypassed(why.reason());
                body
            }
            RequestRead::Failed(body) => body,
        };
        Poll::Ready(Intake::Passes(Request::from_parts(parts, body)))
    }
}
