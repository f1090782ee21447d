use http::Request;
use http_body::Body;

use super::permit::{QueuePermit, Waiting};
use super::shared::{Arrived, Shared};
use super::wait::{QueueWait, until};
use crate::admission::{Admission, Admit};
use crate::call::{Notice, Notices};
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
        let waiting = shared.counts_losses().then(|| Box::new(Waiting::new(request)));
        let max_wait = shared.config.max_wait;
        let mut times = None;
        let arrived = shared.arrive(tenant, || {
            let now = clock::now();
            let left = Deadline::of(request.extensions()).map(|deadline| deadline.remaining_at(now));
            times = Some((now, left));
            (now, left.map_or(max_wait, |left| left.min(max_wait)))
        });
        match arrived {
            Arrived::Place(place) => Admission::Pass(QueuePermit::new(shared.hold(), place, waiting)),
            Arrived::Full { expected } => Admission::Refuse(shared.refuse(expected)),
            Arrived::Waits(ticket) => {
                Notices::report(request.extensions(), || Notice::Queue { expected: shared.expected_wait(tenant) });
                let (until, deadline_is_first) = times.map_or((None, false), |(now, left)| until(now, max_wait, left));
                Admission::Wait(QueueWait::new(shared.hold(), tenant, ticket, (until, deadline_is_first), waiting))
            }
        }
    }
}
