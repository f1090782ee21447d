use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::permit::{QueuePermit, Waiting};
use super::shared::{Shared, WaitState};
use crate::admission::Wait;
use crate::event::Event;
use crate::policy::queue::Ticket;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::rt::timeout::Timeout;
use crate::rt::timer::LazyTimer;

/// A wait for a place. Dropping it ends the wait; a place that it was given and did not take goes to the next call.
#[derive(Debug)]
pub struct QueueWait {
    shared: ThreadArc<Shared>,
    tenant: u64,
    /// `None`: the wait has ended.
    ticket: Option<Ticket>,
    until: Option<Instant>,
    /// Whether the deadline ends the wait, not its own limit.
    deadline_is_first: bool,
    timeout: Timeout,
    /// For the call that checks the readers.
    sweep: LazyTimer,
    /// Of the call, for its permit.
    waiting: Option<Box<Waiting>>,
}

// === impl QueueWait ===

impl QueueWait {
    pub(super) fn new(
        shared: ThreadArc<Shared>,
        tenant: u64,
        ticket: Ticket,
        (until, deadline_is_first): (Option<Instant>, bool),
        waiting: Option<Box<Waiting>>,
    ) -> Self {
        let (timeout, sweep) = (Timeout::default(), LazyTimer::default());
        Self { shared, tenant, ticket: Some(ticket), until, deadline_is_first, timeout, sweep, waiting }
    }

    fn give_up(&mut self) -> Rejection {
        let expected = self.shared.expected_wait(self.tenant);
        self.end();
        if self.deadline_is_first {
            let kind = RejectionKind::DeadlineExceeded;
            self.shared.config.emitter.emit(&Event::Refused { kind });
            return Rejection::new(kind);
        }
        self.shared.refuse(expected)
    }

    fn end(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.forget(ticket);
        }
    }
}

impl Wait for QueueWait {
    type Permit = QueuePermit;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<QueuePermit, Rejection>> {
        let Some(ticket) = self.ticket else { return Poll::Pending };
        loop {
            let sweep = match self.shared.ask(ticket, cx.waker()) {
                WaitState::Place(place) => {
                    self.ticket = None;
                    return Poll::Ready(Ok(QueuePermit::new(self.shared.clone(), place, self.waiting.take())));
                }
                WaitState::Full => {
                    self.ticket = None;
                    let expected = self.shared.expected_wait(self.tenant);
                    return Poll::Ready(Err(self.shared.refuse(expected)));
                }
                WaitState::Wait(sweep) => sweep,
            };
            if self.until.is_some_and(|until| self.timeout.poll_until(until, cx).is_ready()) {
                return Poll::Ready(Err(self.give_up()));
            }
            let Some(sweep) = sweep else { return Poll::Pending };
            ready!(self.sweep.poll_until(sweep, cx));
            self.shared.sweep(clock::now());
        }
    }
}

impl Drop for QueueWait {
    fn drop(&mut self) {
        self.end();
    }
}

/// The instant at which a wait ends without a place, and whether that is its deadline.
pub(super) fn until(now: Instant, max_wait: Duration, left: Option<Duration>) -> (Option<Instant>, bool) {
    let deadline_is_first = left.is_some_and(|left| left < max_wait);
    let patience = left.map_or(max_wait, |left| left.min(max_wait));
    (now.checked_add(patience), deadline_is_first)
}
