//! Stores calls in flight, and recent answers.
//!
//! [`DedupLayer`](crate::DedupLayer) asks a [`Store`] before every call that may be a duplicate. [`MemoryStore`] is for
//! one process, or one per process behind a load balancer with sticky callers. A store that several processes share is
//! another implementation of the same trait.
//!
//! # How a shared store works
//!
//! 1. [`Store::claim`] takes a lock for the key, with a lease. The claim that gets the lock leads: the store opens a
//!    [`ResponseLog`] with [`ClaimRequest::open_log`], returns its [`Recorder`] in [`Claim::Lead`], and keeps an
//!    [`observer`](ResponseLog::observer) of it. A task of the store sends head, parts and end from there to the backend,
//!    and renews the lease.
//! 2. A claim that loses the lock to the same process must return the same `ResponseLog` in [`Claim::Follow`]: its caller
//!    can then keep the call alive when the leading caller leaves.
//! 3. A claim that loses the lock to another process returns a `ResponseLog` that the store feeds from the backend with
//!    the log's own `Recorder`: first the recorded part, then the live part, never faster than [`Recorder::ready`]
//!    allows. The leading process's observer [listens](LogReader::listen) as long as a caller listens there: it then counts
//!    as one of the callers that keep the call alive.
//! 4. When the answer has ended, [`Lease::keep`] makes it a replay. A lease that is dropped without that frees the key,
//!    and the logs of followers in other processes must [fail](Recorder::fail). If a leading process dies, it no longer
//!    renews its lease, with the same effect: its followers' logs fail with [`LeaderGone`](crate::error::LeaderGone), and
//!    the layer claims again if the store declares [`Store::HANDS_OVER`].
//!
//! # The contract of a store
//!
//! - One leader: between a `Lead` and the end of its lease, no other claim of that key leads.
//! - Only complete answers are replayed: those given to [`Lease::keep`].
//! - Same key, other payload: [`Claim::Mismatch`], in flight and stored.
//! - Keys are compared in full, never by a prefix or a hash: they separate the tenants.
//! - An answer stored [with a guarantee](Retention::is_guaranteed) is never evicted before its time: its caller relies on
//!   it. If there is no room, the result is [`Claim::Full`].
//! - One [tenant](ClaimRequest::tenant) cannot take all of the store.
//! - A log that [has failed](ResponseLog::has_failed) is not followed: the next claim leads.
//! - All methods of [`Lease`], and `claim` itself, return at once. Slow work is done in the future that `claim` returns,
//!   or in a task of the store's own.
//!
//! The feature `store-suite` has `suite`, which tests any implementation against this contract.

pub(crate) mod answers;
mod claim;
mod drive;
mod elsewhere;
mod head;
mod last_good;
mod log;
mod log_body;
mod memory;
pub(crate) mod pace;
mod part;
mod reader;
mod recorder;
mod shared;
#[cfg(any(test, feature = "store-suite"))]
pub mod suite;
pub(crate) mod supersede;

use std::future::Future;
use std::sync::Arc;

pub use self::claim::{Claim, ClaimRequest, Retention};
pub use self::elsewhere::{AnswerFuture, AnswerOffer, AnswerOffers, OfferedAnswer, SharedAnswers};
pub use self::head::Head;
pub use self::last_good::{LastGoodAnswer, LastGoodKeys, SharedLastGood};
pub use self::log::ResponseLog;
pub use self::memory::{MemoryLease, MemoryStore};
pub use self::part::BodyPart;
pub use self::reader::LogReader;
pub use self::recorder::Recorder;
pub use crate::call::TenantHash;
pub use crate::proto::fingerprint::Fingerprint;

pub(crate) use self::drive::{Drive, Driven, Watched};
pub(crate) use self::log::Stopped;
pub(crate) use self::log_body::LogBody;
pub(crate) use self::recorder::AppendedPart;

use crate::error::BoxError;

/// Stores calls: see the [module](self) for the design and the contract.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::collections::HashMap;
/// use std::future::{Ready, ready};
/// use std::sync::{Arc, Mutex};
/// use tower_buttress::DedupLayer;
/// use tower_buttress::error::BoxError;
/// use tower_buttress::store::{Claim, ClaimRequest, Fingerprint, Lease, ResponseLog, Retention, Store};
///
/// /// What is in flight, by key. The token tells one lease of a key from the next.
/// type Calls = Arc<Mutex<HashMap<Fingerprint, (Fingerprint, ResponseLog, Arc<()>)>>>;
///
/// /// Callers join calls that are in flight. Nothing is replayed.
/// #[derive(Clone, Default)]
/// struct InFlightOnly(Calls);
///
/// struct InFlightLease {
///     calls: Calls,
///     key: Fingerprint,
///     token: Arc<()>,
/// }
///
/// impl Store for InFlightOnly {
///     type Lease = InFlightLease;
///     type Claim = Ready<Result<Claim<InFlightLease>, BoxError>>;
///
///     fn claim(&self, request: ClaimRequest) -> Self::Claim {
///         let (key, payload) = (*request.key(), *request.payload());
///         let mut calls = self.0.lock().unwrap();
///         ready(Ok(match calls.get(&key) {
///             Some((other, log, _)) if !log.has_failed() => {
///                 if *other == payload { Claim::Follow(log.clone()) } else { Claim::Mismatch }
///             }
///             _ => {
///                 let (recorder, log) = request.open_log();
///                 let token = Arc::new(());
///                 calls.insert(key, (payload, log, token.clone()));
///                 Claim::lead(InFlightLease { calls: self.0.clone(), key, token }, recorder)
///             }
///         }))
///     }
/// }
///
/// impl Lease for InFlightLease {
///     fn resize(&mut self, bytes: usize) -> bool {
///         bytes < 1024 * 1024
///     }
///
///     fn release(&mut self) {
///         let mut calls = self.calls.lock().unwrap();
///         if calls.get(&self.key).is_some_and(|(_, _, token)| Arc::ptr_eq(token, &self.token)) {
///             calls.remove(&self.key);
///         }
///     }
///
///     fn keep(self, _: Retention) {}
/// }
///
/// impl Drop for InFlightLease {
///     fn drop(&mut self) {
///         self.release();
///     }
/// }
///
/// let layer = DedupLayer::new().store(InFlightOnly::default());
/// # use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
/// # use http_body_util::{BodyExt, Full};
/// # use tower::{Layer, ServiceExt};
/// # static CALLS: AtomicU32 = AtomicU32::new(0);
/// # let upstream = tower::service_fn(|_: http::Request<_>| async {
/// #     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
/// #     CALLS.fetch_add(1, Relaxed);
/// #     Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::from("hello")))
/// # });
/// # let service = layer.layer(upstream);
/// # let ask = || {
/// #     let request = http::Request::post("/").header("authorization", "a").body(Full::<bytes::Bytes>::from("hi"));
/// #     let answer = service.clone().oneshot(request.unwrap());
/// #     async { answer.await.unwrap().into_body().collect().await.unwrap() }
/// # };
/// # tokio::join!(ask(), ask());
/// # assert_eq!(CALLS.load(Relaxed), 1);
/// # ask().await;
/// # assert_eq!(CALLS.load(Relaxed), 2);
/// # }
/// ```
pub trait Store: Clone + Send + Sync + 'static {
    /// The lease of a leading call.
    type Lease: Lease;

    /// The future of a claim.
    type Claim: Future<Output = Result<Claim<Self::Lease>, BoxError>> + Send;

    /// Whether a log in [`Claim::Follow`] may fail with [`LeaderGone`](crate::error::LeaderGone). A follower then keeps
    /// its request until there is a head, and claims again when that happens. Default: no.
    const HANDS_OVER: bool = false;

    /// Looks up whether the same request is in flight or was answered, and takes its key if not.
    ///
    /// # Errors
    ///
    /// Returns an error if the store cannot answer (for example because its backend is unreachable) and its operator
    /// prefers no call to a duplicate call. As with [`Claim::Full`] the call passes, or is refused if the layer has
    /// [`strict_keys`](crate::DedupLayer::strict_keys) and the request a key: as unreachable, with the error as the cause.
    /// A store that can work with this process's knowledge alone should do so and return no error.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. A lease that it has taken by then must be given back.
    fn claim(&self, request: ClaimRequest) -> Self::Claim;

    /// Reports that the upstream answered a call of this tenant with a 2xx; the call holds no lease, since the store had
    /// no room for it. [`Lease::accepted`] for calls without a lease. Default: nothing.
    fn accepted(&self, _tenant: &Fingerprint) {}

    /// Returns the answers of other processes that callers come back to. Default: none, an answer stays in its process.
    fn answers(&self) -> Option<Arc<dyn SharedAnswers>> {
        None
    }
}

/// Held by a leading call while it is in flight; after [`release`](Self::release), until its recording is dropped.
/// Dropping it frees the key.
///
/// See [`Store`] for an example.
pub trait Lease: Send + 'static {
    /// Sets the size of the recording to `bytes`. Returns whether there is room: if not, the recording ends, and parts
    /// that all readers have read are dropped.
    ///
    /// It is called for the head and for every part, also after `release`.
    fn resize(&mut self, bytes: usize) -> bool;

    /// Reports that the upstream has answered with a 2xx, and so knows the tenant. Default: nothing.
    ///
    /// A store with tenant shares can distinguish tenants that the upstream knows from strangers by it.
    fn accepted(&mut self) {}

    /// Frees the key: the answer will not be stored, and no other caller may follow it.
    fn release(&mut self);

    /// Stores the complete answer for replay.
    fn keep(self, retention: Retention);

    /// Returns the offers of the answer to other processes, for callers that may come back to it. Default: none.
    fn offers(&self) -> Option<Arc<dyn AnswerOffers>> {
        None
    }
}
