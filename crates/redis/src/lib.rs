//! [tower-buttress] for a fleet: what the processes of a service share through Redis or Valkey.
//!
//! With [`RedisStore`], [`DedupLayer`](tower_buttress::DedupLayer) knows the calls of all processes: a double click on two
//! machines is one call to the upstream, its stream is read live on both, and an `Idempotency-Key` is known to all. Answers that
//! are [resumable](tower_buttress::DedupLayer::resumable) are had from any process, by their token.
//!
//! With [`FleetBreaker`], the circuits of [`CircuitBreakerLayer`](tower_buttress::CircuitBreakerLayer) are those of the fleet: what one
//! process has found out costs the others one call or none, and one process at a time tests whether the upstream is well.
//!
//! With [`FleetPauses`], a 429 that one process met pauses the calls of [`PaceLayer`](tower_buttress::PaceLayer) in all of
//! them. [`FleetPace`] shares rates too: 500 a minute are those of the fleet, and in an outage each process has its part.
//!
//! With [`FleetLastGood`], an answer that one process was given stands in for the upstream in all of them (`LastGoodLayer`).
//!
//! With [`FleetSupersede`], a newer message ends the older one of its conversation whichever process it came to.
//!
//! ```
//! use tower_buttress::{CircuitBreakerLayer, DedupLayer};
//! use tower_buttress_redis::{FleetBreaker, Redis, RedisOptions, RedisStore};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
//! let dedup = DedupLayer::new().store(RedisStore::new(redis.clone()));
//! let breaker = CircuitBreakerLayer::new().key_by_model().share(FleetBreaker::new(redis.clone(), "models"));
//!
//! // Whether Redis can be reached, now and from now on. A service starts and goes on without it.
//! assert!(redis.health().borrow().is_reached());
//! # let _ = (dedup, breaker);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! | Promise | Holds when | Else |
//! |---|---|---|
//! | At most one call to the upstream per key | One Redis primary is reached within `patience`, the process that makes the call is neither dead nor suspended for longer than the lease (10 s), and Redis evicts nothing | Two calls, each whole, each read by its own callers |
//! | No caller reads another tenant's answer | Always: the key contains the tenant, the log repeats key and payload, and both are compared | |
//! | What is truncated never looks whole | Always: a log ends with the number of its records and bytes; anything else is an error | |
//! | What is replayed is whole | Always: an answer is kept only under the lease of the process that made the call, and only at its full length | |
//! | A resumable answer is had from any process | Its process lives, and Redis is reached. After a restart of Redis, a second or so later | What can be had later is said so (502 or 503 with `Retry-After`); 410 only where its process is gone |
//! | What was forgotten stays forgotten | Every process is connected when [`Redis::forget`] is called | A process without Redis keeps what it has in memory, until its window ends |
//! | An `Idempotency-Key` is remembered for its window | Redis loses nothing (no failover, no eviction, no restart without persistence) and is reached | What this process knows itself ([`Outage::Local`]), or an error ([`Outage::Refuse`]) |
//! | A Redis that does not answer costs a caller no more than `patience` (100 ms) | Always; and nothing while it is known to be unreachable | One that is slow, and answers within it, takes up to that for each thing that a call needs of it: its claim, however many operations that is (twice that, behind a call of this process that is just being settled), its turn in a rate, a last good answer (three operations at most) |
//! | What was to last for a time lasts no longer: a lease, an open circuit, a pause, a wait for a rate, a superseded message | Always, also where the clock of Redis is set back, or a failover leads to one whose clock is behind: such a time begins anew then, once. The newest message survives | A clock that jumps forward ends them early. After one that goes back, last good answers and the tokens of answers may be held for as much longer, and look as much younger; a message of which Redis is told late counts as newer than those that came before |
//!
//! Redis replicates asynchronously: a failover loses the last writes. What was in flight goes on for the callers of its
//! own process, and claims its key anew.
//!
//! # What Redis must be set to
//!
//! - Redis 6.2 or later, or Valkey 7.2 or later: one primary, or a managed endpoint that behaves like one. Scripts and
//!   `PUBLISH` are used; clusters and sentinels are not supported yet.
//! - `maxmemory-policy noeviction`, or a Redis of its own: every other policy evicts these keys first, since all of them
//!   expire. Where memory ends, answers are not shared and not kept, and callers notice nothing else.
//! - TLS (`rediss://`, feature `tls`) and a user with few rights: answers are the words of tenants, and are held as they
//!   are. `ACL SETUSER gateway on >secret ~buttress:* &buttress:* +@read +@write +@scripting +@pubsub +@connection +time`
//!
//! # What is stored
//!
//! | Key | What | How long |
//! |---|---|---|
//! | `buttress:1:{K}:m` | Who has the key: a digest of the request, the lease, the process | The lease (10 s) while in flight, the window of the layer when kept |
//! | `buttress:1:{K}:r:T` | The answer: head, data, trailers, end. `Set-Cookie` is not stored | Three leases while it is shared, the window when kept |
//! | `buttress:1:{K}:c:T` | Channel of an answer that is read live elsewhere | |
//! | `buttress:1:{T}:u` | How many bytes of kept answers a tenant has, by when they expire | The longest window |
//! | `buttress:1:p:P` | Channel on which a process is asked to share an answer, or to stop a call | |
//! | `buttress:1:{H}:h` | Of the token of a resumable answer: the digests of its request and tenant, the lease, the process | The window of the answer (5 minutes), anew while it is under way; told again after a restart of Redis. Some 400 bytes each: at most 16 for an answer, and as many answers as the layer holds (16,384 in a process, 2,048 of one tenant) |
//! | `buttress:1:{C}:v`, `:a`, `:b`, `:l` | Of a circuit: the processes that find the upstream failing, those that have it, until when it is open, and the lease of the probe | 1 to 10 minutes |
//! | `buttress:1:{C}:o` | An operator's order to a circuit, its number, which is the time at which it was given, and 16 random bytes for each of the last 16 orders | A day, anew while a process has the circuit |
//! | `buttress:1:{K}:g` | A last good answer: head, data, end. `Set-Cookie` is not stored | The `ttl` of the layer (an hour) |
//! | `buttress:1:{K}:n` | Of a request without its last message's spelling: the digest of the request that was answered last | Likewise |
//! | `buttress:1:{T}:y` | How many bytes of last good answers a tenant has, by when they expire | Likewise |
//! | `buttress:1:{L}:w` | That the calls of a credential to a host are paused | The pause, 60 s at most |
//! | `buttress:1:{L}:t:R` | What is taken of the rate R of a limit | Until it is full |
//! | `buttress:1:{L}:d:Q` | That the request Q to take of rates, or to give back, was carried out: it is not carried out twice | `patience` and a second. Some 120 bytes each |
//! | `buttress:1:n` | The processes that share rates | 15 s |
//! | `buttress:1:w` | Channel of the pauses | |
//! | `buttress:1:f` | Channel on which processes are told what to forget: the name of a tenant | |
//! | `buttress:1:{V}:i`, `:s` | Of a conversation: the number and the digest of its newest message and when it came, and the digests of 16 that it superseded | An hour; 10 minutes |
//! | `buttress:1:s` | Channel of the conversations | |
//! | `buttress:1:b:N` | Channel of the circuits of one name | |
//!
//! K is the digest of what names a request, T the lease (of `u` and `y`, the digest of a tenant), H the digest of a token, P the process, C the digest of a
//! circuit's name and key, L that of host, credential and model, V that of a conversation and its tenant. No key names a
//! tenant, a URL or a credential.
//!
//! Kept answers, last good ones and the tokens of answers carry a hash of the name of the tenant that was authenticated, so that
//! [`Redis::forget`] finds them.
//!
//! # Upgrades
//!
//! The `1` is the version of the format: processes with another version share nothing with these, so that an upgrade costs
//! at most a second call for what was in flight or kept, and for its length a rate for each version. Keys of an older
//! version expire by themselves.
//!
//! # Sizing
//!
//! A call that leads costs a script before it and one after it, and one every 3.3 s while it is under way; a Redis 7 on one
//! core did 23,000 claims per second. A kept answer takes its bytes and some 500 more until its window ends: 100 answers
//! per second of 4 KiB each, kept for an hour, are 1.7 GB, so choose the layer's windows with that in mind. A live stream
//! costs one write per part, only while another process reads it, and at most 8 MiB
//! ([`max_log`](RedisStore::max_log)). With [`FleetLastGood`] each whole answer is written into Redis: 100 answers per second of
//! 4 KiB each, all different, are 1.5 GB in an hour.
//!
//! [tower-buttress]: tower_buttress

pub mod backend;
mod breaker;
mod client;
mod driver;
mod error;
mod forget;
mod ids;
mod options;
mod pace;
mod store;
mod supersede;

#[cfg(any(test, feature = "model"))]
#[cfg_attr(docsrs, doc(cfg(feature = "model")))]
pub use crate::backend::Model;
pub use crate::breaker::FleetBreaker;
pub use crate::client::operation::{Operation, OperationResult};
pub use crate::client::{Health, Redis};
pub use crate::forget::ForgetListener;
pub use crate::options::{Outage, RedisOptions};
pub use crate::pace::{FleetPace, FleetPauses};
pub use crate::store::{FleetLastGood, RedisLease, RedisStore};
pub use crate::supersede::FleetSupersede;
