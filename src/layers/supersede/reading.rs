use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::config::Config;
use super::key::PendingMessage;
use super::shared::Shared;
use crate::body::collect::{Collect, Collected, collect};
use crate::body::request::CallBody;
use crate::call::Tenant;
use crate::rt::timeout::Timeout;

/// A message that is being read.
pub(super) struct Reading {
    /// Taken when the body has been read.
    head: Option<(Parts, Arrived)>,
    body: Collect<CallBody>,
    timeout: Timeout,
}

/// A message that has come, and where it belongs.
pub(super) struct Arrived {
    pub(super) message: PendingMessage,
    /// Where it stands among all messages.
    pub(super) order: u64,
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
}

/// A request that was read.
pub(super) struct Read {
    pub(super) request: Request<CallBody>,
    /// `None`: it was not read to its end, and passes unrecognised.
    pub(super) arrived: Option<Arrived>,
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(parts: Parts, body: CallBody, arrives: Arrived) -> Self {
        let config = &arrives.config;
        let memory = config.memory.reserve(parts.extensions.get::<Tenant>());
        let body = collect(body, config.max_body_bytes, memory);
        Self { head: Some((parts, arrives)), body, timeout: Timeout::default() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Read> {
        let (body, is_whole) = ready!(self.poll_body(cx));
        // Polled again after it was over.
        let Some((parts, arrived)) = self.head.take() else { return Poll::Pending };
        Poll::Ready(Read { request: Request::from_parts(parts, body), arrived: is_whole.then_some(arrived) })
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<(CallBody, bool)> {
        let Some((_, Arrived { message, config, .. })) = &mut self.head else { return Poll::Pending };
        Poll::Ready(match self.body.poll_tapped(cx, |data| message.read(data)) {
            Poll::Ready(Ok(Collected::Whole { data, trailers })) => (CallBody::whole(data, trailers), true),
            Poll::Ready(Ok(Collected::TooLarge(body))) => {
                config.bypassed("a message that is too long to be read first");
                (CallBody::new(body), false)
            }
            // It fails at the upstream, as it would have without this layer.
            Poll::Ready(Err(why)) => (CallBody::failed(why), false),
            Poll::Pending => {
                ready!(self.timeout.poll_after(config.read_timeout, cx));
                let Some(body) = self.body.give_up() else { return Poll::Pending };
                config.bypassed("a message that takes too long to come");
                (CallBody::new(body), false)
            }
        })
    }
}
