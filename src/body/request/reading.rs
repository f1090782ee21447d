//! Reads a request's body to its end before the request is sent.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;

use super::CallBody;
use super::share::share_of;
use crate::body::collect::{Collect, Collected, collect};
use crate::call::Memory;
use crate::rt::timeout::Timeout;

/// Reads a request's body within a size, a time, and the memory of all calls.
pub(crate) enum RequestReading {
    /// It was in memory before the call: nothing is counted or waited for. Taken when it is read.
    InMemory(Option<CallBody>),
    Arriving(Box<ArrivingBody>),
}

/// A body that is not complete yet.
pub(crate) struct ArrivingBody {
    body: Collect<CallBody>,
    limit: Duration,
    timeout: Timeout,
}

/// The result of reading.
pub(crate) enum RequestRead {
    Whole {
        data: Bytes,
        trailers: Option<HeaderMap>,
    },
    /// The unchanged body, which was not read to its end.
    Unread(CallBody, Unread),
    /// The body failed. It is passed on, and fails at the upstream as it would have without the layer.
    Failed(CallBody),
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLong,
    TooSlow,
}

// === impl RequestReading ===

impl RequestReading {
    /// Reads at most `bytes` within `limit`.
    pub(crate) fn new(body: CallBody, bytes: usize, limit: Duration, memory: &Memory, head: &Parts) -> Self {
        if body.in_memory().is_some_and(|data| data.len() <= bytes) {
            return Self::InMemory(Some(body));
        }
        let body = collect(body, bytes, share_of(memory, &head.headers, &head.extensions));
        Self::Arriving(Box::new(ArrivingBody { body, limit, timeout: Timeout::default() }))
    }

    /// Reads on, and passes each piece to `tap` as it arrives. Pending forever after it was ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut tap: impl FnMut(&Bytes)) -> Poll<RequestRead> {
        match self {
            Self::InMemory(body) => body.take().map_or(Poll::Pending, |body| {
                let (data, trailers) = body.into_memory();
                tap(&data);
                Poll::Ready(RequestRead::Whole { data, trailers })
            }),
            Self::Arriving(arriving) => arriving.poll(cx, tap),
        }
    }
}

// === impl ArrivingBody ===

impl ArrivingBody {
    fn poll(&mut self, cx: &mut Context<'_>, tap: impl FnMut(&Bytes)) -> Poll<RequestRead> {
        match self.body.poll_tapped(cx, tap) {
            Poll::Ready(Ok(Collected::Whole { data, trailers })) => Poll::Ready(RequestRead::Whole { data, trailers }),
            Poll::Ready(Ok(Collected::TooLarge(body))) => {
                Poll::Ready(RequestRead::Unread(CallBody::new(body), Unread::TooLong))
            }
            Poll::Ready(Err(why)) => Poll::Ready(RequestRead::Failed(CallBody::failed(why))),
            Poll::Pending => {
                ready!(self.timeout.poll_after(self.limit, cx));
                let Some(body) = self.body.stop() else { return Poll::Pending };
                Poll::Ready(RequestRead::Unread(CallBody::new(body), Unread::TooSlow))
            }
        }
    }
}

// === impl Unread ===

impl Unread {
    /// The reason in the event.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "a request whose body is too long to read first",
            Self::TooSlow => "a request whose body arrives too slowly to read first",
        }
    }
}
