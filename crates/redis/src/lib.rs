//! Shares the state of [tower-buttress] layers between processes, through Redis or Valkey.
//!
//! - [`RedisStore`]: [`DedupLayer`](tower_buttress::DedupLayer) knows the calls of all processes. A double click on two machines is
//!   one upstream call, which both read live; every process knows every `Idempotency-Key`, and serves
//!   [resumable](tower_buttress::DedupLayer::resumable) answers by their token.
//! - [`FleetBreaker`]: [`CircuitBreakerLayer`](tower_buttress::CircuitBreakerLayer)s share their circuits. What one process learns
//!   costs the others one call or none, and one process at a time probes.
//! - [`FleetPauses`]: a 429 in one process pauses the calls of [`PaceLayer`](tower_buttress::PaceLayer) in all. [`FleetPace`] also
//!   shares rates: 500 a minute apply to the fleet, and during an outage each process has its share.
//! - [`FleetLastGood`]: an answer of one process replaces the upstream's in all (`LastGoodLayer`).
//! - [`FleetSupersede`]: a newer message ends the older one of its conversation in any process.
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
//! assert!(redis.reachability().borrow().is_reached());
//! # let _ = (dedup, breaker);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! | Promise | Holds when | Otherwise |
//! |---|---|---|
//! | At most one upstream call per key | One Redis primary answers within `patience`, the calling process is neither dead nor suspended for longer than the lease (10 s), the tenant has room (`tenant_bytes`), the answer is within `max_log`, and Redis has memory and evicts nothing | Two calls, each whole, each read by its own callers |
//! | No caller reads another tenant's answer | Always: the key contains the tenant, the log repeats key and payload, and both are compared | |
//! | A truncated answer never looks whole | Always: a log ends with the number of its records and bytes; anything else is an error | |
//! | A replay is whole | Always: an answer is kept only under the lease of the calling process, and only at its full length | |
//! | Any process serves a resumable answer | Its process lives, and Redis is reachable; after a restart of Redis, about a second later | 502 or 503 with `Retry-After` if the answer may come later; 410 only if its process is gone |
//! | Forgotten data stays forgotten | Every process is connected when [`Redis::forget`] is called | A disconnected process keeps its data in memory until the window ends |
//! | An `Idempotency-Key` is known for its window | Redis loses nothing (no failover, eviction, or restart without persistence) and is reachable | The state of this process ([`Outage::Local`]), or an error ([`Outage::Refuse`]) |
//! | A Redis that does not answer costs a caller at most `patience` (100 ms), once | Always; nothing while Redis is known to be unreachable | A slow Redis that still answers within `patience` adds up to `patience` per step of a call: its claim with all its operations, the read of a kept answer (twice the claim behind a call that this process is settling), its turn in a rate, a last good answer (at most three operations). A caller that was reading another process's answer when Redis went gets an error about 10 s later, because nothing can replace the rest of that answer; one that had no data yet gets a call of its own process |
//! | Nothing outlasts its time: a lease, an open circuit, a pause, a wait for a rate, a superseded message | Always. If the clock of Redis is set back, or a failover leads to a slower clock, the time starts again once. The newest message survives | A clock that jumps forward ends them early. After one that goes back, last good answers and tokens of answers may last longer and look younger by that time; a message that Redis gets late counts as newer than earlier ones |
//!
//! Redis replicates asynchronously: a failover loses the last writes. Calls in flight continue for the callers of their
//! own process, and claim their keys again.
//!
//! # Settings of Redis
//!
//! - Redis 6.2 or later, or Valkey 7.2 or later: one primary, or a managed endpoint that behaves like one. The crate uses
//!   scripts and `PUBLISH`; clusters and sentinels are not supported yet.
//! - `maxmemory-policy noeviction`, or a Redis of its own: every other policy evicts these keys first, because all of them
//!   expire. When memory is full, answers are neither shared nor kept; callers notice nothing else.
//! - TLS (`rediss://`, feature `tls`) and a user with few rights: answers contain tenants' text, and are stored unencrypted.
//!   `ACL SETUSER gateway on >secret ~buttress:* &buttress:* +@read +@write +@scripting +@pubsub +@connection +time`
//!
//! # Stored keys
//!
//! | Key | Content | Lifetime |
//! |---|---|---|
//! | `buttress:1:{K}:m` | The holder of a key: a digest of the request, the lease, the process; of a kept answer also the digest of the tenant, and what the answer counts in its quota | The lease (10 s) in flight, the layer's window when kept |
//! | `buttress:1:{K}:r:T` | The answer: head, data, trailers, end, without `Set-Cookie` | Three leases while shared, the window when kept |
//! | `buttress:1:{K}:c:T` | Channel of an answer that another process reads live | |
//! | `buttress:1:{T}:u` | The bytes of a tenant's kept answers, by expiry | The longest window |
//! | `buttress:1:{T}:q`, `:z` | The logs of a tenant's answers in flight: their expiry, and their bytes | Three leases |
//! | `buttress:1:p:P` | Channel of requests to a process to share an answer or stop a call | |
//! | `buttress:1:{H}:h` | For the token of a resumable answer: the digests of its request and tenant, the lease, the process | The answer's window (5 minutes), renewed in flight; stored again after a restart of Redis. About 400 bytes each: at most 16 per answer, and one per answer that the layer holds (16,384 per process, 2,048 per tenant) |
//! | `buttress:1:{C}:v`, `:a`, `:b`, `:l` | A circuit: the processes that find the upstream failing, those that use it, its open time, the lease of the probe | 1 to 10 minutes |
//! | `buttress:1:{C}:o` | An operator's order to a circuit, its number, which is the time when it was given, and 16 random bytes for each of the last 16 orders | A day, renewed while a process uses the circuit |
//! | `buttress:1:{K}:g` | A last good answer: head, data, end, without `Set-Cookie`; the digest of the tenant, and what the answer counts in its quota | The layer's `ttl` (1 h) |
//! | `buttress:1:{K}:n` | For a request in its normal form: the digest of the last answered request | The same |
//! | `buttress:1:{T}:y` | The bytes of a tenant's last good answers, by expiry | The same |
//! | `buttress:1:{L}:w` | The pause of a credential's calls to a host | The pause, at most 60 s |
//! | `buttress:1:{L}:t:R` | The used part of the rate R of a limit | Until the rate is full |
//! | `buttress:1:{L}:d:Q` | The record that request Q to take or return was done, so that it is not done twice | `patience` and a second. About 120 bytes each |
//! | `buttress:1:n` | The processes that share rates | 15 s |
//! | `buttress:1:w` | Channel of the pauses | |
//! | `buttress:1:f` | Channel of the names of tenants to forget | |
//! | `buttress:1:{V}:i`, `:s` | A conversation: number, digest and arrival of its newest message; the digests of 16 superseded messages | 1 h; 10 minutes |
//! | `buttress:1:{T}:k` | The conversations of a tenant, by expiry | 1 h |
//! | `buttress:1:s` | Channel of the conversations | |
//! | `buttress:1:b:N` | Channel of the circuits with one name | |
//! | `buttress:1:pings` | Channel without readers: a test of the user's rights, as is reading and deleting `buttress:1:ping` | |
//!
//! K is the digest of a request's identity, T a lease (in `y` the digest of a tenant; in `u`, `q`, `z` and `k` too, or zeros
//! for the tenants that any caller can invent), H the digest of a token, P a
//! process, C the digest of a circuit's name and key, L that of host, credential and model, V that of a conversation and its
//! tenant. No key contains a tenant's name, a URL or a credential.
//!
//! Kept answers, last good answers and tokens carry a hash of the authenticated tenant's name, by which [`Redis::forget`]
//! finds them.
//!
//! # Upgrades
//!
//! The `1` is the version of the format. Processes with different versions share nothing, so an upgrade costs at most a
//! second call for what was in flight or kept, and during the upgrade each version has the full rate. Keys of an older
//! version expire.
//!
//! Releases with the same version of the format share everything. What is new in a release counts for its own processes: those
//! of an earlier one do not count a tenant's answers in flight or conversations, and an answer that they kept counts until its
//! window ends, even if it is forgotten.
//!
//! # Clusters
//!
//! Not supported yet. In a cluster a script may touch keys of one slot, which the part of their names in braces chooses.
//! These scripts touch keys of several. A version for clusters must rename those keys, which makes it version 2 of the
//! format, or divide the scripts:
//!
//! | Scripts | Now | In one slot |
//! |---|---|---|
//! | `append`, `settle`, `discard` | `{K}:m`, `{K}:r:T` and `{K}:c:T`, with the `{T}:u`, `{T}:q` and `{T}:z` of the tenant, or of zeros | `{T}:m:K`, `{T}:r:K:T` and `{T}:c:K:T`: one tenant's answers are on one node, and the record of a token (`{H}:h`), the request to share an answer, and the process that follows it name the tenant too. A script of its own counts for zeros |
//! | `remember` | `{K}:g`, `{K}:n` and `{T}:y` | `{T}:g:K` and `{T}:n:K` |
//! | `newest`, `answered` | `{V}:i` and `{V}:s`, with the `{T}:k` of the tenant and of zeros | `{T}:i:V` and `{T}:s:V`. A script of its own counts for zeros |
//! | `kept`, `forget` | the keys of a step of `SCAN` | one call per slot, on each node |
//! | `newest`, `vote`, `verdict`, `order`, `pause`, `ping` | the channel of all conversations, circuits or pauses | the same channel, as an argument and not as a key |
//!
//! All other scripts touch one slot.
//!
//! # Sizing
//!
//! A leading call costs one script before it, one after it, and one every 3.3 s in between. Redis 7 answered 22,000 to 64,000
//! claims per second in seven runs on two cores, which it shared with the callers and other builds; each took 10 us of its
//! processor time. A kept answer takes its size and about 500 bytes until its window ends: 100 answers of 4 KiB per second,
//! kept for an hour, take 1.7 GB. Choose the layer's windows accordingly. A conversation takes up to
//! 1.5 KiB for an hour after its last message.
//!
//! Callers without an authenticated [`Tenant`](tower_buttress::Tenant) can invent credentials. Until the upstream has
//! answered with a 2xx, all of them together have the share of one tenant: of answers
//! ([`tenant_bytes`](RedisStore::tenant_bytes)) and of conversations
//! ([`tenant_conversations`](FleetSupersede::tenant_conversations)). In front of an upstream that answers every credential
//! with a 2xx, authenticate callers or bound Redis's `maxmemory`. One endpoint that answers any caller with a 2xx, such as
//! a list of models, is enough, if calls to it pass these layers. Over gRPC the status OK counts, not the 200.
//!
//! A live stream costs one write per part, only while another process reads it, and at most 8 MiB ([`max_log`](RedisStore::max_log)). With [`FleetLastGood`] Redis stores every whole
//! answer, with 512 bytes more: 100 different answers of 4 KiB per second take 1.7 GB in an hour.
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
pub use crate::backend::RedisModel;
pub use crate::breaker::FleetBreaker;
pub use crate::client::operation::{Operation, OperationResult};
pub use crate::client::{Reachability, Redis};
pub use crate::forget::ForgetListener;
pub use crate::options::{Outage, RedisOptions};
pub use crate::pace::{FleetPace, FleetPauses};
pub use crate::store::{FleetLastGood, RedisLease, RedisStore};
pub use crate::supersede::FleetSupersede;
