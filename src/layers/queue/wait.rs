use std::sync::Arc;
use std::task::{Context, Poll};

use super::permit::{QueuePermit, WatchedCall};
use super::shared::{PlaceResult, Shared, WaitState};
use super::state::HeldPlace;
use crate::admission::Wait;
use crate::event::Event;
use crate::policy::queue::Ticket;
use crate::policy::wait_end::WaitEnd;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::alarm::Alarms;
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;

/// A wait for a place. Dropping it ends the wait; a place that it was given and did not take goes to the next call.
#[derive(Debug)]
pub struct QueueWait {
    shared: ThreadArc<Shared>,
    tenant: u64,
    /// `None`: the wait has ended.
    ticket: Option<Ticket>,
    /// It waits for a place among the calls whose requests are still being sent, and then for one among all.
    is_for_upload: bool,
    /// On the queue's clock.
    end: WaitEnd,
    /// For its permit, if its head matters. Boxed: most waiting calls have none.
    watched: Option<Box<WatchedCall>>,
}

// === impl QueueWait ===

impl QueueWait {
    pub(super) fn for_place(
        shared: ThreadArc<Shared>,
        tenant: u64,
        ticket: Ticket,
        end: WaitEnd,
        watched: Option<WatchedCall>,
    ) -> Self {
        let (ticket, is_for_upload, watched) = (Some(ticket), false, watched.map(Box::new));
        Self { shared, tenant, ticket, is_for_upload, end, watched }
    }

    pub(super) fn for_upload(
        shared: ThreadArc<Shared>,
        tenant: u64,
        ticket: Ticket,
        end: WaitEnd,
        watched: WatchedCall,
    ) -> Self {
        let mut wait = Self::for_place(shared, tenant, ticket, end, Some(watched));
        wait.is_for_upload = true;
        wait
    }

    /// Where it waits.
    fn places(&self) -> &Arc<Shared> {
        let uploading = || self.watched.as_ref().and_then(|watched| watched.uploading());
        let for_upload = if self.is_for_upload { uploading() } else { None };
        for_upload.map_or(self.shared.value(), |uploading| uploading.places())
    }

    fn give_up(&mut self) -> Rejection {
        let expected = self.places().expected_wait(self.tenant);
        self.end();
        if self.end.is_deadline {
            let kind = RejectionKind::DeadlineExceeded;
            self.shared.config.emitter.emit(&Event::Refused { kind });
            return Rejection::new(kind);
        }
        self.shared.refuse(expected)
    }

    fn pass(&mut self, place: &HeldPlace) -> QueuePermit {
        QueuePermit::new(self.shared.clone(), place, self.watched.take().map(|watched| *watched))
    }

    fn end(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.places().forget(ticket);
        }
    }
}

impl Wait for QueueWait {
    type Permit = QueuePermit;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<QueuePermit, Rejection>> {
        while let Some(ticket) = self.ticket {
            let now = clock::now();
            let at = self.shared.at(now);
            // A place wins over the end of the wait.
            let is_over = self.end.has_passed(at);
            let left = self.end.left(at);
            let sweep = match self.places().ask(ticket, cx.waker(), self.end.at()) {
                WaitState::Place(place) if self.is_for_upload => {
                    self.watched.as_ref().and_then(|watched| watched.uploading()).inspect(|it| it.begin(place));
                    (self.ticket, self.is_for_upload) = (None, false);
                    match self.shared.arrive(self.tenant, || (now, left)) {
                        PlaceResult::Waits(ticket) => self.ticket = Some(ticket),
                        PlaceResult::Full { expected } => return Poll::Ready(Err(self.shared.refuse(expected))),
                        PlaceResult::Place(place) => {
                            return Poll::Ready(Ok(self.pass(&place)));
                        }
                    }
                    continue;
                }
                WaitState::Place(place) => {
                    self.ticket = None;
                    return Poll::Ready(Ok(self.pass(&place)));
                }
                WaitState::Full => {
                    self.ticket = None;
                    let expected = self.places().expected_wait(self.tenant);
                    return Poll::Ready(Err(self.shared.refuse(expected)));
                }
                WaitState::Wait(sweep) => sweep,
            };
            if is_over {
                return Poll::Ready(Err(self.give_up()));
            }
            if let Some(next) = now.checked_add(left).into_iter().chain(sweep).min() {
                Alarms::set(self.places(), next);
            }
            return Poll::Pending;
        }
        Poll::Pending
    }
}

impl Drop for QueueWait {
    fn drop(&mut self) {
        self.end();
    }
}
