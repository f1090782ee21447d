use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;

use super::config::{Config, NAME};
use crate::body::collect::{Collect, Collected, collect};
use crate::body::request::CallBody;
use crate::call::Tenant;
use crate::event::Event;
use crate::rt::per_thread::Held;
use crate::rt::timeout::Timeout;

/// A request that is being read.
pub(super) struct Reading {
    config: Held<Config>,
    /// Taken when the body has been read.
    head: Option<Parts>,
    body: Collect<CallBody>,
    /// Whether it is shown when it is whole.
    shown: bool,
    timeout: Timeout,
}

// === impl Reading ===

impl Reading {
    pub(super) fn new(config: Held<Config>, head: Parts, body: CallBody, shown: bool) -> Self {
        let memory = config.memory.reserve(head.extensions.get::<Tenant>());
        let body = collect(body, config.max_body_bytes, memory);
        Self { config, head: Some(head), body, shown, timeout: Timeout::default() }
    }

    /// Reads on. The request to be sent, once the head is what it is to be.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Request<CallBody>> {
        let body = ready!(self.poll_body(cx));
        // Polled again after it was over.
        self.head.take().map_or(Poll::Pending, |head| Poll::Ready(Request::from_parts(head, body)))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<CallBody> {
        Poll::Ready(match Pin::new(&mut self.body).poll(cx) {
            Poll::Ready(Ok(Collected::Whole { data, trailers })) => {
                if let Some(head) = self.head.as_mut().filter(|_| self.shown) {
                    self.config.look(head, &data);
                }
                CallBody::whole(data, trailers)
            }
            Poll::Ready(Ok(Collected::TooLarge(body))) => {
                self.bypass("a request that is too long to be read first");
                CallBody::new(body)
            }
            Poll::Ready(Err(why)) => CallBody::failed(why),
            Poll::Pending => {
                ready!(self.timeout.poll_after(self.config.read_timeout, cx));
                let Some(body) = self.body.give_up() else { return Poll::Pending };
                self.bypass("a request that takes too long to come");
                CallBody::new(body)
            }
        })
    }

    fn bypass(&self, reason: &'static str) {
        self.config.observers.emitter().emit(&Event::Bypassed { layer: NAME, reason });
    }
}
