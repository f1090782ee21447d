//! A request that can be sent again.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::Body;

use super::call_body::{CallBody, Repeatable};
use super::recording::{ReadState, Recording};
use crate::call::{Memory, Reservation, Tenant};
use crate::rt::deadline::Deadline;

/// The head and the body of a request, for the attempts that may follow the first.
///
/// Dropping it says that no other attempt will: what was recorded of the body is dropped too.
pub(crate) struct Resend {
    head: Parts,
    body: Source,
    limit: usize,
}

enum Source {
    /// All of it, known from the start.
    Whole {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    Recorded(Arc<Recording<CallBody>>),
}

// === impl Resend ===

impl Resend {
    /// Keeps `request`, which is that of the first attempt from now on, with up to `limit` bytes of its body, within
    /// `memory`. Returns `None` where the body is known to be larger.
    ///
    /// A body in memory, or one that has all of its data at hand, is not recorded. To find out means to poll it, which makes
    /// a server tell a client that waits for that (`Expect: 100-continue`) to send its body; such a body is not polled
    /// before the upstream reads it.
    pub(crate) fn keep(request: &mut Request<CallBody>, limit: usize, memory: &Memory) -> Option<Self> {
        let body = std::mem::take(request.body_mut());
        let reserve = || memory.reserve(request.extensions().get::<Tenant>());
        match Source::of(body, limit, request.headers(), reserve) {
            Ok(body) => {
                *request.body_mut() = body.copy();
                Some(Self { head: head_of(request), body, limit })
            }
            Err(body) => {
                *request.body_mut() = body;
                None
            }
        }
    }

    /// The head, as it came.
    pub(crate) fn head(&self) -> &Parts {
        &self.head
    }

    /// The request of the next attempt: the copies of the body before it can no longer be read. A deadline that is written
    /// in the headers is written anew, as it is at `now`.
    pub(crate) fn next(&self, now: Instant) -> Request<CallBody> {
        let mut head = self.head.clone();
        Deadline::refresh_headers(&mut head, now);
        Request::from_parts(head, self.body())
    }

    /// A copy of the body alone. The ones before it can no longer be read.
    pub(crate) fn body(&self) -> CallBody {
        self.body.copy()
    }

    /// How far the attempts have read the body.
    pub(crate) fn state(&self) -> ReadState {
        match &self.body {
            Source::Whole { .. } => ReadState::Whole,
            Source::Recorded(recording) => recording.state(self.limit),
        }
    }

    /// The same; and if another attempt can follow, the copy before can no longer be read from now on: a connection that
    /// still reads it would read on until there is nothing left to repeat. Beyond the limit the body belongs to its reader.
    pub(crate) fn take_over(&self) -> ReadState {
        match &self.body {
            Source::Whole { .. } => ReadState::Whole,
            Source::Recorded(recording) => recording.take_over(self.limit),
        }
    }

    /// All of the body in one piece, once it has been read.
    pub(crate) fn whole_body(&self) -> Option<Bytes> {
        match &self.body {
            Source::Whole { data, .. } => Some(data.clone()),
            Source::Recorded(recording) => recording.whole(),
        }
    }

    /// What another attempt at `now` has left of the call's deadline; `None` if it has none.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        Deadline::remaining_for_attempt(&self.head.extensions, now)
    }
}

impl Drop for Resend {
    fn drop(&mut self) {
        if let Source::Recorded(recording) = &self.body {
            recording.release();
        }
    }
}

// The head has credentials in it, and the body what was asked.
impl fmt::Debug for Resend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resend").field("limit", &self.limit).field("state", &self.state()).finish_non_exhaustive()
    }
}

// === impl Source ===

impl Source {
    fn of(
        body: CallBody,
        limit: usize,
        headers: &HeaderMap,
        reserve: impl FnOnce() -> Reservation,
    ) -> Result<Self, CallBody> {
        match body.into_repeatable() {
            Repeatable::Whole { data, trailers } if data.len() <= limit => Ok(Self::Whole { data, trailers }),
            Repeatable::Whole { data, trailers } => Err(CallBody::repeatable(data, trailers)),
            Repeatable::Recorded { recording, generation } if recording.share(generation, limit) => {
                Ok(Self::Recorded(recording))
            }
            Repeatable::Recorded { recording, generation } => {
                Self::record(CallBody::recorded(recording, generation), limit, headers, reserve)
            }
            Repeatable::Stream(body) => Self::record(body, limit, headers, reserve),
        }
    }

    fn record(
        mut body: CallBody,
        limit: usize,
        headers: &HeaderMap,
        reserve: impl FnOnce() -> Reservation,
    ) -> Result<Self, CallBody> {
        let hint = body.size_hint();
        let length = hint.exact().or_else(|| content_length(headers));
        if hint.lower().max(length.unwrap_or(0)) > limit as u64 {
            return Err(body);
        }
        if hint.exact().is_none() || headers.contains_key(EXPECT) {
            return Ok(Self::Recorded(Arc::new(Recording::new(body, hint, length, limit, reserve()))));
        }
        // The next reader asks again, with a waker.
        let first = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Some(Ok(frame))) = &first {
            if let Some(data) = frame.data_ref().filter(|_| body.is_end_stream()) {
                return Ok(Self::Whole { data: data.clone(), trailers: None });
            }
        }
        Ok(Self::Recorded(Arc::new(Recording::begun(first, body, hint, limit, reserve()))))
    }

    fn copy(&self) -> CallBody {
        match self {
            Self::Whole { data, trailers } => CallBody::repeatable(data.clone(), trailers.clone()),
            Self::Recorded(recording) => {
                let generation = recording.restart();
                CallBody::recorded(recording.clone(), generation)
            }
        }
    }
}

/// A copy of the head of a request.
pub(crate) fn head_of<B>(request: &Request<B>) -> Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method.clone_from(request.method());
    head.uri.clone_from(request.uri());
    head.version = request.version();
    head.headers.clone_from(request.headers());
    head.extensions.clone_from(request.extensions());
    head
}

/// Of a body that does not know its length itself, as a stream in a proxy.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
