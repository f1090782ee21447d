use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body::Body;

use super::shared::Shared;
use super::state::HeldPlace;
use super::uploading::Uploading;
use crate::admission::{Permit, PermitEnd, Watch};
use crate::body::request::Upload;
use crate::policy::queue::Load;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::verdict::{Classifier, Health, Outcome, Verdict};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::rt::sync::{AtomicU32, Ordering};

/// A place, held until the call has ended.
#[derive(Debug)]
pub struct QueuePermit {
    shared: ThreadArc<Shared>,
    place: HeldPlace,
    load: Load,
    /// Odd while the call waits for its reader.
    turn: u32,
    /// For an adaptive limit, the state to judge a cancelled call; and for a request that is still being sent.
    waiting: Option<Box<AwaitedHead>>,
}

/// The state of a call that waits for its head.
#[derive(Debug)]
pub(super) struct AwaitedHead {
    since: Instant,
    upload: Upload,
    /// Tells whether a layer outside has cancelled it on purpose.
    cancellation: Option<Cancellation>,
    /// An upstream that has had the complete request for this long is slow.
    patience: Duration,
    /// Set if an adaptive limit's classifier reads the request.
    classifier: Option<Classifier>,
    uploading: Option<Arc<Uploading>>,
}

// === impl Waiting ===

impl AwaitedHead {
    pub(super) fn new<B: Body + 'static>(
        request: &mut Request<B>,
        shared: &Shared,
        uploading: Option<Arc<Uploading>>,
    ) -> Self {
        let profile = request.extensions().get().copied().unwrap_or(TimeoutProfile::EXTENDED_THINKING);
        Self {
            since: clock::now(),
            upload: Upload::watch(request.body_mut()),
            cancellation: request.extensions().get().cloned(),
            patience: profile.first_byte / 2,
            classifier: if shared.counts_losses() { shared.config.classifier.reading(request) } else { None },
            uploading,
        }
    }

    pub(super) fn uploading(&self) -> Option<&Uploading> {
        self.uploading.as_deref()
    }

    /// Whether the upstream kept the caller waiting so long that its leaving counts against the upstream.
    fn was_slow(&self) -> bool {
        let sent = match &self.upload {
            Upload::AtOnce => Some(self.since),
            Upload::Watched(watch) => watch.sent_since().map(|sent| sent.max(self.since)),
            Upload::Unknown => None,
        };
        let is_cancelled = self.cancellation.as_ref().is_some_and(Cancellation::is_cancelled);
        sent.is_some_and(|sent| clock::now().saturating_duration_since(sent) >= self.patience) && !is_cancelled
    }
}

// === impl QueuePermit ===

impl QueuePermit {
    pub(super) fn new(shared: ThreadArc<Shared>, place: HeldPlace, waiting: Option<Box<AwaitedHead>>) -> Self {
        let waiting = waiting.map(|mut waiting| {
            // The wait for the upstream starts only now.
            waiting.since = clock::now();
            waiting.uploading().inspect(|uploading| uploading.holds(&shared, place.slot));
            waiting
        });
        Self { shared, place, load: Load::Unknown, turn: 0, waiting }
    }

    /// Notes whose turn it is. Only this call writes it.
    #[inline]
    fn set_turn(&mut self, turn: u32) {
        self.turn = turn;
        if let Some(shown) = self.shared.turn(&self.place) {
            AtomicU32::store(shown, turn, Ordering::Relaxed);
        }
    }

    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        let of_call = self.waiting.as_ref().and_then(|waiting| waiting.classifier.as_ref());
        of_call.unwrap_or(&self.shared.config.classifier).classify(outcome)
    }

    /// Judges the upstream's capacity by a head.
    fn load_of<B>(&self, response: &Response<B>) -> Load {
        let refused = Rejection::of(response).map(Rejection::kind);
        let status = response.status().as_u16();
        match self.classify(&Outcome::head(response)).health {
            _ if refused == Some(RejectionKind::FirstByteTimeout) => Load::Lost,
            Health::Throttled => Load::Lost,
            Health::Failure if refused.is_none() && matches!(status, 503 | 529) => Load::Lost,
            Health::Success => Load::Served,
            _ => Load::Unknown,
        }
    }

    #[inline]
    fn leave_to_reader(&mut self) {
        self.set_turn(self.turn.wrapping_add(1) | 1);
    }
}

impl Permit for QueuePermit {
    #[inline]
    fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.turn % 2 == 1 {
            self.set_turn(self.turn.wrapping_add(1));
        }
        poll(cx)
    }

    #[inline]
    fn head<B: Body>(&mut self, response: &mut Response<B>, _has_body: bool) -> Watch {
        if self.shared.counts_losses() {
            self.load = self.load_of(response);
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.uploading().inspect(|uploading| uploading.end());
        }
        self.leave_to_reader();
        Watch::Body
    }

    #[inline]
    fn data(&mut self, _is_empty: bool) {
        self.leave_to_reader();
    }

    fn end(self, end: PermitEnd<'_>) {
        if let Some(uploading) = self.waiting.as_ref().and_then(|waiting| waiting.uploading()) {
            uploading.end();
        }
        if !self.shared.counts_losses() {
            return self.shared.leave(&self.place, Load::Unknown);
        }
        let load = match end {
            PermitEnd::Head | PermitEnd::Complete => self.load,
            // The head shows the loss; whether the rest would have been served is unknown.
            PermitEnd::Broken(_) | PermitEnd::Dropped if self.load == Load::Lost => Load::Lost,
            // As in the breaker: if callers cancel first, no time limit ends a call.
            PermitEnd::Dropped if self.waiting.as_ref().is_some_and(|waiting| waiting.was_slow()) => Load::Lost,
            PermitEnd::Failed(err) => {
                let verdict = self.classify(&Outcome::failure(err));
                // A refused connection counts like a refusing status.
                if verdict.health == Health::Failure && verdict.not_executed { Load::Lost } else { Load::Unknown }
            }
            PermitEnd::Broken(_) | PermitEnd::Dropped | PermitEnd::Panicked => Load::Unknown,
        };
        self.shared.leave(&self.place, load);
    }
}
