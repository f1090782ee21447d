//! The memory limit for data that layers hold for calls.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::Tenant;

/// A limit on the data that the layers of a stack hold for all calls together: request bodies that are recorded for
/// another attempt or read before they are sent, answers in flight in [`DedupLayer`](crate::DedupLayer), and answers that
/// `StreamGuardLayer` withholds.
///
/// Each body has a limit of its own, but thousands of slow uploads may each stay within it. When the memory is spent,
/// layers pass bodies as they arrive, and cannot retry, inspect or deduplicate them. No call fails because of it, except
/// an answer that `StreamGuardLayer::hold` must not forward before it is complete.
///
/// Clones share one count. The layers of a [preset](crate::presets) share one memory; each layer stacked by hand has its
/// own, unless you give it a shared one. Bodies that arrived complete are not counted, since they were in memory before
/// the call, nor are less than 4 KiB per call. The data that [`LastGoodLayer`](crate::LastGoodLayer) stores after a call
/// is counted in full.
///
/// ```
/// use tower_buttress::{Memory, RetryAfterBackoffLayer};
///
/// let memory = Memory::new(64 * 1024 * 1024);
/// let retry = RetryAfterBackoffLayer::new().memory(memory.clone());
/// // For a gauge:
/// assert_eq!((memory.used(), memory.limit()), (0, 64 * 1024 * 1024));
/// # let _ = retry;
/// ```
///
/// # Fairness
///
/// A [`Tenant`] may hold a quarter of the memory, so one tenant's uploads and answers do not exhaust it for all others.
/// Requests without a tenant share by their credentials, and those without credentials are of one caller.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    limit: usize,
    used: AtomicUsize,
    /// The bytes of each caller, by the hash of its name.
    held: Mutex<HashMap<u64, usize>>,
    /// No caller can choose a hash, since its key is random in each process.
    hashes: RandomState,
}

/// A part of a [`Memory`], released on drop.
///
/// For your own services that hold data for calls:
///
/// ```
/// use bytes::Bytes;
/// use tower_buttress::Memory;
///
/// let memory = Memory::new(1024 * 1024);
/// let mut reservation = memory.reserve(None);
/// assert!(reservation.grow(600 * 1024));
/// assert!(!reservation.grow(600 * 1024), "there is no room for it: let it pass unread");
///
/// let body = reservation.keep(Bytes::from(vec![0; 600 * 1024]));
/// let copy = body.clone();
/// drop(body);
/// assert_eq!(memory.used(), 600 * 1024);
/// drop(copy);
/// assert_eq!(memory.used(), 0);
/// ```
pub struct Reservation {
    memory: Memory,
    holder: Option<u64>,
    /// The bytes held, counted or not.
    held: usize,
    /// The counted bytes of them.
    counted: usize,
}

/// Data with its reserved memory.
struct ReservedBytes {
    data: Bytes,
    _reservation: Reservation,
}

/// Any call without a large body holds this much.
const UNCOUNTED: usize = 4 * 1024;
/// Growing and shrinking data is counted in steps of this size.
const STEP: usize = 16 * 1024;
/// One caller may hold one of this number of equal parts.
const SHARES: usize = 4;

/// The bytes held in all memories of the process.
#[cfg(feature = "metrics")]
fn gauge() -> metrics::Gauge {
    metrics::gauge!("tower_buttress_memory_used_bytes")
}

#[cfg(feature = "metrics")]
fn in_bytes(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

// === impl Memory ===

impl Memory {
    /// Returns a memory of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, used: AtomicUsize::new(0), held: Mutex::default(), hashes: RandomState::new() }))
    }

    /// The bytes held at the moment.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// The most bytes that may be held.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Returns an empty reservation, for a call of `tenant` if known.
    #[must_use]
    pub fn reserve(&self, tenant: Option<&Tenant>) -> Reservation {
        self.reserve_of(tenant.map(|tenant| self.0.hashes.hash_one(tenant)))
    }

    /// The same for a call without a tenant, of this account.
    pub(crate) fn reserve_account(&self, account: u64) -> Reservation {
        self.reserve_of(Some(account))
    }

    fn reserve_of(&self, holder: Option<u64>) -> Reservation {
        Reservation { memory: self.clone(), holder, held: 0, counted: 0 }
    }

    fn take(&self, holder: Option<u64>, bytes: usize) -> bool {
        let add = |used: usize| used.checked_add(bytes).filter(|&used| used <= self.0.limit);
        if self.0.used.fetch_update(Relaxed, Relaxed, add).is_err() {
            return false;
        }
        if holder.is_none_or(|holder| self.take_share(holder, bytes)) {
            #[cfg(feature = "metrics")]
            gauge().increment(in_bytes(bytes));
            return true;
        }
        self.0.used.fetch_sub(bytes, Relaxed);
        false
    }

    fn take_share(&self, holder: u64, bytes: usize) -> bool {
        let mut all = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.get(&holder).copied().unwrap_or_default();
        let within = held.saturating_add(bytes) <= self.0.limit / SHARES;
        if within {
            all.insert(holder, held.saturating_add(bytes));
        }
        within
    }

    fn give_back(&self, holder: Option<u64>, bytes: usize) {
        self.0.used.fetch_sub(bytes, Relaxed);
        #[cfg(feature = "metrics")]
        gauge().decrement(in_bytes(bytes));
        let Some(holder) = holder else { return };
        let mut all = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&holder) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                all.remove(&holder);
            }
        }
    }
}

impl Default for Memory {
    /// 512 MiB.
    fn default() -> Self {
        Self::new(512 * 1024 * 1024)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("used", &self.used()).field("limit", &self.limit()).finish()
    }
}

// === impl Reservation ===

impl Reservation {
    /// The most bytes that [`set`](Self::set) may count beyond the bytes held.
    #[cfg(feature = "llm")]
    pub(crate) const STEP: usize = STEP;

    /// Returns an empty reservation in the same share.
    #[cfg(feature = "llm")]
    pub(crate) fn sibling(&self) -> Self {
        self.memory.reserve_of(self.holder)
    }

    /// Adds `bytes` to the reservation; returns `false`, and adds nothing, if the memory has no room. Less than 4 KiB in
    /// total are not counted.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let held = self.held.saturating_add(bytes);
        let counted = if held > UNCOUNTED { held } else { 0 };
        let more = counted.saturating_sub(self.counted);
        if more > 0 && !self.memory.take(self.holder, more) {
            return false;
        }
        self.held = held;
        self.counted = counted;
        true
    }

    /// Sets the reservation to `bytes` in total; returns whether there was room. Counts in steps, so that not every event
    /// of a stream writes the shared counter.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        self.held = bytes;
        let wanted = if bytes > UNCOUNTED { bytes.checked_next_multiple_of(STEP).unwrap_or(bytes) } else { 0 };
        if wanted > self.counted {
            if !self.memory.take(self.holder, wanted - self.counted) {
                return false;
            }
            self.counted = wanted;
        } else if self.counted - wanted > STEP {
            self.memory.give_back(self.holder, self.counted - wanted);
            self.counted = wanted;
        }
        true
    }

    /// Sets the reservation to `bytes` in total, counted exactly; returns whether there was room. For data that is stored
    /// after its call: many small entries add up.
    #[cfg(feature = "llm")]
    pub(crate) fn set_exactly(&mut self, bytes: usize) -> bool {
        if bytes > self.counted {
            if !self.memory.take(self.holder, bytes - self.counted) {
                return false;
            }
        } else if bytes < self.counted {
            self.memory.give_back(self.holder, self.counted - bytes);
        }
        (self.held, self.counted) = (bytes, bytes);
        true
    }
}

impl Reservation {
    /// Keeps the reservation until the last clone of `data` is dropped.
    #[must_use]
    pub fn keep(self, data: Bytes) -> Bytes {
        if self.is_counted() { Bytes::from_owner(ReservedBytes { data, _reservation: self }) } else { data }
    }

    pub(crate) fn is_counted(&self) -> bool {
        self.counted > 0
    }
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.memory.give_back(self.holder, self.counted);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("held", &self.held).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    #[test]
    fn what_is_reserved_is_given_back() {
        let memory = Memory::new(100 * KIB);
        let (mut one, mut other) = (memory.reserve(None), memory.reserve(None));
        assert!(one.grow(60 * KIB) && other.grow(40 * KIB));
        assert!(!other.grow(1), "it is spent");
        assert_eq!(memory.used(), 100 * KIB);
        drop(one);
        assert!(other.grow(60 * KIB));
        drop(other);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_grows_and_shrinks_is_counted_in_steps() {
        let memory = Memory::new(64 * KIB);
        let mut log = memory.reserve(None);
        for (bytes, fits, used) in
            [(4, true, 0), (5, true, 16), (20, true, 32), (15, true, 32), (1, true, 0), (70, false, 0), (60, true, 64)]
        {
            assert_eq!((log.set(bytes * KIB), memory.used()), (fits, used * KIB), "{bytes} KiB");
        }
        let mut other = memory.reserve(None);
        assert!(!other.set(5 * KIB), "it is spent");
        drop((log, other));
        assert_eq!(memory.used(), 0);
    }

    #[cfg(feature = "llm")]
    #[test]
    fn what_is_kept_is_counted_to_the_byte() {
        let memory = Memory::new(10 * KIB);
        let (tenant, mut kept) = (Tenant::new("one"), Vec::new());
        assert!(memory.reserve(Some(&tenant)).set_exactly(2 * KIB + 512));
        assert!(!memory.reserve(Some(&tenant)).set_exactly(2 * KIB + 513), "beyond its share");
        for _ in 0..10 {
            let mut one = memory.reserve(None);
            assert!(one.set_exactly(10) && one.set_exactly(KIB));
            kept.push(one);
        }
        assert_eq!(memory.used(), 10 * KIB);
        assert!(!memory.reserve(None).set_exactly(1));
        assert!(kept.first_mut().is_some_and(|one| one.set_exactly(10)));
        assert_eq!(memory.used(), 9 * KIB + 10);
        kept.clear();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn small_bodies_cost_no_count() {
        let memory = Memory::new(0);
        let mut small = memory.reserve(None);
        assert!(small.grow(4 * KIB));
        assert!(!small.grow(1));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn one_tenant_holds_a_quarter() {
        let memory = Memory::new(100 * KIB);
        let (one, other) = (Tenant::new("one"), Tenant::new("other"));
        let mut held: Vec<Reservation> = (0..2).map(|_| memory.reserve(Some(&one))).collect();
        assert!(held[0].grow(20 * KIB));
        assert!(!held[1].grow(6 * KIB), "beyond its share");
        assert!(memory.reserve(Some(&other)).grow(6 * KIB));
        assert_eq!(memory.used(), 20 * KIB, "what was refused is not counted");
        held.clear();
        assert!(memory.reserve(Some(&one)).grow(25 * KIB));
        assert_eq!((memory.used(), memory.0.held.lock().unwrap().len()), (0, 0));
    }
}
