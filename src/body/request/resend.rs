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
use super::share::share_of;
use crate::call::{Memory, Reservation};
use crate::rt::deadline::Deadline;

/// The head and the body of a request, for attempts after the first.
///
/// Dropping it means that there is no other attempt, and drops the recorded body.
pub(crate) struct Resend {
    head: Parts,
    body: RequestData,
    limit: usize,
}

enum RequestData {
    /// The complete body, known from the start.
    Whole {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    Recorded(Arc<Recording<CallBody>>),
}

// === impl Resend ===

impl Resend {
    /// Keeps `request`, which becomes the first attempt's, with up to `limit` bytes of its body, within `memory`. Returns
    /// `None` if the body is known to be larger.
    ///
    /// A body in memory, or one whose data is all ready, is not recorded. Finding out means polling it, which makes a
    /// server ask a waiting client (`Expect: 100-continue`) for its body; such a body is polled only when the upstream
    /// reads it.
    pub(crate) fn keep(request: &mut Request<CallBody>, limit: usize, memory: &Memory) -> Option<Self> {
        let body = std::mem::take(request.body_mut());
        let reserve = || share_of(memory, request.headers(), request.extensions());
        match RequestData::of(body, limit, request.headers(), reserve) {
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

    /// The original head.
    pub(crate) fn head(&self) -> &Parts {
        &self.head
    }

    /// Returns the request of the next attempt: earlier copies of the body can no longer be read. A deadline in the
    /// headers is rewritten for `now`.
    pub(crate) fn next(&self, now: Instant) -> Request<CallBody> {
        let mut head = self.head.clone();
        Deadline::refresh_headers(&mut head, now);
        Request::from_parts(head, self.body())
    }

    /// Returns a copy of the body alone. Earlier copies can no longer be read.
    pub(crate) fn body(&self) -> CallBody {
        self.body.copy()
    }

    /// How far the attempts have read the body.
    pub(crate) fn state(&self) -> ReadState {
        match &self.body {
            RequestData::Whole { .. } => ReadState::Whole,
            RequestData::Recorded(recording) => recording.state(self.limit),
        }
    }

    /// The same; and if another attempt can follow, the earlier copy can no longer be read: otherwise a connection that
    /// still reads it might exceed the limit. Beyond the limit the body belongs to its reader.
    pub(crate) fn take_over(&self) -> ReadState {
        match &self.body {
            RequestData::Whole { .. } => ReadState::Whole,
            RequestData::Recorded(recording) => recording.take_over(self.limit),
        }
    }

    /// Returns all of the body in one piece, once it has been read.
    pub(crate) fn whole_body(&self) -> Option<Bytes> {
        match &self.body {
            RequestData::Whole { data, .. } => Some(data.clone()),
            RequestData::Recorded(recording) => recording.whole(),
        }
    }

    /// Returns the time that another attempt at `now` has until the call's deadline; `None` without a deadline.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        Deadline::remaining_for_attempt(&self.head.extensions, now)
    }
}

impl Drop for Resend {
    fn drop(&mut self) {
        if let RequestData::Recorded(recording) = &self.body {
            recording.release();
        }
    }
}

// The head contains credentials, and the body the prompt.
impl fmt::Debug for Resend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resend").field("limit", &self.limit).field("state", &self.state()).finish_non_exhaustive()
    }
}

// === impl RequestData ===

impl RequestData {
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
        // The next reader polls again, with a waker.
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

/// For a body without a known length of its own, such as a stream in a proxy.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
