//! Calls that are in flight in any process of the fleet, and the answers that were given a moment ago.

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

use self::inner::{Inner, Settings};
pub use self::last_good::FleetLastGood;
use self::leader::Mailbox;
pub use self::lease::RedisLease;
use self::offers::AnswersElsewhere;
use self::replay::Replayed;
use self::settling::Settling;
use self::taken::Taken;
use crate::backend::{Backend, BackendError, ClaimArgs, Claimed, Flight, FlightEnd, FlightState, Process, Token};
use crate::client::Redis;
use crate::options::Outage;

/// The store of [`DedupLayer`](tower_buttress::DedupLayer) that the processes of a fleet share: a double click on two
/// machines is one call, and an `Idempotency-Key` is known to all.
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
/// - *A call is made that nobody asks for elsewhere*: its key is claimed before it, and freed or kept after it. Its
///   answer is written into Redis only once, at its end, and only where it is kept.
/// - *Another process asks for it meanwhile*: the process that makes the call writes what it has into Redis, and each part
///   as it comes. The other reads it from the first part on, within a millisecond or so. Its caller counts as a listener.
/// - *The answer was kept*: every process replays it, with its age.
/// - *The process that makes the call dies before the head*: the others notice within two seconds or so, and one of them
///   makes the call. One that is only suspended holds its lease for 10 s.
/// - *A process is asked for a call that it has no more* (that its key is free was lost on its way to Redis): it frees the key and
///   says so at once, and the one that asked makes the call.
/// - *It dies after the head*: those who read the answer elsewhere get an error. What is truncated never looks whole.
/// - *A process has lost its lease* (it was suspended for longer): its callers read its answer, and it is not kept.
/// - *Redis cannot be reached*: a claim waits for [`patience`](crate::RedisOptions::patience) once, and from then on for
///   nothing; each process goes on with what it knows itself ([`Outage::Local`]). What is under way goes on for the
///   callers of its own process. Those who read it elsewhere wait for Redis for 10 s, and then get an error.
/// - *A caller comes back to an answer* that another process has ([`resumable`](tower_buttress::DedupLayer::resumable)): that
///   process shares it as above, in flight or ended, for as long as it lives. Where it is gone for 5 s, what was kept for the
///   key is read to its end, and anything else is gone (410). Where Redis cannot be asked, or this process cannot hold
///   another such reader (half a MiB each, a quarter of the layer's memory for one tenant), the caller is told to come back
///   a second later. A `DELETE` is a success when the process that makes the call has heard of it; where that is not so
///   within 1.5 s, it is to be sent again.
/// - *Redis has no memory left*: the answer is not shared, and not kept there; an event says so.
///
/// What the processes promise each other, and what not, is in the [crate's documentation](crate#what-is-promised).
///
/// # Cost
///
/// A script for each claim, and one at the end of a call that led; a small one every third of a lease while it is under
/// way. A claim that this process can answer itself asks nobody. Memory is that of [`MemoryStore`], which holds the calls
/// of this process.
pub struct RedisStore<B = Redis> {
    inner: Arc<Inner<B>>,
}

/// What the backend says of a claim.
enum Decision {
    Lead,
    Mismatch,
    /// This flight is under way in another process, since then.
    Follow(Flight, Process, Duration),
    /// The answer is under way, and no other call can join it.
    Outgrown,
    /// It is kept: how old it is, and for how much longer it is kept.
    Replay(Replayed, Duration, Duration),
    Outage(BackendError),
}

/// What the kept answers of one tenant may take in Redis.
const TENANT_BYTES: u64 = 64 * 1024 * 1024;

/// How often the key is claimed, where an earlier attempt found only what is left of a dead call or of a kept answer.
const MAX_CLAIMS: u32 = 3;

/// How much longer than one operation a whole claim may take. One that Redis does not answer ends first that way, and counts as
/// an outage, so that the next claims wait for nothing.
const DECISION_GRACE: Duration = Duration::from_millis(10);

// === impl RedisStore ===

impl<B: Backend> RedisStore<B> {
    /// A store on this engine. All stores on the same Redis with the same prefix are one.
    #[must_use]
    pub fn new(backend: B) -> Self {
        let settings =
            Settings { lease: Duration::from_secs(10), max_log: 8 * 1024 * 1024, tenant_bytes: TENANT_BYTES };
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

    /// What this process holds of its own calls. Default: [`MemoryStore::default`].
    ///
    /// Set it before the store is used or cloned: a clone that is there keeps what it had.
    #[must_use]
    pub fn memory(self, memory: MemoryStore) -> Self {
        self.with(|inner| inner.memory = memory)
    }

    /// How long a key is held for a process that is not heard of. Default: 10 s; at least 1 s.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        self.with(|inner| inner.settings.lease = lease.max(Duration::from_secs(1)))
    }

    /// How long an answer may be in Redis, in bytes. Default: 8 MiB. What is longer is shared no longer, and those who
    /// read it in other processes get an error.
    #[must_use]
    pub fn max_log(self, bytes: u64) -> Self {
        self.with(|inner| inner.settings.max_log = bytes)
    }

    /// How much the kept answers of one tenant may take in Redis, in bytes. Default: 64 MiB; choose about an eighth of what
    /// Redis has for answers. What goes beyond it is remembered by the process that made the call, within the share that the
    /// tenant has of its [`memory`](Self::memory), and an event says so.
    #[must_use]
    pub fn tenant_bytes(self, bytes: u64) -> Self {
        self.with(|inner| inner.settings.tenant_bytes = bytes)
    }

    /// Is told when an answer could not be shared or kept.
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
            Claim::Lead { lease, recorder } => (lease, recorder),
            Claim::Follow(log) => return Ok(Claim::Follow(log)),
            Claim::Replay(log) => return Ok(Claim::Replay(log)),
            Claim::Mismatch => return Ok(Claim::Mismatch),
            Claim::Full { retry_after } => return Ok(Claim::Full { retry_after }),
            _ => return Err("a claim that this store does not know".into()),
        };
        self.hear_wants();
        let flight = Flight { key: *request.key(), token: Token::random() };
        let mailbox = Some(Mailbox::open(&self, flight.token));
        let taken = Taken {
            inner: self.clone(),
            flight,
            memory: Some(memory),
            recorder: Some(recorder),
            mailbox,
            is_asked: true,
        };
        let limit = self.backend.patience() + DECISION_GRACE;
        let decision = timeout(limit, self.decide(flight, *request.payload())).await;
        Ok(match decision.unwrap_or(Decision::Outage(BackendError::Unreachable)) {
            Decision::Lead => taken.lead(&request),
            Decision::Mismatch => Claim::Mismatch,
            Decision::Follow(there, owner, age) => taken.follow(&request, there, owner, age),
            Decision::Outgrown => taken.refuse_to_join(),
            Decision::Replay(replayed, age, ttl) => taken.replay(replayed, age, ttl),
            Decision::Outage(why) => return self.outage(taken, &request, why),
        })
    }

    /// Asks the backend whose the key is.
    async fn decide(&self, flight: Flight, payload: Fingerprint) -> Decision {
        let Flight { key, token } = flight;
        let args = ClaimArgs { key, payload, token, owner: self.process, lease: self.settings.lease };
        for _ in 0..MAX_CLAIMS {
            let claimed = match self.backend.claim(args).await {
                Ok(claimed) => claimed,
                Err(why) => return Decision::Outage(why),
            };
            let Claimed::Taken { state, same_payload, token, owner, age, ttl } = claimed else { return Decision::Lead };
            let there = Flight { token, ..flight };
            match state {
                // This process makes no such call any more: the key was released, and Redis has not heard of it.
                FlightState::InFlight | FlightState::Outgrown if owner == self.process => {
                    let _ = self.backend.settle(there, FlightEnd::Free).await;
                }
                _ if !same_payload => return Decision::Mismatch,
                FlightState::InFlight => return Decision::Follow(there, owner, age),
                FlightState::Outgrown => return Decision::Outgrown,
                FlightState::Kept => match Replayed::read(&self.backend, there, payload).await {
                    Ok(Some(replayed)) => return Decision::Replay(replayed, age, ttl),
                    // The answer was evicted or damaged, and only its key is left.
                    Ok(None) => {
                        if let Err(why) = self.backend.discard(there).await {
                            return Decision::Outage(why);
                        }
                    }
                    Err(why) => return Decision::Outage(why),
                },
            }
        }
        Decision::Outage(BackendError::Unreachable)
    }

    /// Redis cannot say whose the key is.
    fn outage(
        &self,
        taken: Taken<B>,
        request: &ClaimRequest,
        why: BackendError,
    ) -> Result<Claim<RedisLease>, BoxError> {
        match self.backend.outage() {
            // The leader claims again, so that the call is shared after all once the backend is back.
            Outage::Local => Ok(taken.lead(request)),
            Outage::Refuse => Err(why.into()),
        }
    }
}
