use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::head::Head;
use super::log::{Drive, Driven, Shared, State};
use super::part::Part;
use crate::error::{BoxError, DedupLagged};
use crate::policy::flight::{Read, ReaderId, Room};
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

/// Somebody who reads a [`Log`](super::Log): from the first part on, and live once it has caught up.
///
/// # Cancel safety
///
/// Polling it and going away loses nothing. When the last one who listens is dropped, the call is given up, or kept
/// for a while, as its owner wants it.
pub struct Reader {
    shared: Arc<Shared>,
    id: ReaderId,
    observes: bool,
    /// Kept from the first time that it was needed.
    engine: Option<Arc<dyn Drive>>,
    /// Waits for the end of the patience with the slowest.
    timer: LazyTimer,
    over: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Head,
    Part,
}

enum Found {
    Head(Arc<Head>),
    Part(Part),
    End,
    Failed(BoxError),
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, id: ReaderId) -> Self {
        Self { shared, id, observes: false, engine: None, timer: LazyTimer::default(), over: false }
    }

    pub(super) fn observing(shared: Arc<Shared>, id: ReaderId) -> Self {
        let mut reader = Self::new(shared, id);
        reader.observes = true;
        reader
    }

    /// The head.
    ///
    /// # Errors
    ///
    /// The call came to nothing before it had one.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Head>, BoxError>> {
        Poll::Ready(match ready!(self.poll_next(Wanted::Head, cx)) {
            Found::Head(head) if self.observes => Ok(Arc::new(head.stored().into_owned())),
            Found::Head(head) => Ok(head),
            Found::Failed(why) => Err(why),
            Found::Part(_) | Found::End => Err("the call ended without an answer".into()),
        })
    }

    /// The next part of the body; `None` when it is over.
    ///
    /// # Errors
    ///
    /// The call broke off, or this reader kept the others waiting for too long ([`DedupLagged`]).
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Part, BoxError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let found = match ready!(self.poll_next(Wanted::Part, cx)) {
            Found::Part(part) => return Poll::Ready(Some(Ok(part))),
            Found::Failed(why) => Some(Err(why)),
            Found::Head(_) | Found::End => None,
        };
        self.over = true;
        Poll::Ready(found)
    }

    /// Whether it has read all there will be.
    pub(crate) fn is_at_end(&self) -> bool {
        self.over || {
            let state = self.shared.state();
            state.failure.is_none() && state.flight.is_at_end(self.id)
        }
    }

    fn poll_next(&mut self, wanted: Wanted, cx: &mut Context<'_>) -> Poll<Found> {
        loop {
            let mut state = self.shared.state();
            let full = state.flight.is_full();
            if let Some(found) = state.look(self, wanted) {
                let waker = state.take_waker(self.id);
                let room_again = full && !state.flight.is_full();
                drop(state);
                drop(waker);
                if room_again {
                    self.shared.ring();
                }
                return Poll::Ready(found);
            }
            // Before anybody is asked: what comes from now on, we are told.
            let replaced = state.leave_waker(self.id, cx.waker());
            let room = if full { state.flight.room(clock::now()) } else { Room::Free };
            if self.engine.is_none() && !self.observes {
                self.engine.clone_from(&state.engine);
            }
            drop(state);
            drop(replaced);
            match room {
                Room::Free => {}
                Room::CutOff => self.shared.ring(),
                Room::FullUntil(None) => return Poll::Pending,
                Room::FullUntil(Some(until)) => {
                    ready!(self.timer.poll_until(until, cx));
                    continue;
                }
            }
            let Some(engine) = &self.engine else { return Poll::Pending };
            match engine.drive((wanted == Wanted::Part).then_some(self.id)) {
                Driven::Wait => return Poll::Pending,
                Driven::Progress => {}
                Driven::Part(part) => return Poll::Ready(Found::Part(part)),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let full = state.flight.is_full();
        let waker = state.flight.leave(self.id);
        let room_again = full && !state.flight.is_full();
        let on_abandoned = if self.observes { None } else { state.last_reader_left() };
        let account = if state.flight.listeners() == 0 { state.account.take() } else { None };
        drop(state);
        drop((waker, account));
        if room_again {
            self.shared.ring();
        }
        if let Some(engine) = on_abandoned {
            engine.on_abandoned();
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("id", &self.id).field("over", &self.over).finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    fn look(&mut self, reader: &Reader, wanted: Wanted) -> Option<Found> {
        let read = match (wanted, &self.head) {
            (Wanted::Head, Some(head)) => return Some(Found::Head(head.clone())),
            (Wanted::Head, None) if self.flight.is_over() => Read::End,
            (Wanted::Head, None) => Read::Wait,
            (Wanted::Part, _) => self.flight.read(reader.id),
        };
        Some(match read {
            Read::Wait => return None,
            Read::Part(part) => Found::Part(part),
            Read::End => self.failure.clone().map_or(Found::End, |failure| Found::Failed(failure.into())),
            Read::Lost if reader.observes => Found::Failed("the call has outgrown its recording".into()),
            Read::Lost => Found::Failed(DedupLagged::new(self.flight.lag()).into()),
        })
    }

    /// Notes that a listener left. If it was the last one, what should be told so.
    fn last_reader_left(&mut self) -> Option<Arc<dyn Drive>> {
        if self.flight.listeners() > 0 || self.flight.is_over() {
            return None;
        }
        self.abandon_count += 1;
        let engine = self.engine.clone()?;
        // A keeper that is there already begins its watch anew.
        (!std::mem::replace(&mut self.kept, true)).then_some(engine)
    }
}
