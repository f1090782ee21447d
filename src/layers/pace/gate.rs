use http::Request;
use http_body::Body;

use super::fleet::Share;
use super::key::{Limit, PaceDecision};
use super::permit::{CallCharge, PacePermit};
use super::shared::Shared;
use super::tokens::TokenEstimate;
use super::usage::{TokenCount, UsageReader};
use super::wait::{PaceWait, PeersTurn};
use crate::admission::{Admission, Admit};
use crate::body::request::Upload;
use crate::call::{Notice, Notices};
use crate::policy::pace::{Demand, Grant};
use crate::policy::wait_end::WaitEnd;
use crate::rt::clock;
use crate::rt::deadline::Deadline;
use crate::rt::per_thread::{PerThread, ThreadArc};

/// The state that the services of one layer share.
#[derive(Clone, Debug)]
pub struct PaceGate(pub(super) PerThread<Shared>);

/// The size, in bytes, of a request of unknown length until its usage is known: a prompt of 16,000 tokens.
const UNKNOWN_LENGTH: u64 = 64 * 1024;

// === impl PaceGate ===

impl Admit for PaceGate {
    type Permit = PacePermit;
    type Wait = PaceWait;

    /// The key is known only with the request, and most keys are open.
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
        let charge = limit.config().classifier.reading(request).map(CallCharge::judged_by);
        Admission::Pass(PacePermit::new(limit, Grant::unlimited(tenant), charge))
    }
}

#[inline(never)]
fn limited<B: Body + 'static>(
    limit: ThreadArc<Limit>,
    tenant: u64,
    request: &mut Request<B>,
) -> Admission<PacePermit, PaceWait> {
    let now = clock::now();
    let max_wait = limit.config().max_wait;
    let left = Deadline::of(request.extensions()).map(|deadline| deadline.remaining_at(now));
    let patience = left.map_or(max_wait, |left| left.min(max_wait));
    let end = |limit: &Limit| WaitEnd::new(limit.micros(now), max_wait, left);

    let mut tokens = None;
    let mut demand = Demand::REQUEST;
    if limit.config().counts_tokens() {
        let hint = request.body().size_hint();
        let length = hint.exact().unwrap_or_else(|| hint.lower().max(UNKNOWN_LENGTH));
        let TokenEstimate { input, max_output } = TokenEstimate::of(request.extensions());
        let max_output = max_output.or_else(|| UsageReader::output_limit(request));
        demand = limit.demand(length, input, max_output);
        let (length, usage) = (hint.exact().unwrap_or(0), UsageReader::of(request.uri()));
        tokens = Some(TokenCount { length, max_output, upload: Upload::watch(request.body_mut()), usage });
    }
    let is_shared = limit.shares_rates();
    let classifier = limit.config().classifier.reading(request);
    let is_charged = tokens.is_some() || is_shared || classifier.is_some();
    let charge = is_charged.then(|| Box::new(CallCharge { demand, tokens, share: Share::default(), classifier }));
    if is_shared {
        let turn = PeersTurn {
            tenant,
            demand,
            notices: Notices::of(request.extensions()),
            place: None,
            share: Share::default(),
        };
        let end = end(&limit);
        return Admission::Wait(PaceWait::for_a_turn(limit, turn, end, charge));
    }
    match limit.arrive(tenant, demand, now, patience) {
        PaceDecision::Go(grant) => Admission::Pass(PacePermit::new(limit, grant, charge)),
        PaceDecision::Waits(ticket, wait) => {
            let expected = (!wait.is_zero()).then_some(wait);
            Notices::report(request.extensions(), || Notice::Pace { expected });
            let end = end(&limit);
            Admission::Wait(PaceWait::new(limit, ticket, end, charge))
        }
        PaceDecision::TooLong(wait) => Admission::Refuse(limit.refuse(wait)),
        PaceDecision::Again(_) => Admission::Aside,
    }
}
