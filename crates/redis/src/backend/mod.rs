//! The engines behind the stores: one method per script, implemented in Redis and in memory with the same arithmetic.
//!
//! Each trait is the engine of one kind of shared state. An engine that wraps another sees every operation, which
//! allows tests with failing operations:
//!
//! ```
//! use std::sync::Arc;
//! use tower_buttress::store::Fingerprint;
//! use tower_buttress::{PaceLayer, PeerPause};
//! use tower_buttress_redis::backend::{BackendError, PauseBackend, PauseNews, Subscription};
//! use tower_buttress_redis::{FleetPauses, Redis, RedisOptions};
//!
//! /// An engine that receives the others' pauses, and sends none of its own.
//! #[derive(Clone)]
//! struct Listening<B>(B);
//!
//! impl<B: PauseBackend> PauseBackend for Listening<B> {
//!     async fn pause(&self, _pause: PauseNews) -> Result<bool, BackendError> {
//!         Ok(false)
//!     }
//!
//!     async fn paused(&self, limit: Fingerprint) -> Result<PeerPause, BackendError> {
//!         self.0.paused(limit).await
//!     }
//!
//!     async fn pause_news(&self) -> Result<Subscription, BackendError> {
//!         self.0.pause_news().await
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = Redis::new(RedisOptions::from_url("redis://127.0.0.1:6379")?)?;
//! let layer = PaceLayer::new().share(Arc::new(FleetPauses::new(Listening(redis))));
//! # let _ = layer;
//! # Ok(())
//! # }
//! ```

mod circuits;
mod conversations;
mod forget;
#[cfg(any(test, feature = "model"))]
mod held_circuit;
mod last_good;
#[cfg(any(test, feature = "model"))]
mod model;
#[cfg(any(test, feature = "model"))]
mod model_circuits;
#[cfg(any(test, feature = "model"))]
mod model_flights;
mod names;
mod offers;
mod pauses;
mod rates;
mod redis;
mod redis_circuits;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tower_buttress::store::{Fingerprint, TenantHash};

pub use self::circuits::{
    CircuitBackend, CircuitGroup, CircuitId, CircuitNews, GivenOrder, HeldOrder, NumberedOrder, OrderNews, ProbeLease,
    ProbeVerdict, Votes,
};
pub use self::conversations::{ConversationBackend, ConversationNews, ConversationShare, MessageId, Newest};
pub use self::forget::{ForgetBackend, Forgotten};
pub use self::last_good::{KeptAnswer, LastGoodBackend};
#[cfg(any(test, feature = "model"))]
pub use self::model::{Checkpoint, Counted, RedisModel};
pub use self::names::Want;
pub use self::offers::{Ask, Offered};
pub use self::pauses::{PauseBackend, PauseNews};
pub use self::rates::{RateBackend, RateTurn, TakenRate};
pub use crate::client::subscriptions::{Delivery, Subscription};
pub use crate::error::BackendError;
pub(crate) use crate::ids::hex;
pub use crate::ids::{Process, Token};
use crate::options::{Outage, PATIENCE};

/// The engine of a [`RedisStore`](crate::RedisStore): a [`Redis`](crate::Redis), or, with the feature `model`, a
/// `RedisModel` in memory.
///
/// Each operation is atomic and may be repeated if its reply was lost. A flight is a call that one process makes for
/// all equal requests. Its key and the token of its lease identify it, so that a process that lost its lease can write
/// only to its own flight.
///
/// See the [module](self) for an example.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Takes the lease of a key, or returns its holder.
    fn claim(&self, claim: ClaimArgs) -> impl Future<Output = Result<Claimed, BackendError>> + Send;

    /// Renews a lease. `false`: this flight does not hold it.
    fn renew(&self, flight: Flight, lease: Duration) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Closes the flight to new followers. `false`: this flight does not hold the lease.
    fn outgrow(&self, flight: Flight) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Appends `bytes` to the flight's log at `offset`, sends them to listeners, and keeps the log for `ttl`, if `share`
    /// has room.
    fn append(
        &self,
        flight: Flight,
        offset: u64,
        bytes: Bytes,
        ttl: Duration,
        share: LogShare,
    ) -> impl Future<Output = Result<Appended, BackendError>> + Send;

    /// Stores the answer of a flight, or frees its key.
    fn settle(&self, flight: Flight, outcome: FlightEnd) -> impl Future<Output = Result<Settled, BackendError>> + Send;

    /// Deletes a stored answer that cannot be read, and gives back its part of the quota of the tenant, or of
    /// [`STRANGERS`]. `false`: another flight
    /// holds the key, or the call is in flight.
    fn discard(&self, flight: Flight, tenant: Fingerprint) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// At most `max` bytes of the flight's log, from `offset`.
    fn read(&self, flight: Flight, offset: u64, max: usize)
    -> impl Future<Output = Result<Bytes, BackendError>> + Send;

    /// The lease that holds the key.
    fn holder(&self, key: Fingerprint) -> impl Future<Output = Result<Option<Token>, BackendError>> + Send;

    /// Asks the process that makes a call to share it. Returns the number of receivers.
    fn want(&self, process: Process, want: Want) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// Tells the listeners of a flight that it is no longer shared, whatever its log says.
    fn forsake(&self, flight: Flight) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// Subscribes to appended bytes of a flight: see [`Piece`].
    fn listen(&self, flight: Flight) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    /// Subscribes to requests to this process.
    fn inbox(&self, process: Process) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    /// Tells the listeners of a flight that its log is complete up to this length. Default: does nothing.
    fn mark(&self, _flight: Flight, _length: u64) -> impl Future<Output = Result<u64, BackendError>> + Send {
        async { Ok(0) }
    }

    /// Stores for `ttl` the place of a token's answer. Default: other processes cannot find answers.
    fn offer(
        &self,
        _token: Fingerprint,
        _offered: Offered,
        _owner: Option<TenantHash>,
        _ttl: Duration,
    ) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// The place of a token's answer. Default: none.
    fn offered(&self, _token: Fingerprint) -> impl Future<Output = Result<Option<Offered>, BackendError>> + Send {
        async { Ok(None) }
    }

    /// Removes the place of a token's answer. Default: does nothing.
    fn withdraw(&self, _token: Fingerprint) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// Asks a process for a resumable answer. Returns the number of receivers. Default: none.
    fn ask(&self, _process: Process, _ask: Ask) -> impl Future<Output = Result<u64, BackendError>> + Send {
        async { Ok(0) }
    }

    /// The time limit of one operation. All operations of a claim together take about as long; a claim of a key that
    /// this process is settling waits for that first, for at most the same time. Default: 100 ms.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// What a call gets while the engine is unreachable. Default: [`Outage::Local`].
    fn outage(&self) -> Outage {
        Outage::Local
    }
}

/// The arguments of a claim.
#[derive(Clone, Copy, Debug)]
pub struct ClaimArgs {
    /// The key.
    pub key: Fingerprint,
    /// The digest of the request.
    pub payload: Fingerprint,
    /// The lease to take.
    pub token: Token,
    /// The process that takes it.
    pub owner: Process,
    /// How long the lease lasts unless renewed.
    pub lease: Duration,
}

/// A call that one process makes for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    /// The request's key.
    pub key: Fingerprint,
    /// The lease of the call.
    pub token: Token,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claimed {
    /// This claim took the lease.
    Lead,
    /// Another claim holds the key.
    Taken {
        /// The state of its flight.
        state: FlightState,
        /// Whether its request has the same payload.
        same_payload: bool,
        /// Its lease.
        token: Token,
        /// The process that makes or made the call.
        owner: Process,
        /// How long ago it was claimed.
        age: Duration,
        /// How long the key will be held.
        ttl: Duration,
    },
}

/// The state of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlightState {
    /// It is in flight.
    InFlight,
    /// Its answer is stored.
    Kept,
    /// It is in flight, and closed to new followers.
    Outgrown,
}

/// Stands for all tenants that any caller can invent: they are not authenticated, and the upstream has not answered their
/// call with a 2xx. Together they have the share of one.
pub const STRANGERS: Fingerprint = Fingerprint::from_bytes([0; 32]);

/// A tenant's share for the logs of its calls in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogShare {
    /// The tenant.
    pub tenant: Fingerprint,
    /// Their limit, in bytes.
    pub bytes: u64,
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Appended {
    /// The bytes are written and sent.
    Written {
        /// How many processes received them.
        receivers: u64,
    },
    /// The log is shorter than `offset`: earlier bytes are lost.
    Rewind {
        /// Its length, where to continue.
        length: u64,
    },
    /// The tenant's logs in flight have no room for them.
    NoRoom,
}

/// How a flight ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlightEnd {
    /// Frees the key.
    Free,
    /// Stores the answer.
    Keep {
        /// How long.
        window: Duration,
        /// The expected length of its log.
        length: u64,
        /// The tenant whose quota it uses.
        tenant: Fingerprint,
        /// The limit of that tenant's kept answers, in bytes.
        tenant_bytes: u64,
        /// The authenticated tenant, by which the answer can be deleted.
        owner: Option<TenantHash>,
    },
}

/// The result of settling a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// Done.
    Done,
    /// Another flight holds the key.
    Lost,
    /// The log is incomplete.
    NotWhole,
    /// The tenant has used its quota.
    NoRoom,
}

/// A message of a flight: an offset in its log, and bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// The next bytes.
    Bytes {
        /// Their offset.
        offset: u64,
        /// The bytes; empty as a sign of life.
        bytes: Bytes,
    },
    /// The flight is no longer shared.
    Forsaken,
    /// The log is complete up to this length; later messages are new.
    CaughtUp {
        /// The length of the log.
        length: u64,
    },
}

/// Special offsets of messages without bytes: no log is this long.
const FORSAKEN: u64 = u64::MAX;
const CAUGHT_UP: u64 = u64::MAX - 1;

// === impl Piece ===

impl Piece {
    /// Parses a message; `None`: it is not a piece.
    #[must_use]
    pub fn decode(mut message: Bytes) -> Option<Self> {
        let offset = u64::from_le_bytes(*message.first_chunk()?);
        let bytes = message.split_off(8);
        Some(match offset {
            FORSAKEN => Self::Forsaken,
            CAUGHT_UP => Self::CaughtUp { length: u64::from_le_bytes(*bytes.first_chunk()?) },
            offset => Self::Bytes { offset, bytes },
        })
    }

    fn header(offset: u64) -> [u8; 8] {
        offset.to_le_bytes()
    }

    fn caught_up(length: u64) -> Bytes {
        [CAUGHT_UP.to_le_bytes(), length.to_le_bytes()].concat().into()
    }
}
