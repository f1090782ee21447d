use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::log::Log;
use super::{Ask, Claim, Lease, Store};
use crate::error::BoxError;
use crate::proto::fingerprint::Fingerprint;

/// Remembers calls in this process.
///
/// # What happens when
///
/// - *It is full*: what has expired is forgotten; then the oldest answers that nobody was guaranteed (those recognised
///   by what the request says); then, whoever claims is told that it is full. An answer whose caller sent an
///   `Idempotency-Key` is kept for as long as it was said to be.
/// - *Nothing happens*: nothing is done. What has expired is forgotten at the next claim, or by
///   [`forget_expired`](Self::forget_expired); until then it takes its room, but is not replayed. What somebody is still
///   reading takes its room until it is read.
///
/// # Cost
///
/// One lock for a claim, one for the end of a call, and one for every 4 KiB that are recorded, held for a few look-ups.
#[derive(Clone)]
pub struct MemoryStore {
    shelf: Arc<Mutex<Entries>>,
}

/// The lease of a [`MemoryStore`].
pub struct MemoryLease {
    shelf: Arc<Mutex<Entries>>,
    key: Fingerprint,
    id: u64,
    /// Taken from the shelf: so many, or a little more than are used.
    bytes: usize,
    used: usize,
    fits: bool,
}

struct Entries {
    max_bytes: usize,
    max_entries: usize,
    entries: HashMap<Fingerprint, Entry>,
    /// What was kept and guaranteed, by when it may be forgotten.
    guaranteed: BTreeSet<(Instant, Fingerprint)>,
    /// What was kept and may go earlier.
    evictable: BTreeSet<(Instant, Fingerprint)>,
    /// What was forgotten while it was read, and its bytes.
    still_read: VecDeque<(Log, usize)>,
    bytes: usize,
    /// How many leases there have been: the next one's number.
    leases: u64,
}

struct Entry {
    lease: u64,
    payload: Fingerprint,
    guaranteed: bool,
    log: Log,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Its lease counts its bytes.
    InFlightPolicy,
    Kept {
        expires: Instant,
        bytes: usize,
    },
}

/// An entry costs this much beside what is recorded: its places in the maps, its log, and the key.
const OVERHEAD: usize = 1024;

/// Bytes are taken by so many, so that not every event of a stream takes the lock.
const STEP: usize = 4096;

/// Each claim looks after so many of what was forgotten while it was read.
const REAP_PER_CLAIM: usize = 2;

/// A window that is longer is a way to say for ever, which no clock can count to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// === impl MemoryStore ===

impl MemoryStore {
    /// Holds at most so many bytes and calls: those in flight, and those that are kept.
    #[must_use]
    pub fn new(max_bytes: usize, max_entries: usize) -> Self {
        let shelf = Entries {
            max_bytes,
            max_entries,
            entries: HashMap::new(),
            guaranteed: BTreeSet::new(),
            evictable: BTreeSet::new(),
            still_read: VecDeque::new(),
            bytes: 0,
            leases: 0,
        };
        Self { shelf: Arc::new(Mutex::new(shelf)) }
    }

    /// How many calls it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.shelf).entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it holds, each part and each call counted with what it takes to hold it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        lock(&self.shelf).bytes
    }

    /// Forgets what has expired at `now`. Claims do so too.
    pub fn forget_expired(&self, now: Instant) {
        let mut shelf = lock(&self.shelf);
        let forgotten = (shelf.take_expired(now), shelf.reap_detached(usize::MAX));
        drop(shelf);
        drop(forgotten);
    }
}

impl Default for MemoryStore {
    /// 64 MiB, and as many calls as can be: 65,536.
    fn default() -> Self {
        Self::new(64 * 1024 * 1024, 65_536)
    }
}

impl Store for MemoryStore {
    type Lease = MemoryLease;
    type Claim = Ready<Result<Claim<MemoryLease>, BoxError>>;

    fn claim(&self, ask: Ask) -> Self::Claim {
        let mut shelf = lock(&self.shelf);
        // Dropped when the lock is gone: a log may own much.
        let expired = (shelf.take_expired(ask.now), shelf.reap_detached(REAP_PER_CLAIM));
        let (claim, forgotten) = shelf.claim(&ask, &self.shelf);
        drop(shelf);
        drop((expired, forgotten));
        ready(Ok(claim))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shelf = lock(&self.shelf);
        f.debug_struct("MemoryStore")
            .field("entries", &shelf.entries.len())
            .field("bytes", &shelf.bytes)
            .finish_non_exhaustive()
    }
}

/// Nothing panics under this lock.
fn lock(shelf: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Entries ===

impl Entries {
    /// The answer, and what must be dropped without the lock.
    fn claim(&mut self, ask: &Ask, shelf: &Arc<Mutex<Self>>) -> (Claim<MemoryLease>, Vec<Log>) {
        let mut dropped = Vec::new();
        if let Some(entry) = self.entries.get(&ask.key) {
            if !entry.log.is_lost() {
                let claim = match entry.state {
                    _ if entry.payload != ask.payload => Claim::Mismatch,
                    State::InFlightPolicy => Claim::Follow(entry.log.clone()),
                    State::Kept { .. } => Claim::Replay(entry.log.clone()),
                };
                return (claim, dropped);
            }
            dropped.extend(self.remove(&ask.key));
        }
        if self.room() < OVERHEAD {
            dropped.extend(self.reap_detached(usize::MAX));
        }
        while self.entries.len() >= self.max_entries || self.room() < OVERHEAD {
            let Some(oldest) = self.take_spare() else {
                let retry_after =
                    self.guaranteed.first().map(|(expires, _)| expires.saturating_duration_since(ask.now));
                return (Claim::Full { retry_after }, dropped);
            };
            dropped.push(oldest);
        }
        self.leases += 1;
        self.bytes += OVERHEAD;
        let (recorder, log) = ask.open();
        let (id, payload, guaranteed) = (self.leases, ask.payload, ask.guaranteed);
        self.entries.insert(ask.key, Entry { lease: id, payload, guaranteed, log, state: State::InFlightPolicy });
        let lease = MemoryLease { shelf: shelf.clone(), key: ask.key, id, bytes: OVERHEAD, used: OVERHEAD, fits: true };
        (Claim::Lead { lease, recorder }, dropped)
    }

    fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes)
    }

    fn take_expired(&mut self, now: Instant) -> Vec<Log> {
        // Almost always nothing, which allocates nothing.
        let mut expired = Vec::new();
        while let Some(&(expires, key)) = self.guaranteed.first().filter(|(expires, _)| *expires <= now) {
            self.guaranteed.remove(&(expires, key));
            expired.extend(self.remove(&key));
        }
        while self.evictable.first().is_some_and(|(expires, _)| *expires <= now) {
            expired.extend(self.take_spare());
        }
        expired
    }

    fn take_spare(&mut self) -> Option<Log> {
        let (_, key) = self.evictable.pop_first()?;
        self.remove(&key)
    }

    /// What was forgotten while it was read, and has been read, among the next `looks` there are.
    fn reap_detached(&mut self, looks: usize) -> Vec<Log> {
        let mut read = Vec::new();
        for _ in 0..looks.min(self.still_read.len()) {
            let Some((log, bytes)) = self.still_read.pop_front() else { break };
            if log.listeners() > 0 {
                self.still_read.push_back((log, bytes));
            } else {
                self.bytes -= bytes;
                read.push(log);
            }
        }
        read
    }

    fn remove(&mut self, key: &Fingerprint) -> Option<Log> {
        let entry = self.entries.remove(key)?;
        if let State::Kept { expires, bytes } = entry.state {
            if entry.log.listeners() > 0 {
                self.still_read.push_back((entry.log.clone(), bytes));
            } else {
                self.bytes -= bytes;
            }
            let kept = if entry.guaranteed { &mut self.guaranteed } else { &mut self.evictable };
            kept.remove(&(expires, *key));
        }
        Some(entry.log)
    }
}

// === impl MemoryLease ===

impl MemoryLease {
    /// The entry that this lease made, unless another took its place.
    fn entry<'a>(&self, shelf: &'a mut Entries) -> Option<&'a mut Entry> {
        shelf.entries.get_mut(&self.key).filter(|entry| entry.lease == self.id)
    }
}

impl Lease for MemoryLease {
    fn resize(&mut self, bytes: usize) -> bool {
        let bytes = bytes.saturating_add(OVERHEAD);
        self.used = bytes;
        // Within what was taken, and not by far.
        if self.fits && bytes <= self.bytes && self.bytes - bytes < 2 * STEP {
            return true;
        }
        let wanted = bytes.checked_next_multiple_of(STEP).unwrap_or(bytes);
        let mut forgotten = Vec::new();
        let mut shelf = lock(&self.shelf);
        shelf.bytes -= self.bytes;
        if shelf.room() < wanted {
            forgotten.extend(shelf.reap_detached(usize::MAX));
        }
        while shelf.room() < wanted {
            let Some(oldest) = shelf.take_spare() else { break };
            forgotten.push(oldest);
        }
        // What is held is held, whether there is room or not.
        let room = shelf.room();
        self.bytes = if room < wanted { bytes } else { wanted };
        self.fits = room >= bytes;
        shelf.bytes = shelf.bytes.saturating_add(self.bytes);
        drop(shelf);
        drop(forgotten);
        self.fits
    }

    fn release(&mut self) {
        let mut shelf = lock(&self.shelf);
        let entry = self.entry(&mut shelf).is_some().then(|| shelf.remove(&self.key));
        drop(shelf);
        drop(entry);
    }

    fn keep(mut self, now: Instant, window: Duration) {
        let mut shelf = lock(&self.shelf);
        let (bytes, key) = (self.used, self.key);
        let Some(expires) = now.checked_add(window.min(LONGEST)) else { return };
        let Some(entry) = self.entry(&mut shelf) else { return };
        entry.state = State::Kept { expires, bytes };
        let guaranteed = entry.guaranteed;
        let kept = if guaranteed { &mut shelf.guaranteed } else { &mut shelf.evictable };
        kept.insert((expires, key));
        // They are the entry's now, and no more than are used.
        shelf.bytes = shelf.bytes - self.bytes + bytes;
        self.bytes = 0;
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let mut shelf = lock(&self.shelf);
        shelf.bytes -= self.bytes;
        let in_flight = self.entry(&mut shelf).is_some_and(|entry| matches!(entry.state, State::InFlightPolicy));
        let entry = in_flight.then(|| shelf.remove(&self.key));
        drop(shelf);
        drop(entry);
    }
}

impl fmt::Debug for MemoryLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLease").field("key", &self.key).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
