use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::config::{Config, NAME};
use crate::body::request::{CallBody, RequestRead, RequestReading};
use crate::event::Event;
use crate::rt::per_thread::ThreadArc;

/// A request that is being read.
pub(super) struct Reading {
    config: ThreadArc<Config>,
    /// Taken when the body has been read.
    head: Option<Parts>,
    body: RequestReading,
    /// Whether the closure sees it when it is complete.
    shown: bool,
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(config: ThreadArc<Config>, head: Parts, body: CallBody, shown: bool) -> Self {
        let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
        let body = RequestReading::new(body, bytes, limit, &config.memory, &head);
        Self { config, head: Some(head), body, shown }
    }

    /// Reads on. Returns the request, after the closure.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Request<CallBody>> {
        let body = ready!(self.poll_body(cx));
        // Polled again after its end.
        self.head.take().map_or(Poll::Pending, |head| Poll::Ready(Request::from_parts(head, body)))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<CallBody> {
        Poll::Ready(match ready!(self.body.poll(cx, |_| {})) {
            RequestRead::Whole { data, trailers } => {
                if let Some(head) = self.head.as_mut().filter(|_| self.shown) {
                    self.config.look(head, &data);
                }
                CallBody::whole(data, trailers)
            }
            RequestRead::Unread(body, why) => {
                self.config.observers.emitter().emit(&Event::Bypassed { layer: NAME, reason: why.reason() });
                body
            }
            RequestRead::Failed(body) => body,
        })
    }
}
