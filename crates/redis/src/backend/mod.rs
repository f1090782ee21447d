//! What the stores need of an engine: one method for each script, with the same arithmetic in Redis and in memory.
//!
//! Each trait is the engine of one thing that is shared. One that goes around another sees every operation, which is how to
//! try what a service does when an operation fails:
//!
//! ```
//! use std::sync::Arc;
//! use tower_buttress::store::Fingerprint;
//! use tower_buttress::{PaceLayer, PeerPause};
//! use tower_buttress_redis::backend::{BackendError, PauseBackend, PauseNews, Subscription};
//! use tower_buttress_redis::{FleetPauses, Redis, RedisOptions};
//!
//! /// An engine that hears of the others' pauses, and tells none of its own.
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
pub use self::conversations::{ConversationBackend, ConversationNews, Message, Newest};
pub use self::forget::{ForgetBackend, Forgotten};
pub use self::last_good::{KeptAnswer, LastGoodBackend};
#[cfg(any(test, feature = "model"))]
pub use self::model::{Checkpoint, Model};
pub use self::names::Want;
pub use self::offers::{Ask, Offered};
pub use self::pauses::{PauseBackend, PauseNews};
pub use self::rates::{RateBackend, RateTurn, TakenRate};
pub use crate::client::subscriptions::{Heard, Subscription};
pub use crate::error::BackendError;
pub(crate) use crate::ids::hex;
pub use crate::ids::{Process, Token};
use crate::options::{Outage, PATIENCE};

/// The engine of a [`RedisStore`](crate::RedisStore): a [`Redis`](crate::Redis), or, with the feature `model`, a `Model`
/// in memory.
///
/// Each operation is atomic, and may be repeated when its answer was lost. What names a flight (a call that is made by
/// one process, for all that ask the same) is its key and the token of the lease, so that a process that has lost its
/// lease can write to its own flight only.
///
/// See the [module](self) for an example.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Takes the lease of a key, or says who has it.
    fn claim(&self, claim: ClaimArgs) -> impl Future<Output = Result<Claimed, BackendError>> + Send;

    /// Prolongs a lease. `false`: it is not this flight's.
    fn renew(&self, flight: Flight, lease: Duration) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// From now on nobody can join the flight. `false`: the lease is not this flight's.
    fn outgrow(&self, flight: Flight) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Writes `bytes` into the flight's log at `offset`, sends them to those who listen, and keeps the log for `ttl`.
    fn append(
        &self,
        flight: Flight,
        offset: u64,
        bytes: Bytes,
        ttl: Duration,
    ) -> impl Future<Output = Result<Appended, BackendError>> + Send;

    /// Keeps the answer of a flight, or frees its key.
    fn settle(&self, flight: Flight, outcome: FlightEnd) -> impl Future<Output = Result<Settled, BackendError>> + Send;

    /// Removes a kept answer that cannot be read. `false`: the key is another's, or its call is under way.
    fn discard(&self, flight: Flight) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// At most `max` bytes of the flight's log from `offset` on.
    fn read(&self, flight: Flight, offset: u64, max: usize)
    -> impl Future<Output = Result<Bytes, BackendError>> + Send;

    /// Whose lease the key is.
    fn holder(&self, key: Fingerprint) -> impl Future<Output = Result<Option<Token>, BackendError>> + Send;

    /// Asks the process that makes a call to share it. Returns how many heard that.
    fn want(&self, process: Process, want: Want) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// Tells those who listen to a flight that it cannot be shared any longer, whatever its log says.
    fn forsake(&self, flight: Flight) -> impl Future<Output = Result<u64, BackendError>> + Send;

    /// What is appended to a flight from now on: see [`Piece`].
    fn listen(&self, flight: Flight) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    /// What this process is asked for from now on.
    fn inbox(&self, process: Process) -> impl Future<Output = Result<Subscription, BackendError>> + Send;

    /// Tells those who listen to a flight that they have all of its log, up to this place. Default: they are not told.
    fn mark(&self, _flight: Flight, _length: u64) -> impl Future<Output = Result<u64, BackendError>> + Send {
        async { Ok(0) }
    }

    /// Says for `ttl` where the answer of a token is. Default: answers are where they were given.
    fn offer(
        &self,
        _token: Fingerprint,
        _offered: Offered,
        _owner: Option<TenantHash>,
        _ttl: Duration,
    ) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// Where the answer of a token is. Default: nowhere.
    fn offered(&self, _token: Fingerprint) -> impl Future<Output = Result<Option<Offered>, BackendError>> + Send {
        async { Ok(None) }
    }

    /// The answer of a token is nowhere any more. Default: nothing.
    fn withdraw(&self, _token: Fingerprint) -> impl Future<Output = Result<(), BackendError>> + Send {
        async { Ok(()) }
    }

    /// Asks a process for an answer that callers come back to. Returns how many heard that. Default: none.
    fn ask(&self, _process: Process, _ask: Ask) -> impl Future<Output = Result<u64, BackendError>> + Send {
        async { Ok(0) }
    }

    /// How long one operation may take. All operations of a claim together take about as long; a claim behind a call of this
    /// process that is just being settled first waits for that, at most as long. Default: 100 ms.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// What a call gets while the engine cannot be reached. Default: [`Outage::Local`].
    fn outage(&self) -> Outage {
        Outage::Local
    }
}

/// A claim of a key.
#[derive(Clone, Copy, Debug)]
pub struct ClaimArgs {
    /// The key.
    pub key: Fingerprint,
    /// What the request says.
    pub payload: Fingerprint,
    /// The lease that is taken.
    pub token: Token,
    /// The process that takes it.
    pub owner: Process,
    /// How long it holds, unless it is renewed.
    pub lease: Duration,
}

/// A call that one process makes for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    /// What names the request.
    pub key: Fingerprint,
    /// The lease under which the call is made.
    pub token: Token,
}

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claimed {
    /// The lease is taken.
    Lead,
    /// It is another's.
    Taken {
        /// What became of it.
        state: FlightState,
        /// Whether its request says the same.
        same_payload: bool,
        /// Its lease.
        token: Token,
        /// The process that makes or made the call.
        owner: Process,
        /// How long ago it was claimed.
        age: Duration,
        /// How long the key is held, as of now.
        ttl: Duration,
    },
}

/// What became of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlightState {
    /// It is under way.
    InFlight,
    /// Its answer is kept.
    Kept,
    /// It is under way, and nobody can join any more.
    Outgrown,
}

/// What became of bytes that were appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Appended {
    /// They are written, and were sent to as many.
    Written {
        /// How many processes heard them.
        receivers: u64,
    },
    /// What came before them is gone: the log is this long.
    Rewind {
        /// Where to go on.
        length: u64,
    },
}

/// What becomes of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlightEnd {
    /// Its key is free.
    Free,
    /// Its answer is kept.
    Keep {
        /// For how long.
        window: Duration,
        /// How long its log must be.
        length: u64,
        /// On whose account it is kept.
        tenant: Fingerprint,
        /// How many bytes of kept answers this tenant may have.
        tenant_bytes: u64,
        /// The tenant that was authenticated, by which it is forgotten.
        owner: Option<TenantHash>,
    },
}

/// What became of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// It is so.
    Done,
    /// The key is another's.
    Lost,
    /// The log is not whole.
    NotWhole,
    /// The tenant has as much kept as it may have.
    NoRoom,
}

/// What is heard of a flight: where the bytes begin in its log, and the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// The next bytes.
    Bytes {
        /// Where they begin.
        offset: u64,
        /// The bytes; none as a sign of life.
        bytes: Bytes,
    },
    /// The flight is shared no longer.
    Forsaken,
    /// What comes from now on is new: all that there was is in the log, which is this long.
    CaughtUp {
        /// How long the log is.
        length: u64,
    },
}

/// Headers of pieces that are not bytes: no log is this long.
const FORSAKEN: u64 = u64::MAX;
const CAUGHT_UP: u64 = u64::MAX - 1;

// === impl Piece ===

impl Piece {
    /// Reads what was heard; `None`: it is none.
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
