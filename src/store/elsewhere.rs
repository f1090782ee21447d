//! Answers that callers come back to, where several processes share a store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::Recorder;
use crate::error::BoxError;
use crate::proto::fingerprint::Fingerprint;

/// An answer that callers come back to ([`DedupLayer::resumable`](crate::DedupLayer::resumable)), as other processes must
/// know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OfferedAnswer {
    /// Tells the ids of its events from those of other streams.
    pub number: u64,
    /// On whose account the call is made.
    pub tenant: Fingerprint,
    /// Whether its events may be given ids.
    pub bears_ids: bool,
}

/// What is told when a caller is given a token for an answer.
#[derive(Clone)]
#[non_exhaustive]
pub struct AnswerOffer {
    /// The hash of the token. The token itself is the caller's.
    pub token: Fingerprint,
    /// The answer.
    pub answer: OfferedAnswer,
    /// How long it can be read after its end.
    pub window: Duration,
    /// Ends the call and forgets the answer: to be called when a caller says so to another process.
    pub on_stop: Arc<dyn Fn() + Send + Sync>,
}

/// Tells the other processes where the answer to one call is: see [`Lease::offers`](super::Lease::offers). It is kept for as
/// long as the answer can be read here.
///
/// All methods return at once. See [`SharedAnswers`] for an example.
pub trait AnswerOffers: Send + Sync + 'static {
    /// A caller was given a token.
    fn offer(&self, offer: AnswerOffer);

    /// The answer has ended: from now on it can be read for the window of its offers.
    fn ended(&self);

    /// The answer is forgotten: its tokens lead nowhere from now on.
    fn withdraw(&self);
}

/// The answers that other processes have offered: see [`Store::answers`](super::Store::answers). Tokens are given by their
/// hashes.
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
    /// The answer of this token; `None`: there is none, or there is none any more.
    fn find(&self, token: Fingerprint) -> AnswerFuture<Result<Option<OfferedAnswer>, BoxError>>;

    /// Feeds a log with the answer of this token from its first part on: what its process has recorded, then, after
    /// [`Recorder::caught_up`], what comes. Nothing is asked of an upstream. Where its process is gone, the log
    /// [fails](Recorder::fail) with [`LeaderGone`](crate::error::LeaderGone); where that says
    /// [`is_unreachable`](crate::error::LeaderGone::is_unreachable), the caller is told to come back.
    ///
    /// It returns at once. While the log has a listener, it counts as one of the call's; when it has none any more, it is
    /// fed no longer. What is received and not yet written is at most 384 KiB.
    fn feed(&self, token: Fingerprint, recorder: Recorder);

    /// Ends the call, wherever it is made, and forgets the answer. Ready when the token leads nowhere, or when its process
    /// did not say so in time, which is an error: the caller is told to come back.
    fn stop(&self, token: Fingerprint) -> AnswerFuture<Result<(), BoxError>>;
}

/// What the methods of [`SharedAnswers`] return.
pub type AnswerFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

// === impl OfferedAnswer ===

impl OfferedAnswer {
    /// An answer with this number, of this tenant.
    #[must_use]
    pub fn new(number: u64, tenant: Fingerprint, bears_ids: bool) -> Self {
        Self { number, tenant, bears_ids }
    }
}

// === impl AnswerOffer ===

impl AnswerOffer {
    /// A token, by its hash, for this answer.
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
