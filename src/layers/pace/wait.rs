use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::key::{Key, Told};
use super::permit::PacePermit;
use super::shared::Shared;
use super::usage::Usage;
use crate::admission::Wait;
use crate::event::Event;
use crate::policy::queue::Ticket;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

/// A wait for room in a limit. Dropping it ends the wait without a trace.
#[derive(Debug)]
pub struct PaceWait {
    shared: Arc<Shared>,
    key: Arc<Key>,
    /// `None`: the wait is over.
    ticket: Option<Ticket>,
    until: Option<Instant>,
    deadline_is_first: bool,
    timer: LazyTimer,
    length: u64,
    usage: Option<Usage>,
}

// === impl PaceWait ===

impl PaceWait {
    pub(super) fn new(
        shared: Arc<Shared>,
        key: Arc<Key>,
        ticket: Ticket,
        until: (Option<Instant>, bool),
        length: u64,
        usage: Option<Usage>,
    ) -> Self {
        shared.count_waiting(1.0);
        let (until, deadline_is_first) = until;
        let timer = LazyTimer::default();
        Self { shared, key, ticket: Some(ticket), until, deadline_is_first, timer, length, usage }
    }

    fn is_over(&mut self) {
        self.ticket = None;
        self.shared.count_waiting(-1.0);
    }

    fn give_up(&mut self) {
        if let Some(ticket) = self.ticket {
            self.is_over();
            self.key.forget(ticket, clock::now());
        }
    }

    /// It was late, or was always to be.
    fn refuse(&mut self, wait: Option<Duration>) -> Rejection {
        self.give_up();
        match wait {
            None if self.deadline_is_first => {
                let kind = RejectionKind::DeadlineExceeded;
                self.shared.config.emitter.emit(&Event::Refused { kind });
                Rejection::new(kind)
            }
            wait => self.shared.refuse(&self.key, wait.unwrap_or_default()),
        }
    }
}

impl Wait for PaceWait {
    type Permit = PacePermit;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<PacePermit, Rejection>> {
        loop {
            let Some(ticket) = self.ticket else { return Poll::Pending };
            let now = clock::now();
            let next = match self.key.ask(ticket, cx.waker(), now, self.until) {
                Told::Go(grant) => {
                    self.is_over();
                    let (shared, key) = (self.shared.clone(), self.key.clone());
                    return Poll::Ready(Ok(PacePermit::new(shared, key, grant, self.length, self.usage.take())));
                }
                Told::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                Told::Again(next) => next,
                Told::Waits(_) => None,
            };
            if self.until.is_some_and(|until| until <= now) {
                return Poll::Ready(Err(self.refuse(None)));
            }
            let Some(next) = self.until.into_iter().chain(next).min() else { return Poll::Pending };
            ready!(self.timer.poll_until(next, cx));
        }
    }
}

impl Drop for PaceWait {
    fn drop(&mut self) {
        self.give_up();
    }
}
