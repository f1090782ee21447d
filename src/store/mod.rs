//! REMEMBER: who is being answered at the moment, and what was answered a moment ago.
//!
//! [`DedupLayer`](crate::DedupLayer) asks a [`Store`] before every call that may be a repetition. [`MemoryStore`] is
//! for one process, or one per process behind a load balancer that keeps callers where they are. A store that several
//! processes share is another implementation of the same trait.
//!
//! # How a shared store works
//!
//! 1. [`Store::claim`] takes a lock for the key, with a lease. Who gets it leads: the store opens a [`Log`] with
//!    [`Ask::open`], hands its [`Recorder`] out in [`Claim::Lead`], and keeps an [`observer`](Log::observer) of it, from
//!    which a task of its own sends head, parts and end to the backend *as they come*, and renews the lease.
//! 2. Who does not get the lock and is in the same process should be given the very same `Log`
//!    ([`Claim::Follow`]): it can then keep the call going when its leader leaves.
//! 3. Who is in another process is given a `Log` that the store feeds, with a `Recorder` of its own, from the backend:
//!    first what was appended, then, live, what is. [`Lease::is_wanted`] tells the leading process that somebody
//!    there listens ([`Log::listeners`]), so that it goes on when its own callers have left.
//! 4. When the answer is complete, [`Lease::keep`] makes it a replay for so long. When the lease is dropped without, the
//!    key is free again, and whoever follows in another process is told that it [failed](Recorder::fail). A leading
//!    process that dies does the same by not renewing its lease.
//!
//! # What a store must hold to
//!
//! - One leader: between a `Lead` and the end of its lease, no other claim of that key is told to lead.
//! - Nothing but whole answers is replayed: only what was handed to [`Lease::keep`].
//! - Same key, other payload: [`Claim::Mismatch`], while it is in flight and while it is kept.
//! - Keys are compared in full, never by a prefix or a hash of theirs: they separate the tenants.
//! - A claim that is [guaranteed](Ask::has_client_key) is never forgotten before its time to make room: its caller was told
//!   that asking again is safe. Where there is no room, the answer is [`Claim::Full`].
//! - A [lost](Log::is_lost) log is not followed: the next claim leads.
//! - `claim` and all of [`Lease`] return at once; what takes time is done in the future that `claim` returns, or in a
//!   task of the store's own.
//!
//! The feature `store-suite` has `suite`, which puts these to the test for any implementation.

mod head;
mod log;
mod memory;
mod part;
mod reader;
#[cfg(any(test, feature = "store-suite"))]
pub mod suite;

use std::future::Future;
use std::time::{Duration, Instant};

pub use self::head::Head;
pub use self::log::{Log, Recorder};
pub use self::memory::MemoryStore;
pub use self::part::Part;
pub use self::reader::Reader;
pub use crate::proto::fingerprint::Fingerprint;

pub(crate) use self::log::{Appended, Drive, Driven, Watched};

use crate::error::BoxError;
use crate::policy::flight::Limits;

/// Remembers calls: see the [module](self).
pub trait Store: Clone + Send + Sync + 'static {
    /// What its leaders hold.
    type Lease: Lease;

    /// The answer to a claim.
    type Claim: Future<Output = Result<Claim<Self::Lease>, BoxError>> + Send;

    /// Somebody asks for `ask`, and wants to know whether somebody else did.
    ///
    /// An error counts as [`Claim::Full`] that can be explained.
    fn claim(&self, ask: Ask) -> Self::Claim;
}

/// What a leader holds as long as its call goes on, and, released, as long as somebody has still to read what came of it.
/// Dropped, it frees the key.
pub trait Lease: Send + 'static {
    /// The recording takes so many bytes now. `false`: there is no room for it to grow.
    ///
    /// It is asked for the head and for every part, also after [`release`](Self::release), when it counts what slow readers
    /// make us hold.
    fn resize(&mut self, bytes: usize) -> bool;

    /// The answer will not be kept, and nobody else can follow: the key is free.
    fn release(&mut self);

    /// The answer is complete, at `now`: it is to be replayed for `window`.
    fn keep(self, now: Instant, window: Duration);

    /// Whether somebody follows who is not a listener of the log that the leader was given: in another process.
    fn is_wanted(&self) -> bool {
        false
    }
}

/// What somebody is told who claims a key.
#[derive(Debug)]
#[non_exhaustive]
pub enum Claim<L> {
    /// Nobody else asked: do it, and tell it to this recorder.
    Lead {
        /// The lock.
        lease: L,
        /// Who tells what comes of it. It must be the one of [`Ask::open`].
        recorder: Recorder,
    },
    /// It is being done.
    Follow(Log),
    /// It was done.
    Replay(Log),
    /// The key was used for something else.
    Mismatch,
    /// No more keys can be kept.
    Full {
        /// When there may be room, where that is known.
        retry_after: Option<Duration>,
    },
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    pub(crate) key: Fingerprint,
    pub(crate) payload: Fingerprint,
    pub(crate) guaranteed: bool,
    pub(crate) now: Instant,
    pub(crate) limits: Limits,
}

// === impl Ask ===

impl Ask {
    /// What it is called: unique to its tenant, method, host, path and query, and the key that its caller gave it or the
    /// rest of the request.
    #[must_use]
    pub fn key(&self) -> &Fingerprint {
        &self.key
    }

    /// What it says. The same key with another payload is a mistake.
    #[must_use]
    pub fn payload(&self) -> &Fingerprint {
        &self.payload
    }

    /// Whether its caller named it, and so relies on it being kept.
    #[must_use]
    pub fn has_client_key(&self) -> bool {
        self.guaranteed
    }

    /// When it was asked.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Opens a log for it, within the limits of the layer that asks.
    #[must_use]
    pub fn open(&self) -> (Recorder, Log) {
        Log::new(self.limits)
    }
}
