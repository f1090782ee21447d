//! Answers that callers come back to, if several processes share a store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::Recorder;
use crate::error::BoxError;
use crate::proto::fingerprint::Fingerprint;

/// What other processes must know of an answer that callers come back to
/// ([`DedupLayer::resumable`](crate::DedupLayer::resumable)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OfferedAnswer {
    /// Distinguishes the ids of its events from those of other streams.
    pub number: u64,
    /// The tenant on whose account the call is made.
    pub tenant: Fingerprint,
    /// Whether its events may be given ids.
    pub bears_ids: bool,
}

/// The offer to other processes when a caller gets a token for an answer.
#[derive(Clone)]
#[non_exhaustive]
pub struct AnswerOffer {
    /// The hash of the token. Only the caller has the token itself.
    pub token: Fingerprint,
    /// The answer.
    pub answer: OfferedAnswer,
    /// How long the answer stays readable after its end.
    pub window: Duration,
    /// Ends the call and removes the answer. The store calls it when a caller stops the answer at another process.
    pub on_stop: Arc<dyn Fn() + Send + Sync>,
}

/// Offers the answer to one call to other processes: see [`Lease::offers`](super::Lease::offers). The layer keeps it for
/// as long as the answer is readable in this process.
///
/// All methods return at once. See [`SharedAnswers`] for an example.
pub trait AnswerOffers: Send + Sync + 'static {
    /// Called when a caller got a token.
    fn offer(&self, offer: AnswerOffer);

    /// Called when the answer has ended: it stays readable for the window of its offers.
    fn ended(&self);

    /// Called when the answer was removed: its tokens are invalid from now on.
    fn withdraw(&self);
}

/// Finds the answers that other processes have offered: see [`Store::answers`](super::Store::answers). Tokens are
/// identified by their hashes.
///
/// ```
/// use std::collections::HashMap;
/// use std::future::ready;
/// use std::sync::{Arc, Mutex};
/// use tower_buttress::error::{BoxError, LeaderGone};
/// use tower_buttress::store::{
///     AnswerFuture, AnswerOffer, AnswerOffers, Fingerprint, OfferedAnswer, Recorder, SharedAnswers,
/// };
///
/// type Offers = Arc<Mutex<HashMap<Fingerprint, AnswerOffer>>>;
///
/// /// What one call tells of its answer.
/// struct Call {
///     token: Mutex<Option<Fingerprint>>,
///     offers: Offers,
/// }
///
/// impl AnswerOffers for Call {
///     fn offer(&self, offer: AnswerOffer) {
///         *self.token.lock().unwrap() = Some(offer.token);
///         self.offers.lock().unwrap().insert(offer.token, offer);
///     }
///
///     fn ended(&self) {}
///
///     fn withdraw(&self) {
///         if let Some(token) = self.token.lock().unwrap().take() {
///             self.offers.lock().unwrap().remove(&token);
///         }
///     }
/// }
///
/// /// Answers that can be stopped from everywhere, and are read only where they are.
/// struct Stoppable(Offers);
///
/// impl SharedAnswers for Stoppable {
///     fn find(&self, token: Fingerprint) -> AnswerFuture<Result<Option<OfferedAnswer>, BoxError>> {
///         let answer = self.0.lock().unwrap().get(&token).map(|offer| offer.answer);
///         Box::pin(ready(Ok(answer)))
///     }
///
///     fn feed(&self, _token: Fingerprint, recorder: Recorder) {
///         recorder.fail(LeaderGone::unreachable());
///     }
///
///     fn stop(&self, token: Fingerprint) -> AnswerFuture<Result<(), BoxError>> {
///         if let Some(offer) = self.0.lock().unwrap().remove(&token) {
///             (offer.on_stop)();
///         }
///         Box::pin(ready(Ok(())))
///     }
/// }
///
/// # use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let offers = Offers::default();
/// let call = Call { token: Mutex::default(), offers: offers.clone() };
/// let shared = Stoppable(offers);
/// let (token, tenant) = (Fingerprint::from_bytes([7; 32]), Fingerprint::from_bytes([1; 32]));
/// # let stopped = Arc::new(AtomicBool::new(false));
/// # let was_stopped = stopped.clone();
/// # let on_stop = Arc::new(move || was_stopped.store(true, Relaxed));
/// let window = std::time::Duration::from_secs(300);
/// call.offer(AnswerOffer::new(token, OfferedAnswer::new(1, tenant, true), window, on_stop));
/// assert_eq!(shared.find(token).await.unwrap().map(|answer| answer.tenant), Some(tenant));
///
/// shared.stop(token).await.unwrap();
/// # assert!(stopped.load(Relaxed));
/// assert_eq!(shared.find(token).await.unwrap(), None);
/// # }
/// ```
pub trait SharedAnswers: Send + Sync + 'static {
    /// Returns the answer of this token; `None`: there is none (any more).
    fn find(&self, token: Fingerprint) -> AnswerFuture<Result<Option<OfferedAnswer>, BoxError>>;

    /// Feeds a log with the answer of this token from its first part: the part that its process has recorded, then, after
    /// [`Recorder::caught_up`], the live part. It makes no upstream call. If its process is gone, the log
    /// [fails](Recorder::fail) with [`LeaderGone`](crate::error::LeaderGone); if that is only
    /// [`is_unreachable`](crate::error::LeaderGone::is_unreachable), the layer tells the caller to retry.
    ///
    /// It returns at once. While the log has a listener, it counts as a listener of the call; without one, feeding stops.
    /// At most 384 KiB are received and not yet written.
    fn feed(&self, token: Fingerprint, recorder: Recorder);

    /// Ends the call, in whichever process it runs, and removes the answer. Completes when the token is invalid, or with
    /// an error when its process did not confirm in time: the layer tells the caller to retry.
    fn stop(&self, token: Fingerprint) -> AnswerFuture<Result<(), BoxError>>;
}

/// The future that the methods of [`SharedAnswers`] return.
pub type AnswerFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

// === impl OfferedAnswer ===

impl OfferedAnswer {
    /// Returns an answer with this number, of this tenant.
    #[must_use]
    pub fn new(number: u64, tenant: Fingerprint, bears_ids: bool) -> Self {
        Self { number, tenant, bears_ids }
    }
}

// === impl AnswerOffer ===

impl AnswerOffer {
    /// Returns an offer of this answer under a token, given by its hash.
    #[must_use]
    pub fn new(
        token: Fingerprint,
        answer: OfferedAnswer,
        window: Duration,
        on_stop: Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self { token, answer, window, on_stop }
    }
}

impl fmt::Debug for AnswerOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerOffer")
            .field("answer", &self.answer)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
