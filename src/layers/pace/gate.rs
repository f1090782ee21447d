use http::Request;
use http_body::Body;

use super::fleet::Share;
use super::key::{Decision, Limit};
use super::permit::PacePermit;
use super::shared::Shared;
use super::tokens::TokenEstimate;
use super::usage::Usage;
use super::wait::{PaceWait, PeersTurn};
use crate::admission::{Admission, Admit};
use crate::call::{Notice, Notices};
use crate::policy::pace::{Demand, Grant};
use crate::rt::clock;
use crate::rt::deadline::Deadline;
use crate::rt::per_thread::{PerThread, ThreadArc};

/// What the services of one layer share.
#[derive(Clone, Debug)]
pub struct PaceGate(pub(super) PerThread<Shared>);

// === impl PaceGate ===

impl Admit for PaceGate {
    type Permit = PacePermit;
    type Wait = PaceWait;

    /// Which key it will be is known with the request, and most of them are open.
    #[inline]
    fn is_open(&self) -> bool {
        true
    }

    #[inline]
    fn admit<B>(&self, request: &mut Request<B>) -> Admission<PacePermit, PaceWait>
    where
        B: Body + 'static,
    {
        let (limit, tenant) = self.0.limit(request);
        if limit.config().counts_tokens() || !limit.is_open() {
            return limited(limit, tenant, request);
        }
        let grant = Grant::unlimited(tenant, Demand { requests: 1, ..Demand::default() });
        Admission::Pass(PacePermit::new(limit, grant, 0, None, Share::default()))
    }
}

#[inline(never)]
fn limited<B: Body>(limit: ThreadArc<Limit>, tenant: u64, request: &Request<B>) -> Admission<PacePermit, PaceWait> {
    let now = clock::now();
    let max_wait = limit.config().max_wait;
    let left = Deadline::of(request.extensions()).map(|deadline| deadline.remaining_at(now));
    let patience = left.map_or(max_wait, |left| left.min(max_wait));

    let mut length = 0;
    let mut usage = None;
    let mut demand = Demand { requests: 1, ..Demand::default() };
    if limit.config().counts_tokens() {
        length = request.body().size_hint().lower();
        let TokenEstimate { input, max_output } = TokenEstimate::of(request.extensions());
        demand = limit.demand(length, input, max_output);
        usage = Some(Box::new(Usage::of(request.uri())));
    }
    let until = (now.checked_add(patience), left.is_some_and(|left| left < max_wait));
    if limit.shares_rates() {
        let turn = PeersTurn { tenant, demand, notices: Notices::of(request.extensions()) };
        return Admission::Wait(PaceWait::for_a_turn(limit, turn, until, length, usage));
    }
    match limit.arrive(tenant, demand, now, patience) {
        Decision::Go(grant) => Admission::Pass(PacePermit::new(limit, grant, length, usage, Share::default())),
        Decision::Waits(ticket, wait) => {
            let expected = (!wait.is_zero()).then_some(wait);
            Notices::report(request.extensions(), || Notice::Pace { expected });
            Admission::Wait(PaceWait::new(limit, ticket, until, length, usage))
        }
        Decision::TooLong(wait) => Admission::Refuse(limit.refuse(wait)),
        Decision::Again(_) => Admission::Aside,
    }
}
