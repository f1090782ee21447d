//! One circuit per key, and not too many of them.
//!
//! Each thread finds them through a map of its own, which is written only when a key is new. Stamps, drawn from one counter, say
//! which circuit was used last; a circuit that is the latest already draws none, so that a single busy key writes nothing.

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
    entries: ReadMostly<HashMap<Arc<str>, Arc<Entry>>>,
    capacity: AtomicUsize,
    /// The stamp of the circuit that was used last.
    latest: AtomicU64,
    /// How many circuits there are; locked while one is put in the place of another.
    count: Mutex<usize>,
}

#[derive(Debug)]
struct Entry {
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

    /// Leave to make a call under this key, whose circuit is made if there is none; `None` if there is no room for it.
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

    /// The circuit of this key, which is made if there is none, be there room for it or not.
    pub(super) fn get(&self, key: &str, make: impl Fn(Arc<str>) -> Arc<Circuit>) -> Arc<Circuit> {
        let found = self.find(key).or_else(|| self.insert(key, true, &make));
        found.unwrap_or_else(|| make(key.into()))
    }

    pub(super) fn set_capacity(&self, capacity: NonZeroUsize) {
        self.capacity.store(capacity.get(), Ordering::Relaxed);
    }

    /// All there are, in no order.
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
        // Held by whatever changes which keys there are.
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
        let entry = Arc::new(Entry { circuit: circuit.clone(), used: AtomicU64::new(self.stamp()) });
        self.entries.write(|entries| entries.insert(key.clone(), entry.clone()));
        Some(circuit)
    }

    /// Drops the circuit that has not been used for longest, of those that are not pinned. Returns whether there was one. A
    /// look at all of them, at a price that only new keys pay.
    fn evict(&self) -> bool {
        let oldest = self.oldest(|entry| !entry.is_pinned());
        oldest.is_some_and(|key| self.entries.write(|entries| entries.remove(&key)).flatten().is_some())
    }

    /// The key of the circuit that has not been used for longest, of those that may go.
    fn oldest(&self, may_go: impl Fn(&Entry) -> bool) -> Option<Arc<str>> {
        let mut oldest: Option<(u64, Arc<str>)> = None;
        for (key, entry) in self.entries.read().iter() {
            let used = entry.used.load(Ordering::Relaxed);
            // Asked last, and thus seldom: it takes a lock.
            if oldest.as_ref().is_none_or(|(least, _)| used < *least) && may_go(entry) {
                oldest = Some((used, key.clone()));
            }
        }
        oldest.map(|(_, key)| key)
    }

    #[inline]
    fn touch(&self, entry: &Entry) {
        if entry.used.load(Ordering::Relaxed) != self.latest.load(Ordering::Relaxed) {
            entry.used.store(self.stamp(), Ordering::Relaxed);
        }
    }

    fn stamp(&self) -> u64 {
        self.latest.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

// === impl Entry ===

impl Entry {
    /// Whether the circuit is open, was set by hand, or has a live handle.
    fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.circuit) > 1 || self.circuit.is_pinned()
    }
}
