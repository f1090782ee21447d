use std::sync::OnceLock;
use std::task::Waker;
use std::time::{Duration, Instant};

use http::Request;
use http_body::Body;

use super::config::Config;
use crate::body::request::Upload;
use crate::policy::queue::Load;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::verdict::Classifier;
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::sync::{Mutex, lock};

/// The state of a call that waits for its head: to judge it with an adaptive limit if it is cancelled, or because its
/// request is still being sent.
#[derive(Debug)]
pub(super) struct AwaitedHead {
    pub(super) since: Instant,
    upload: Upload,
    /// Tells whether a layer outside has cancelled it on purpose.
    cancellation: Option<Cancellation>,
    /// An upstream that has had the complete request for this long is slow.
    patience: Duration,
    /// Set if an adaptive limit's classifier reads the request.
    pub(super) classifier: Option<Classifier>,
    /// Set if its request is still being sent; woken when there is a head, or none will come.
    pub(super) sending: Option<Waker>,
}

/// The calls whose heads are awaited or judged, by their places. They are not in the calls' permits, which are moved often.
pub(super) struct Heads(OnceLock<Box<[Mutex<HeadState>]>>);

#[derive(Debug, Default)]
pub(super) enum HeadState {
    #[default]
    Unwatched,
    Awaited(Box<AwaitedHead>),
    /// The head showed this.
    Judged(Load),
}

// === impl AwaitedHead ===

impl AwaitedHead {
    pub(super) fn new<B: Body + 'static>(request: &mut Request<B>, config: &Config, sending: Option<Waker>) -> Self {
        let profile = request.extensions().get().copied().unwrap_or(TimeoutProfile::EXTENDED_THINKING);
        Self {
            since: clock::now(),
            upload: Upload::watch(request.body_mut()),
            cancellation: request.extensions().get().cloned(),
            patience: profile.first_byte / 2,
            classifier: if config.limit.counts_losses() { config.classifier.reading(request) } else { None },
            sending,
        }
    }

    /// Whether the upstream kept the caller waiting so long that its leaving counts against the upstream.
    pub(super) fn was_slow(&self) -> bool {
        let sent = match &self.upload {
            Upload::AtOnce => Some(self.since),
            Upload::Watched(watch) => watch.sent_since().map(|sent| sent.max(self.since)),
            Upload::Unknown => None,
        };
        let is_cancelled = self.cancellation.as_ref().is_some_and(Cancellation::is_cancelled);
        sent.is_some_and(|sent| clock::now().saturating_duration_since(sent) >= self.patience) && !is_cancelled
    }
}

// === impl Heads ===

impl Heads {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Replaces the state of the call in this place, one of `places`.
    pub(super) fn set(&self, slot: u32, state: HeadState, places: u32) {
        let all = self.0.get_or_init(|| (0..places).map(|_| Mutex::default()).collect());
        if let Some(here) = usize::try_from(slot).ok().and_then(|slot| all.get(slot)) {
            *lock(here) = state;
        }
    }

    /// Takes the state of the call in this place.
    pub(super) fn take(&self, slot: u32) -> HeadState {
        let here = self.0.get().and_then(|all| all.get(usize::try_from(slot).ok()?));
        here.map(|here| std::mem::take(&mut *lock(here))).unwrap_or_default()
    }
}
