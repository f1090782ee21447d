//! One circuit per key, up to a limit.
//!
//! Each thread finds circuits through its own map, which is written only when a key is new. Stamps from one counter order
//! the circuits by last use; the most recent circuit draws no new stamp, so a single busy key writes nothing.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::circuit::{Circuit, CircuitPermit};
use crate::rt::per_thread::ReadMostly;
use crate::rt::sync::{AtomicU64, Mutex, Ordering, lock};

#[derive(Debug)]
pub(super) struct Registry {
    entries: ReadMostly<HashMap<Arc<str>, Arc<RegisteredCircuit>>>,
    capacity: AtomicUsize,
    /// The stamp of the most recently used circuit.
    latest: AtomicU64,
    /// The number of circuits; locked while one replaces another.
    count: Mutex<usize>,
}

#[derive(Debug)]
struct RegisteredCircuit {
    circuit: Arc<Circuit>,
    used: AtomicU64,
}

// === impl Registry ===

impl Registry {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            entries: ReadMostly::default(),
            capacity: AtomicUsize::new(capacity.get()),
            latest: AtomicU64::new(0),
            count: Mutex::new(0),
        }
    }

    /// Admits a call under this key, and makes the circuit if there is none; `None` if there is no room for it.
    #[inline]
    pub(super) fn admit(
        &self,
        key: &str,
        make: impl FnOnce(Arc<str>) -> Arc<Circuit>,
        now: impl FnOnce() -> Instant,
    ) -> Option<Result<CircuitPermit, Option<Duration>>> {
        let circuit = {
            let entries = self.entries.read();
            let entry = entries.get(key);
            if let Some(entry) = entry {
                self.touch(entry);
                if let Some(permit) = entry.circuit.pass() {
                    return Some(Ok(permit));
                }
            }
            entry.map(|entry| entry.circuit.clone())
        };
        // Events are emitted without a lock.
        let circuit = circuit.or_else(|| self.insert(key, false, make))?;
        Some(circuit.admit(now))
    }

    /// Returns the circuit of this key, and makes it if there is none, even beyond the limit.
    pub(super) fn get(&self, key: &str, make: impl Fn(Arc<str>) -> Arc<Circuit>) -> Arc<Circuit> {
        let found = self.find(key).or_else(|| self.insert(key, true, &make));
        found.unwrap_or_else(|| make(key.into()))
    }

    pub(super) fn set_capacity(&self, capacity: NonZeroUsize) {
        self.capacity.store(capacity.get(), Ordering::Relaxed);
    }

    /// Returns all circuits, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Circuit>> {
        self.entries.read().values().map(|entry| entry.circuit.clone()).collect()
    }

    fn find(&self, key: &str) -> Option<Arc<Circuit>> {
        let entries = self.entries.read();
        let entry = entries.get(key)?;
        self.touch(entry);
        Some(entry.circuit.clone())
    }

    #[cold]
    fn insert(&self, key: &str, anyway: bool, make: impl FnOnce(Arc<str>) -> Arc<Circuit>) -> Option<Arc<Circuit>> {
        // The holder of this lock may change the set of keys.
        let mut count = lock(&self.count);
        if let Some(circuit) = self.find(key) {
            return Some(circuit);
        }
        if *count >= self.capacity.load(Ordering::Relaxed) {
            match self.evict() {
                true => *count = count.saturating_sub(1),
                false if !anyway => return None,
                false => {}
            }
        }
        *count = count.saturating_add(1);
        let key: Arc<str> = key.into();
        let circuit = make(key.clone());
        let entry = Arc::new(RegisteredCircuit { circuit: circuit.clone(), used: AtomicU64::new(self.stamp()) });
        self.entries.write(|entries| entries.insert(key.clone(), entry.clone()));
        Some(circuit)
    }

    /// Drops the least recently used circuit that is not pinned. Returns whether there was one. Scans all circuits, a
    /// cost that only new keys pay.
    fn evict(&self) -> bool {
        let oldest = self.oldest(|entry| !entry.is_pinned());
        oldest.is_some_and(|key| self.entries.write(|entries| entries.remove(&key)).flatten().is_some())
    }

    /// Returns the key of the least recently used circuit that `may_go` permits.
    fn oldest(&self, may_go: impl Fn(&RegisteredCircuit) -> bool) -> Option<Arc<str>> {
        let mut oldest: Option<(u64, Arc<str>)> = None;
        for (key, entry) in self.entries.read().iter() {
            let used = entry.used.load(Ordering::Relaxed);
            // Checked last, and so rarely: it takes a lock.
            if oldest.as_ref().is_none_or(|(least, _)| used < *least) && may_go(entry) {
                oldest = Some((used, key.clone()));
            }
        }
        oldest.map(|(_, key)| key)
    }

    #[inline]
    fn touch(&self, entry: &RegisteredCircuit) {
        if entry.used.load(Ordering::Relaxed) != self.latest.load(Ordering::Relaxed) {
            entry.used.store(self.stamp(), Ordering::Relaxed);
        }
    }

    fn stamp(&self) -> u64 {
        self.latest.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

// === impl Entry ===

impl RegisteredCircuit {
    /// Whether the circuit is open, was set by hand, or has a live handle.
    fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.circuit) > 1 || self.circuit.is_pinned()
    }
}
