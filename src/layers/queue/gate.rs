use std::sync::Arc;
use std::time::Instant;

use http::Request;
use http_body::Body;

use super::permit::{QueuePermit, WatchedCall};
use super::shared::{PlaceResult, Shared};
use super::uploading::Uploading;
use super::wait::QueueWait;
use crate::admission::{Admission, Admit};
use crate::call::{Notice, Notices};
use crate::policy::wait_end::WaitEnd;
use crate::rt::clock;
use crate::rt::deadline::Deadline;
use crate::rt::per_thread::PerThread;

/// The state that the services of one layer share.
#[derive(Clone, Debug)]
pub struct QueueGate(pub(super) PerThread<Shared>);

// === impl QueueGate ===

impl Admit for QueueGate {
    type Permit = QueuePermit;
    type Wait = QueueWait;

    #[inline]
    fn is_open(&self) -> bool {
        !self.0.is_full()
    }

    #[inline]
    fn admit<B>(&self, request: &mut Request<B>) -> Admission<QueuePermit, QueueWait>
    where
        B: Body + 'static,
    {
        let Self(shared) = self;
        let tenant = shared.callers.of(request);
        if let Some(uploading) = Uploading::of(request, shared.uploads()) {
            return self.admit_upload(tenant, &uploading, request);
        }
        let watched = shared.counts_losses().then(|| WatchedCall::new(request, shared, None));
        let mut end = None;
        let arrived = shared.arrive(tenant, || {
            let now = clock::now();
            (now, end.insert(end_of(request, shared, now)).left(shared.at(now)))
        });
        match arrived {
            PlaceResult::Place(place) => Admission::Pass(QueuePermit::new(shared.hold(), &place, watched)),
            PlaceResult::Full { expected } => Admission::Refuse(shared.refuse(expected)),
            PlaceResult::Waits(ticket) => {
                Notices::report(request.extensions(), || Notice::Queue { expected: shared.expected_wait(tenant) });
                let end = end.unwrap_or_else(|| end_of(request, shared, clock::now()));
                Admission::Wait(QueueWait::for_place(shared.hold(), tenant, ticket, end, watched))
            }
        }
    }
}

impl QueueGate {
    /// A call whose request is still on its way takes one of the places for those first.
    #[inline(never)]
    fn admit_upload<B>(
        &self,
        tenant: u64,
        uploading: &Arc<Uploading>,
        request: &mut Request<B>,
    ) -> Admission<QueuePermit, QueueWait>
    where
        B: Body + 'static,
    {
        let Self(shared) = self;
        let now = clock::now();
        let end = end_of(request, shared, now);
        let now = || (now, end.left(shared.at(now)));
        let watched = WatchedCall::new(request, shared, Some(uploading.clone()));
        let expected = match uploading.places().arrive(tenant, now) {
            PlaceResult::Place(place) => {
                uploading.begin(place);
                match shared.arrive(tenant, now) {
                    PlaceResult::Place(place) => {
                        return Admission::Pass(QueuePermit::new(shared.hold(), &place, Some(watched)));
                    }
                    PlaceResult::Waits(ticket) => {
                        let expected = shared.expected_wait(tenant);
                        Notices::report(request.extensions(), || Notice::Queue { expected });
                        let watched = Some(watched);
                        return Admission::Wait(QueueWait::for_place(shared.hold(), tenant, ticket, end, watched));
                    }
                    PlaceResult::Full { expected } => expected,
                }
            }
            PlaceResult::Waits(ticket) => {
                let expected = uploading.places().expected_wait(tenant);
                Notices::report(request.extensions(), || Notice::Queue { expected });
                return Admission::Wait(QueueWait::for_upload(shared.hold(), tenant, ticket, end, watched));
            }
            PlaceResult::Full { expected } => expected,
        };
        Admission::Refuse(shared.refuse(expected))
    }
}

/// The end of its wait, if it waits.
fn end_of<B>(request: &Request<B>, shared: &Shared, now: Instant) -> WaitEnd {
    let left = Deadline::of(request.extensions()).map(|deadline| deadline.remaining_at(now));
    WaitEnd::new(shared.at(now), shared.config.max_wait, left)
}
