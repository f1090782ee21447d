//! Calls in flight in any process, and recent answers.

mod feed;
mod follower;
mod inbox;
mod inner;
mod last_good;
mod leader;
mod lease;
mod offers;
mod relay;
mod replay;
mod settling;
mod taken;
mod updates;
mod watch;
mod wire;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tower_buttress::Observer;
use tower_buttress::error::BoxError;
use tower_buttress::store::{Claim, ClaimRequest, Fingerprint, MemoryStore, SharedAnswers, Store};

use self::inner::{Inner, StoreSettings};
pub use self::last_good::FleetLastGood;
use self::leader::Mailbox;
pub use self::lease::RedisLease;
use self::offers::AnswersElsewhere;
use self::replay::Replayed;
use self::settling::Settling;
use self::taken::TakenClaim;
use crate::backend::{Backend, BackendError, ClaimArgs, Claimed, Flight, FlightEnd, FlightState, Process, Token};
use crate::client::Redis;
use crate::options::Outage;

/// A store of [`DedupLayer`](tower_buttress::DedupLayer) shared by processes: a double click on two machines is one
/// call, and every process knows every `Idempotency-Key`.
///
/// ```
/// use tower_buttress::DedupLayer;
/// use tower_buttress_redis::{Redis, RedisOptions, RedisStore};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
/// let layer = DedupLayer::new().store(RedisStore::new(redis));
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
///
/// # What happens when
///
/// - *A call is made that no other process wants*: its key is claimed before it, and freed or kept after it. Its
///   answer is written to Redis once, at its end, and only if it is kept.
/// - *Another process wants it meanwhile*: the calling process writes what it has to Redis, then each part as it
///   comes. The other reads it from the first part, within about a millisecond. Its caller counts as a listener.
/// - *The answer was kept*: every process replays it, with its age.
/// - *The calling process dies before the head*: the others notice within about 2 s, and one of them repeats the call.
///   A suspended process holds its lease for 10 s.
/// - *A process is asked for a call that it no longer has* (Redis missed that its key is free): it frees the key and
///   says so at once, and the asking process makes the call.
/// - *The calling process dies after the head*: readers in other processes get an error. A truncated answer never
///   looks whole.
/// - *A process loses its lease* (it was suspended for longer): its callers read its answer, which is not kept.
/// - *Redis is unreachable*: a claim waits once for [`patience`](crate::RedisOptions::patience), later claims do not
///   wait. Each process uses its own state ([`Outage::Local`]). Calls in flight continue for callers of their own
///   process; readers elsewhere wait 10 s for Redis, then get an error.
/// - *A caller comes back to an answer* of another process ([`resumable`](tower_buttress::DedupLayer::resumable)):
///   that process shares it as above, in flight or ended, while it lives. 5 s after its death a kept answer is read to
///   its end; any other is gone (410). If Redis is unreachable, or this process has no memory for another such reader
///   (0.5 MiB each, a quarter of the layer's memory per tenant), the caller gets a `Retry-After` of 1 s. `DELETE`
///   succeeds once the calling process has confirmed it; without confirmation within 1.5 s the caller must repeat it.
/// - *Redis has no memory left*: the answer is neither shared nor kept there, and an event reports it.
///
/// The [crate's documentation](crate#what-is-promised) has the promises and their limits.
///
/// # Cost
///
/// One script per claim, one at the end of a leading call, and a small one per third of a lease in between. A claim
/// that this process can answer itself sends nothing. [`MemoryStore`] holds this process's calls and uses its memory.
pub struct RedisStore<B = Redis> {
    inner: Arc<Inner<B>>,
}

/// The backend's decision on a claim.
enum ClaimDecision {
    Lead,
    Mismatch,
    /// This flight is in flight in another process; the duration is its age.
    Follow(Flight, Process, Duration),
    /// The answer is in flight, and closed to new followers.
    Outgrown,
    /// The answer is kept: its age, and how much longer it is kept.
    Replay(Replayed, Duration, Duration),
    Outage(BackendError),
}

/// What the backend says of a key.
enum KeyState {
    /// Its answer is kept: its age, and how much longer it is kept.
    Kept(Flight, Duration, Duration),
    Other(ClaimDecision),
}

/// The default limit of one tenant's kept answers in Redis.
const TENANT_BYTES: u64 = 64 * 1024 * 1024;

/// Limit of claims for a key whose earlier attempts found only remains of a dead call or kept answer.
const MAX_CLAIMS: u32 = 3;

/// How much longer than one operation a claim may take, and so may the read of a kept answer. Without an answer the operation times out first and
/// counts as an outage, so that later claims do not wait.
const DECISION_GRACE: Duration = Duration::from_millis(10);

// === impl RedisStore ===

impl<B: Backend> RedisStore<B> {
    /// A store on this engine. All stores on the same Redis with the same prefix are one.
    #[must_use]
    pub fn new(backend: B) -> Self {
        let settings =
            StoreSettings { lease: Duration::from_secs(10), max_log: 8 * 1024 * 1024, tenant_bytes: TENANT_BYTES };
        Self {
            inner: Arc::new(Inner {
                backend,
                memory: MemoryStore::default(),
                process: Process::random(),
                settings,
                observer: None,
                leaders: Mutex::default(),
                settling: Settling::default(),
                hears_wants: AtomicBool::new(false),
            }),
        }
    }

    /// Holds this process's own calls. Default: [`MemoryStore::default`].
    ///
    /// Set it before the store is used or cloned: existing clones keep the old one.
    #[must_use]
    pub fn memory(self, memory: MemoryStore) -> Self {
        self.with(|inner| inner.memory = memory)
    }

    /// How long a silent process holds a key. Default: 10 s; at least 1 s.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|inner| inner.settings.lease = lease.max(Duration::from_secs(1)))
    }

    /// Limits the length of an answer in Redis, in bytes. Default: 8 MiB. A longer answer is no longer shared, and
    /// readers in other processes get an error.
    #[must_use]
    pub fn max_log(self, bytes: u64) -> Self {
        self.with(|inner| inner.settings.max_log = bytes)
    }

    /// Limits one tenant's kept answers in Redis, in bytes, each with 512 more for its keys. Default: 64 MiB; choose about an eighth of Redis's memory
    /// for answers. Beyond the limit only the calling process keeps an answer, within the tenant's share of its
    /// [`memory`](Self::memory), and an event reports it.
    ///
    /// Callers without an authenticated [`Tenant`](tower_buttress::Tenant), whose call is not answered with a 2xx, have one
    /// tenant's share together. Over gRPC the status shows that, mostly at the end of an answer.
    ///
    /// Its answers in flight that other processes read may take as much again, or one [`max_log`](Self::max_log) if that is
    /// more. Beyond it an answer is not shared, which an event reports: other processes make their own calls, and readers
    /// that have its head get an error. All gRPC streams in flight of callers without an authenticated tenant that other
    /// processes read have this room together.
    #[must_use]
    pub fn tenant_bytes(self, bytes: u64) -> Self {
        self.with(|inner| inner.settings.tenant_bytes = bytes)
    }

    /// Receives events when an answer could not be shared or kept.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|inner| inner.observer = Some(observer))
    }

    fn with(self, set: impl FnOnce(&mut Inner<B>)) -> Self {
        let mut inner = Arc::try_unwrap(self.inner).unwrap_or_else(|shared| Inner {
            backend: shared.backend.clone(),
            memory: shared.memory.clone(),
            process: Process::random(),
            settings: shared.settings,
            observer: shared.observer.clone(),
            leaders: Mutex::default(),
            settling: Settling::default(),
            hears_wants: AtomicBool::new(false),
        });
        set(&mut inner);
        Self { inner: Arc::new(inner) }
    }
}

impl<B: Backend> Store for RedisStore<B> {
    type Lease = RedisLease;
    type Claim = Pin<Box<dyn Future<Output = Result<Claim<RedisLease>, BoxError>> + Send>>;

    const HANDS_OVER: bool = true;

    fn claim(&self, request: ClaimRequest) -> Self::Claim {
        Box::pin(self.inner.clone().claim(request))
    }

    fn accepted(&self, tenant: &Fingerprint) {
        self.inner.memory.accepted(tenant);
    }

    fn answers(&self) -> Option<Arc<dyn SharedAnswers>> {
        Some(Arc::new(AnswersElsewhere(self.inner.clone())))
    }
}

impl<B> Clone for RedisStore<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<B> fmt::Debug for RedisStore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("process", &self.inner.process)
            .field("memory", &self.inner.memory)
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

// === impl Inner ===

impl<B: Backend> Inner<B> {
    async fn claim(self: Arc<Self>, request: ClaimRequest) -> Result<Claim<RedisLease>, BoxError> {
        // A call of this process has just ended, and its task is asking Redis to keep the answer.
        self.settling.wait(request.key(), self.backend.patience()).await;
        let (memory, recorder) = match self.memory.claim(request).await? {
            Claim::Lead { lease, recorder, .. } => (lease, recorder),
            Claim::Follow(log) => return Ok(Claim::Follow(log)),
            Claim::Replay(log) => return Ok(Claim::Replay(log)),
            Claim::Mismatch => return Ok(Claim::Mismatch),
            Claim::Full { retry_after, .. } => return Ok(Claim::full(retry_after)),
            _ => return Err("unknown result of a claim".into()),
        };
        self.receive_wants();
        let flight = Flight { key: *request.key(), token: Token::random() };
        let mailbox = Some(Mailbox::open(&self, flight.token));
        let taken = TakenClaim {
            inner: self.clone(),
            flight,
            memory: Some(memory),
            recorder: Some(recorder),
            mailbox,
            is_asked: true,
        };
        Ok(match self.decide(flight, &request).await {
            ClaimDecision::Lead => taken.lead(&request),
            ClaimDecision::Mismatch => Claim::Mismatch,
            ClaimDecision::Follow(there, owner, age) => taken.follow(&request, there, owner, age),
            ClaimDecision::Outgrown => taken.refuse_to_join(),
            ClaimDecision::Replay(replayed, age, ttl) => taken.replay(&request, replayed, age, ttl),
            ClaimDecision::Outage(why) => return self.outage(taken, &request, why),
        })
    }

    /// Asks the backend for the holder of the key, and for its answer if that is kept. Each has the patience for one operation:
    /// a slow Redis that has an answer is better waited for twice than paid for with another call.
    async fn decide(&self, flight: Flight, request: &ClaimRequest) -> ClaimDecision {
        let payload = *request.payload();
        let limit = self.backend.patience() + DECISION_GRACE;
        for _ in 0..MAX_CLAIMS {
            let found = timeout(limit, self.find(flight, payload)).await;
            let (there, age, ttl) =
                match found.unwrap_or(KeyState::Other(ClaimDecision::Outage(BackendError::Unreachable))) {
                    KeyState::Kept(there, age, ttl) => (there, age, ttl),
                    KeyState::Other(decision) => return decision,
                };
            let read = async {
                let replayed = Replayed::read(&self.backend, there, payload).await?;
                if replayed.is_none() {
                    // The answer was evicted or damaged; only its key is left.
                    self.backend.discard(there, *request.tenant()).await?;
                }
                Ok(replayed)
            };
            match timeout(limit, read).await.unwrap_or(Err(BackendError::Unreachable)) {
                Ok(Some(replayed)) => return ClaimDecision::Replay(replayed, age, ttl),
                Ok(None) => {}
                Err(why) => return ClaimDecision::Outage(why),
            }
        }
        ClaimDecision::Outage(BackendError::Unreachable)
    }

    /// Asks the backend for the holder of the key.
    async fn find(&self, flight: Flight, payload: Fingerprint) -> KeyState {
        let Flight { key, token } = flight;
        let args = ClaimArgs { key, payload, token, owner: self.process, lease: self.settings.lease };
        for _ in 0..MAX_CLAIMS {
            let claimed = match self.backend.claim(args).await {
                Ok(claimed) => claimed,
                Err(why) => return KeyState::Other(ClaimDecision::Outage(why)),
            };
            let Claimed::Taken { state, same_payload, token, owner, age, ttl } = claimed else {
                return KeyState::Other(ClaimDecision::Lead);
            };
            let there = Flight { token, ..flight };
            return KeyState::Other(match state {
                // This process no longer makes that call: it released the key, and Redis missed it.
                FlightState::InFlight | FlightState::Outgrown if owner == self.process => {
                    let _ = self.backend.settle(there, FlightEnd::Free).await;
                    continue;
                }
                _ if !same_payload => ClaimDecision::Mismatch,
                FlightState::InFlight => ClaimDecision::Follow(there, owner, age),
                FlightState::Outgrown => ClaimDecision::Outgrown,
                FlightState::Kept => return KeyState::Kept(there, age, ttl),
            });
        }
        KeyState::Other(ClaimDecision::Outage(BackendError::Unreachable))
    }

    /// Redis cannot name the holder of the key.
    fn outage(
        &self,
        taken: TakenClaim<B>,
        request: &ClaimRequest,
        why: BackendError,
    ) -> Result<Claim<RedisLease>, BoxError> {
        match self.backend.outage() {
            // The leader claims again, so that the call is shared once the backend is back.
            Outage::Local => Ok(taken.lead(request)),
            Outage::Refuse => Err(why.into()),
        }
    }
}
