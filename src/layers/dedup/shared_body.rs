//! The body of a shared call, for one of its callers.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, SizeHint};

use super::call_limit::CallLimit;
use crate::body::boxed::Polled;
use crate::body::frame_budget::FrameBudget;
use crate::error::BoxError;
use crate::proto::digests;
use crate::proto::sse::EventIds;
use crate::store::{BodyPart, Head, Reader};

/// A reader of a shared call's body, and its remaining size.
pub struct SharedBody {
    /// `None`: the body has ended.
    reader: Option<Reader>,
    size: SizeHint,
    /// Set if its caller came back, or may.
    resumed: Option<Box<Resumed>>,
}

#[derive(Default)]
struct Resumed {
    /// The part of the body that was read already.
    rest: VecDeque<BodyPart>,
    /// Adds ids to its events.
    ids: Option<EventIds>,
    /// The limit of the call for this caller.
    limit: Option<CallLimit>,
}

// === impl SharedBody ===

impl SharedBody {
    /// `ids`: writes the ids of events. `rest`: the part that `reader` has read already.
    pub(super) fn new(reader: Reader, head: &Head, ids: Option<EventIds>, rest: VecDeque<BodyPart>) -> Self {
        // With ids, or without its beginning, its length differs.
        let size = if ids.is_some() { SizeHint::new() } else { *head.size() };
        if ids.is_some() {
            head.note_ids();
        }
        let is_resumed = ids.is_some() || !rest.is_empty();
        let resumed = is_resumed.then(|| Box::new(Resumed { rest, ids, limit: None }));
        Self { reader: Some(reader), size, resumed }
    }

    /// Ends with an error when the call ends for its caller.
    pub(super) fn limited(mut self, limit: Option<CallLimit>) -> Self {
        if limit.is_some() {
            self.resumed.get_or_insert_default().limit = limit;
        }
        self
    }

    fn has_rest(&self) -> bool {
        self.resumed.as_ref().is_some_and(|resumed| !resumed.rest.is_empty())
    }

    #[cold]
    fn poll_resumed(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let rest = self.resumed.as_mut().and_then(|resumed| resumed.rest.pop_front());
            let mut part = match rest {
                Some(part) => Some(Ok(part)),
                None => ready!(self.poll_limited(cx)),
            };
            if let Some(Ok(BodyPart::Data(data))) = &part {
                self.size = less(&self.size, data.len() as u64);
            }
            let ids = self.resumed.as_mut().and_then(|resumed| resumed.ids.as_mut());
            match (&mut part, ids) {
                (Some(Ok(BodyPart::Data(data))), Some(ids)) => {
                    *data = ids.write(data);
                    // It was a blank line that is dropped.
                    if data.is_empty() {
                        continue;
                    }
                }
                (Some(Ok(BodyPart::Trailers(trailers))), Some(_)) => digests::remove(Arc::make_mut(trailers)),
                _ => {}
            }
            return Poll::Ready(part.map(|part| part.map(BodyPart::into_frame)));
        }
        Poll::Pending
    }

    fn poll_limited(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPart, BoxError>>> {
        let polled = self.poll_part(cx);
        let Some(limit) = self.resumed.as_mut().and_then(|resumed| resumed.limit.as_mut()) else { return polled };
        let passed = match &polled {
            Poll::Pending => Some(ready!(limit.poll(cx))),
            Poll::Ready(Some(Ok(_))) => limit.has_passed(cx),
            Poll::Ready(_) => None,
        };
        let Some(passed) = passed else { return polled };
        self.reader = None;
        Poll::Ready(Some(Err(passed.into())))
    }

    #[inline]
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPart, BoxError>>> {
        let Some(reader) = &mut self.reader else { return Poll::Ready(None) };
        let part = ready!(reader.poll_part(cx));
        if matches!(part, None | Some(Err(_))) {
            self.reader = None;
        }
        Poll::Ready(part)
    }
}

impl Body for SharedBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.get_mut();
        if this.resumed.is_some() {
            return this.poll_resumed(cx);
        }
        let part = ready!(this.poll_part(cx));
        if let Some(Ok(BodyPart::Data(data))) = &part {
            this.size = less(&this.size, data.len() as u64);
        }
        Poll::Ready(part.map(|part| part.map(BodyPart::into_frame)))
    }

    fn is_end_stream(&self) -> bool {
        !self.has_rest() && self.reader.as_ref().is_none_or(Reader::is_at_end)
    }

    fn size_hint(&self) -> SizeHint {
        if self.reader.is_none() { SizeHint::with_exact(0) } else { self.size }
    }
}

/// The rest of `size` after `read` bytes.
fn less(size: &SizeHint, read: u64) -> SizeHint {
    let mut left = SizeHint::new();
    if let Some(upper) = size.upper() {
        left.set_upper(upper.saturating_sub(read));
    }
    left.set_lower(size.lower().saturating_sub(read));
    left
}

impl fmt::Debug for SharedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.fmt(f)
    }
}
