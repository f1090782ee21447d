//! The part of a shared call's body that is one caller's own.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::call_limit::CallLimit;
use crate::body::boxed::Polled;
use crate::body::monitored::MonitoredBody;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::proto::digests;
use crate::proto::sse::EventIds;
use crate::store::{BodyPart, Head, LogBody, LogReader};

/// The body of a shared call, for one of its callers; without a state it is as the others have it.
pub(super) type SharedBody = MonitoredBody<LogBody, Box<Resumed>>;

/// The state of a body whose caller came back to it, or may.
pub struct Resumed {
    /// The part of the body that was read already.
    rest: VecDeque<BodyPart>,
    /// Adds ids to its events.
    ids: Option<EventIds>,
    /// The limit of the call for this caller.
    limit: Option<CallLimit>,
}

// === impl Resumed ===

impl Resumed {
    /// The body of the call that `reader` reads. `ids`: writes the ids of events. `rest`: the part that was read already.
    /// `limit`: when the call ends for its caller.
    pub(super) fn body(
        reader: LogReader,
        head: &Head,
        ids: Option<EventIds>,
        rest: VecDeque<BodyPart>,
        limit: Option<CallLimit>,
    ) -> SharedBody {
        // With ids, or without its beginning, its length differs.
        let size = if ids.is_some() { SizeHint::new() } else { *head.size() };
        if ids.is_some() {
            head.note_ids();
        }
        let is_resumed = ids.is_some() || !rest.is_empty() || limit.is_some();
        let resumed = is_resumed.then(|| Box::new(Self { rest, ids, limit }));
        MonitoredBody::new(LogBody::new(reader, size), resumed)
    }

    pub(super) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Adds the ids. Returns whether to forward the frame: a blank line may be dropped.
    pub(super) fn forwards(&mut self, next: &mut Option<Result<Frame<Bytes>, BoxError>>) -> bool {
        let (Some(ids), Some(Ok(frame))) = (&mut self.ids, next) else { return true };
        if let Some(data) = frame.data_mut() {
            *data = ids.write(data);
            return !data.is_empty();
        }
        frame.trailers_mut().map(digests::remove);
        true
    }

    /// Polls the rest, then the call, unless it ends for this caller.
    pub(super) fn poll_next(&mut self, mut body: Pin<&mut ResponseBody<LogBody>>, cx: &mut Context<'_>) -> Polled {
        if let Some(part) = self.rest.pop_front() {
            return Poll::Ready(Some(Ok(part.into_frame())));
        }
        let polled = body.as_mut().poll_frame(cx);
        let Some(limit) = &mut self.limit else { return polled };
        let reached = match &polled {
            Poll::Pending => Some(ready!(limit.poll(cx))),
            Poll::Ready(Some(Ok(_))) => limit.has_passed(cx),
            Poll::Ready(_) => None,
        };
        let Some(reached) = reached else { return polled };
        body.drop_inner();
        Poll::Ready(Some(Err(reached.into())))
    }
}

/// Without the data, which is the upstream's.
impl fmt::Debug for Resumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resumed").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}
