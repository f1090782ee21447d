use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::drive::{Drive, Driven};
use super::head::Head;
use super::part::BodyPart;
use super::shared::{Shared, State};
use crate::error::{BoxError, DedupLagged};
use crate::policy::broadcast::{NextPart, ReaderId, Room};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::timeout::Timeout;

/// Reads a [`ResponseLog`](super::ResponseLog): from the first part on, and live once it has caught up.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::future::poll_fn;
/// use tower_buttress::error::BoxError;
/// use tower_buttress::store::{BodyPart, LogReader};
///
/// /// How long the body is.
/// async fn count(mut reader: LogReader) -> Result<usize, BoxError> {
///     let head = poll_fn(|cx| reader.poll_head(cx)).await?;
///     assert!(head.status().is_success());
///     let mut length = 0;
///     while let Some(part) = poll_fn(|cx| reader.poll_part(cx)).await {
///         if let BodyPart::Data(data) = part? {
///             length += data.len();
///         }
///     }
///     Ok(length)
/// }
/// # let _ = count;
/// # }
/// ```
///
/// # Cancel safety
///
/// Dropping a poll loses nothing. When the last listener is dropped, the call is cancelled, or kept alive for a while, by
/// the layer's settings.
pub struct LogReader {
    shared: Arc<Shared>,
    id: ReaderId,
    /// Whether it belongs to a store: it then sees only the headers that may be stored.
    is_for_store: bool,
    /// Whether the recorder waits for it, and it polls the upstream.
    is_listening: bool,
    /// Cached when first needed.
    driver: Option<Arc<dyn Drive>>,
    /// Tells, now or later, that its caller does not come back.
    cancellation: Option<Cancellation>,
    /// The time limit for the slowest reader.
    timeout: Timeout,
    is_over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WantedPart {
    Head,
    Part,
}

enum FoundPart {
    Head(Arc<Head>),
    Part(BodyPart),
    End,
    Failed(BoxError),
}

// === impl LogReader ===

impl LogReader {
    pub(super) fn listener(shared: Arc<Shared>, id: ReaderId) -> Self {
        Self::new(shared, id, false)
    }

    pub(super) fn observer(shared: Arc<Shared>, id: ReaderId) -> Self {
        Self::new(shared, id, true)
    }

    fn new(shared: Arc<Shared>, id: ReaderId, is_for_store: bool) -> Self {
        let is_listening = !is_for_store;
        Self {
            shared,
            id,
            is_for_store,
            is_listening,
            driver: None,
            cancellation: None,
            timeout: Timeout::default(),
            is_over: false,
        }
    }

    /// If it is the last listener to leave, `cancellation` decides whether the call is kept alive for its caller.
    pub(crate) fn cancelled_by(mut self, cancellation: Option<Cancellation>) -> Self {
        self.cancellation = cancellation;
        self
    }

    /// Turns an [observer](super::ResponseLog::observer) into a listener, as long as a caller in another process listens
    /// through it, or back into an observer. The recorder waits for a listener as for every caller; it keeps the call
    /// alive, and must be read.
    ///
    /// Returns whether that succeeded: an observer has lost its place once the answer exceeds its limit.
    pub fn listen(&mut self, listening: bool) -> bool {
        let mut state = self.shared.state();
        let was_full = state.broadcast.is_full();
        let done = state.broadcast.set_listening(self.id, listening);
        let has_left = std::mem::replace(&mut self.is_listening, listening && done) && !self.is_listening;
        let abandoned = if has_left { state.listener_left() } else { None };
        let has_room_again = was_full && !state.broadcast.is_full();
        drop(state);
        if has_room_again {
            self.shared.wake_readers();
        }
        if let Some(driver) = abandoned {
            driver.on_abandoned(None);
        }
        done
    }

    /// Polls for the head.
    ///
    /// # Errors
    ///
    /// The call failed before its head.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Head>, BoxError>> {
        Poll::Ready(match ready!(self.poll_next(WantedPart::Head, cx)) {
            FoundPart::Head(head) if self.is_for_store => Ok(Arc::new(head.stored().into_owned())),
            FoundPart::Head(head) => Ok(head),
            FoundPart::Failed(why) => Err(why),
            FoundPart::Part(_) | FoundPart::End => Err("the call ended without an answer".into()),
        })
    }

    /// Polls for the next part of the body; `None` at its end.
    ///
    /// # Errors
    ///
    /// The call failed, or this reader delayed the others for too long ([`DedupLagged`]).
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPart, BoxError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let found = match ready!(self.poll_next(WantedPart::Part, cx)) {
            FoundPart::Part(part) => return Poll::Ready(Some(Ok(part))),
            FoundPart::Failed(why) => Some(Err(why)),
            FoundPart::Head(_) | FoundPart::End => None,
        };
        self.is_over = true;
        Poll::Ready(found)
    }

    /// Returns the next part, if it is already recorded.
    pub(crate) fn next_recorded(&mut self) -> Option<BodyPart> {
        let mut state = self.shared.state();
        let was_full = state.broadcast.is_full();
        let read = state.read(self.id);
        let has_room_again = was_full && !state.broadcast.is_full();
        drop(state);
        if has_room_again {
            self.shared.wake_readers();
        }
        if let NextPart::Part(part) = read { Some(part) } else { None }
    }

    /// Whether it has read the complete answer.
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_over || {
            let state = self.shared.state();
            state.failure.is_none() && state.broadcast.is_at_end(self.id)
        }
    }

    fn poll_next(&mut self, wanted: WantedPart, cx: &mut Context<'_>) -> Poll<FoundPart> {
        loop {
            let mut state = self.shared.state();
            let is_full = state.broadcast.is_full();
            if let Some(found) = state.find(self, wanted) {
                let waker = state.take_waker(self.id);
                let has_room_again = is_full && !state.broadcast.is_full();
                drop(state);
                drop(waker);
                if has_room_again {
                    self.shared.wake_readers();
                }
                return Poll::Ready(found);
            }
            // Before the upstream is polled, so that no wake-up is lost.
            let replaced = state.leave_waker(self.id, cx.waker());
            let room = if is_full && self.is_listening { state.broadcast.room(clock::now()) } else { Room::Free };
            if self.driver.is_none() && self.is_listening {
                self.driver.clone_from(&state.driver);
            }
            drop(state);
            drop(replaced);
            match room {
                Room::Free => {}
                Room::CutOff => self.shared.wake_readers(),
                Room::FullUntil(None) => return Poll::Pending,
                Room::FullUntil(Some(until)) => {
                    ready!(self.timeout.poll_until(until, cx));
                    continue;
                }
            }
            let Some(driver) = self.driver.as_ref().filter(|_| self.is_listening) else { return Poll::Pending };
            match driver.drive((wanted == WantedPart::Part).then_some(self.id)) {
                Driven::Wait => return Poll::Pending,
                Driven::Progress => {}
                Driven::Part(part) => return Poll::Ready(FoundPart::Part(part)),
            }
        }
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let was_full = state.broadcast.is_full();
        let waker = state.broadcast.leave(self.id);
        let has_room_again = was_full && !state.broadcast.is_full();
        let abandoned = if self.is_listening { state.listener_left() } else { None };
        let charge = if state.broadcast.listeners() == 0 { state.charge.take() } else { None };
        drop(state);
        drop((waker, charge));
        if has_room_again {
            self.shared.wake_readers();
        }
        if let Some(driver) = abandoned {
            driver.on_abandoned(self.cancellation.take());
        }
    }
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader").field("id", &self.id).field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    fn read(&mut self, reader: ReaderId) -> NextPart<BodyPart> {
        self.broadcast.read_with(reader, |held| self.compactor.share(held))
    }

    fn find(&mut self, reader: &LogReader, wanted: WantedPart) -> Option<FoundPart> {
        let read = match (wanted, &self.head) {
            (WantedPart::Head, Some(head)) => return Some(FoundPart::Head(head.clone())),
            (WantedPart::Head, None) if self.broadcast.has_ended() => NextPart::End,
            (WantedPart::Head, None) => NextPart::Wait,
            (WantedPart::Part, _) => self.read(reader.id),
        };
        Some(match read {
            NextPart::Wait => return None,
            NextPart::Part(part) => FoundPart::Part(part),
            NextPart::End => self.failure.clone().map_or(FoundPart::End, |failure| FoundPart::Failed(failure.into())),
            NextPart::Lost if reader.is_listening => FoundPart::Failed(DedupLagged::new(self.broadcast.lag()).into()),
            NextPart::Lost => FoundPart::Failed("the answer exceeds its limit".into()),
        })
    }
}
