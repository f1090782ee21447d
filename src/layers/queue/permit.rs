use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use http_body::Body;

use super::awaited_head::{AwaitedHead, HeadState};
use super::shared::Shared;
use super::state::HeldPlace;
use super::uploading::Uploading;
use crate::admission::{Permit, PermitEnd, Watch};
use crate::policy::queue::Load;
use crate::policy::verdict::{Classifier, Health, Outcome, Verdict};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;

/// A place, held until the call has ended. A pair of words stays in registers where it is moved: a larger permit would be
/// copied through memory, and each copy would wait for the writes before it.
#[derive(Debug)]
pub struct QueuePermit {
    shared: ThreadArc<Shared>,
    /// The place, and whether it is [`WATCHED`] or [`ANSWERED`].
    slot: u32,
}

/// A call whose head matters: with an adaptive limit, or while its request is still being sent.
#[derive(Debug)]
pub(super) struct WatchedCall {
    head: Box<AwaitedHead>,
    uploading: Option<Arc<Uploading>>,
}

/// Gives its place back even if the classifier, which is the user's, panics.
struct Leaving<'a> {
    permit: &'a QueuePermit,
    load: Load,
}

/// The layer watches its head. There are fewer slots than this bit and the next.
const WATCHED: u32 = 1 << 31;
/// Its head is here: it may wait for its reader.
const ANSWERED: u32 = 1 << 30;

// === impl WatchedCall ===

impl WatchedCall {
    pub(super) fn new<B: Body + 'static>(
        request: &mut Request<B>,
        shared: &Shared,
        uploading: Option<Arc<Uploading>>,
    ) -> Self {
        let sending = uploading.clone().map(Waker::from);
        Self { head: Box::new(AwaitedHead::new(request, &shared.config, sending)), uploading }
    }

    pub(super) fn uploading(&self) -> Option<&Uploading> {
        self.uploading.as_deref()
    }
}

// === impl QueuePermit ===

impl QueuePermit {
    #[inline]
    pub(super) fn new(shared: ThreadArc<Shared>, place: &HeldPlace, watched: Option<WatchedCall>) -> Self {
        match watched {
            None => Self { shared, slot: place.slot },
            Some(watched) => Self::watched(shared, place, watched),
        }
    }

    #[inline(never)]
    fn watched(shared: ThreadArc<Shared>, place: &HeldPlace, watched: WatchedCall) -> Self {
        let WatchedCall { mut head, uploading } = watched;
        // The wait for the upstream starts only now.
        head.since = clock::now();
        shared.set_head(place, HeadState::Awaited(head));
        uploading.inspect(|uploading| uploading.holds(&shared, place.slot));
        Self { shared, slot: place.slot | WATCHED }
    }

    #[inline]
    fn place(&self) -> HeldPlace {
        HeldPlace { slot: self.slot & !(WATCHED | ANSWERED) }
    }

    #[inline]
    fn is_watched(&self) -> bool {
        self.slot & WATCHED != 0
    }

    fn classify(&self, of_call: Option<&Classifier>, outcome: &Outcome<'_>) -> Verdict {
        of_call.unwrap_or(&self.shared.config.classifier).classify(outcome)
    }

    /// The head is here: if it was watched, its result follows.
    #[inline(never)]
    fn judge<B>(&self, response: &Response<B>) {
        let HeadState::Awaited(awaited) = self.shared.take_head(&self.place()) else { return };
        // First: the classifier is the user's, and may panic.
        awaited.sending.into_iter().for_each(Waker::wake);
        if self.shared.counts_losses() {
            let load = self.load_of(awaited.classifier.as_ref(), response);
            self.shared.set_head(&self.place(), HeadState::Judged(load));
        }
    }

    /// Judges the upstream's capacity by a head.
    fn load_of<B>(&self, of_call: Option<&Classifier>, response: &Response<B>) -> Load {
        let refused = Rejection::of(response).map(Rejection::kind);
        let status = response.status().as_u16();
        match self.classify(of_call, &Outcome::head(response)).health {
            _ if refused == Some(RejectionKind::FirstByteTimeout) => Load::Lost,
            Health::Throttled => Load::Lost,
            Health::Failure if refused.is_none() && matches!(status, 503 | 529) => Load::Lost,
            Health::Success => Load::Served,
            _ => Load::Unknown,
        }
    }

    #[inline(never)]
    fn end_watched(&self, end: PermitEnd<'_>) {
        let mut leaving = Leaving { permit: self, load: Load::Unknown };
        leaving.load = self.load_at_end(end);
    }

    /// What a watched call shows at its end.
    fn load_at_end(&self, end: PermitEnd<'_>) -> Load {
        match (self.shared.take_head(&self.place()), end) {
            (HeadState::Judged(load), PermitEnd::Head | PermitEnd::Complete) => load,
            // The head shows the loss; whether the rest would have been served is unknown.
            (HeadState::Judged(Load::Lost), PermitEnd::Broken(_) | PermitEnd::Dropped) => Load::Lost,
            (HeadState::Awaited(mut awaited), end) => {
                awaited.sending.take().into_iter().for_each(Waker::wake);
                if self.shared.counts_losses() { self.load_without_head(&awaited, end) } else { Load::Unknown }
            }
            _ => Load::Unknown,
        }
    }

    fn load_without_head(&self, awaited: &AwaitedHead, end: PermitEnd<'_>) -> Load {
        match end {
            // As in the breaker: if callers cancel first, no time limit ends a call.
            PermitEnd::Dropped if awaited.was_slow() => Load::Lost,
            PermitEnd::Failed(err) => {
                let verdict = self.classify(awaited.classifier.as_ref(), &Outcome::failure(err));
                // A refused connection counts like a refusing status.
                if verdict.health == Health::Failure && verdict.not_executed { Load::Lost } else { Load::Unknown }
            }
            _ => Load::Unknown,
        }
    }
}

impl Permit for QueuePermit {
    #[inline]
    fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.slot & ANSWERED != 0 {
            self.shared.return_to_upstream(&self.place());
        }
        poll(cx)
    }

    #[inline]
    fn head<B: Body>(&mut self, response: &mut Response<B>, _has_body: bool) -> Watch {
        if self.is_watched() {
            self.judge(response);
        }
        self.slot |= ANSWERED;
        self.shared.leave_to_reader(&self.place());
        Watch::Body
    }

    #[inline]
    fn data(&mut self, _is_empty: bool) {
        self.shared.leave_to_reader(&self.place());
    }

    #[inline]
    fn end(self, end: PermitEnd<'_>) {
        if self.is_watched() {
            return self.end_watched(end);
        }
        self.shared.leave(&self.place(), Load::Unknown);
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.permit.shared.leave(&self.permit.place(), self.load);
    }
}
