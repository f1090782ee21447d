use std::borrow::Cow;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::head::Head;
use super::log::ResponseLog;
use super::part::{BodyPart, OVERHEAD, StoredPart};
use super::shared::{Shared, State};
use crate::error::{BoxError, SharedError};
use crate::policy::broadcast::{LogLimits, ReaderId};

/// Writes a [`ResponseLog`]. Dropped before the end, it ends the log with an error.
///
/// The layer has the recorder of a call in this process. A store feeds the log of a call in another process with the
/// log's own recorder:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use bytes::Bytes;
/// use tower_buttress::store::{BodyPart, Head, Recorder};
///
/// /// Sends the parts that come from the backend to those who follow the call here.
/// async fn feed(mut recorder: Recorder, head: Head, mut parts: impl Iterator<Item = Bytes>) {
///     recorder.head(head);
///     loop {
///         // As fast as the slowest of them reads, once the answer is longer than what may be held.
///         recorder.ready().await;
///         match parts.next() {
///             Some(data) => recorder.part(BodyPart::Data(data)),
///             None => return recorder.finish(),
///         }
///     }
/// }
/// # let _ = |recorder, head| feed(recorder, head, std::iter::empty());
/// # }
/// ```
pub struct Recorder {
    shared: Arc<Shared>,
    head_cost: usize,
    /// The head has memory of its own.
    has_compact_head: bool,
    is_over: bool,
}

/// The result of appending a part.
pub(crate) struct AppendedPart {
    /// The part itself, if this reader may take it directly.
    pub(crate) part: Option<BodyPart>,
    /// Whether other readers wait for it, and must be woken.
    pub(crate) must_wake: bool,
    /// Whether it was recorded, with all parts before it.
    pub(crate) is_recorded: bool,
    /// The memory that the log takes now.
    pub(crate) cost: usize,
}

// === impl Recorder ===

impl Recorder {
    /// Opens a log.
    pub(crate) fn open(limits: LogLimits) -> (Self, ResponseLog) {
        let shared = Arc::new(Shared::new(limits));
        let log = ResponseLog::of(shared.clone());
        (Self { shared, head_cost: 0, has_compact_head: false, is_over: false }, log)
    }

    /// The log that it writes.
    #[must_use]
    pub fn log(&self) -> ResponseLog {
        ResponseLog::of(self.shared.clone())
    }

    /// Writes the head. Later heads are ignored.
    pub fn head(&mut self, head: Head) {
        self.head_cost = head.cost();
        // An answer of unknown length may take long, and would keep the head's read buffer alive.
        self.has_compact_head = head.size().exact().is_none();
        let head = if self.has_compact_head { head.compact() } else { head };
        let mut state = self.shared.state();
        state.head.get_or_insert_with(|| Arc::new(head));
        drop(state);
        self.shared.wake_readers();
    }

    /// Waits until there is room for another part. There is always room while the answer is recorded; after that, when
    /// the slowest reader has caught up, or was cut off because it delayed others.
    ///
    /// If a recorder does not wait, the slowest readers are cut off when twice the limit is held.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn ready(&mut self) {
        poll_fn(|cx| self.poll_room(cx)).await;
    }

    /// Like [`ready`](Self::ready), for polling. Only the last waker is woken.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state();
        if !state.broadcast.is_full() {
            return Poll::Ready(());
        }
        let replaced = state.recorder_waker.replace(cx.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// The bytes of memory that the head and the parts take now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.head_cost.saturating_add(self.shared.state().broadcast.cost())
    }

    /// Writes the next part of the body. See [`ready`](Self::ready).
    pub fn part(&mut self, part: BodyPart) {
        self.append(part, None);
        self.shared.wake_readers();
    }

    /// Writes the next part, and wakes no reader.
    ///
    /// A `reader` that has read everything before it gets the part back, and will not read it again.
    pub(crate) fn append(&mut self, part: BodyPart, reader: Option<ReaderId>) -> AppendedPart {
        let mut state = self.shared.state();
        let State { broadcast, compactor, was_observed, .. } = &mut *state;
        let next = reader.filter(|&id| broadcast.is_at_tip(id));
        let cost = part.cost();
        let is_added =
            !*was_observed && broadcast.add_to_last(next, cost - OVERHEAD, |last| compactor.add(last, &part));
        if !is_added {
            // Nothing is added to the last part from now on: what is left of its block takes the next one.
            broadcast.last_mut().into_iter().for_each(|last| compactor.close(last));
            // Without a recording, and with one listener, no other reader can join.
            let is_shared = broadcast.is_recording() || broadcast.listeners() > 1;
            let mut hold = || if is_shared { compactor.hold(&part) } else { StoredPart::Whole(part.clone()) };
            match next {
                Some(reader) => broadcast.push_read(reader, hold, cost),
                None => broadcast.push(hold(), cost),
            }
        }
        let waker = next.and_then(|reader| state.take_waker(reader));
        let appended = AppendedPart {
            part: next.map(|_| part),
            must_wake: state.has_waiting_reader(),
            is_recorded: state.broadcast.is_recording(),
            cost: self.head_cost.saturating_add(state.broadcast.cost()),
        };
        drop(state);
        drop(waker);
        appended
    }

    /// Opens a log for an answer of another process, for one caller that came back to it. `charge` counts its data.
    pub(crate) fn open_behind(limits: LogLimits, charge: impl Send + 'static) -> (Self, ResponseLog) {
        let (recorder, log) = Self::open(limits);
        let mut state = recorder.shared.state();
        state.is_behind = true;
        state.add_charge(charge);
        drop(state);
        (recorder, log)
    }

    /// Notes that the recorded part is written: the live part follows.
    pub fn caught_up(&self) {
        let mut state = self.shared.state();
        let was_behind = std::mem::take(&mut state.is_behind);
        drop(state);
        if was_behind {
            self.shared.wake_readers();
        }
    }

    /// The memory that the head takes.
    pub(crate) fn head_cost(&self) -> usize {
        self.head_cost
    }

    /// Notes whether the store has room for this log to grow.
    pub(crate) fn set_storage_full(&self, storage_full: bool) {
        self.shared.state().broadcast.set_storage_full(storage_full);
    }

    /// Stops recording: no caller may join from now on, and parts that every listener has read are dropped.
    pub fn stop_recording(&self) {
        self.shared.state().broadcast.stop_recording();
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.shared.state().broadcast.is_recording()
    }

    /// Stops counting, and lets `charge` count the held data until the last listener has left.
    pub(crate) fn leave_charge(&self, charge: impl Send + 'static) {
        let mut state = self.shared.state();
        if state.broadcast.listeners() > 0 && state.broadcast.cost() > 0 {
            state.add_charge(charge);
        } else {
            drop(state);
            drop(charge);
        }
    }

    /// Completes the answer.
    pub fn finish(mut self) {
        self.end(None);
    }

    /// Ends the answer with an error. Readers get it after the recorded part; no caller can join any more.
    pub fn fail(mut self, why: impl Into<BoxError>) {
        self.end(Some(SharedError::new(why)));
    }

    fn end(&mut self, failure: Option<SharedError>) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut state = self.shared.state();
        if let Some(failure) = failure {
            state.failure.get_or_insert(failure);
            if !state.is_held_when_failed {
                state.broadcast.stop_recording();
            }
        }
        state.broadcast.finish();
        // Reads from now on are replays.
        if state.broadcast.is_recording() {
            let stored = match state.head.as_deref().map(Head::stored) {
                Some(Cow::Borrowed(_)) if self.has_compact_head => None,
                stored => stored.map(|head| Arc::new(head.compact())),
            };
            state.head = stored.or_else(|| state.head.take());
        }
        let driver = state.driver.take();
        drop(state);
        drop(driver);
        self.shared.wake_readers();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(Some(SharedError::new("the shared call was dropped before its end")));
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
    use http::{HeaderMap, HeaderValue, StatusCode, Version};

    use super::*;

    #[test]
    fn a_stream_under_way_keeps_no_read_buffer_for_its_head() {
        for (length, keeps) in [(None, false), (Some("2"), true)] {
            let value = Bytes::from(b"text/event-stream".to_vec());
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_maybe_shared(value.clone()).unwrap());
            if let Some(length) = length {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            let (mut recorder, _log) = Recorder::open(LogLimits { bytes: 1_000, lag: Duration::from_secs(1) });
            recorder.head(Head::new(StatusCode::OK, Version::HTTP_11, headers.clone(), Instant::now()));
            let head = recorder.shared.state().head.clone().unwrap();
            assert_eq!(head.headers(), &headers);
            drop(headers);
            assert_eq!(value.is_unique(), !keeps, "{length:?}");
        }
    }
}
