//! One circuit per key, and not too many of them.
//!
//! # Why segments?
//!
//! A map behind one lock is one lock for all calls. Each of these has a sixteenth of the keys, and is written only when
//! a key is new. Which circuit was used last is told by stamps, drawn from one counter; a circuit that is the latest
//! already draws none, so that a single busy key writes nothing.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::circuit::Circuit;
use super::permit::Permit;
use crate::rt::sync::{AtomicU64, Mutex, Ordering, lock};

#[derive(Debug)]
pub(super) struct Registry {
    segments: [RwLock<Segment>; SEGMENTS],
    hasher: RandomState,
    capacity: NonZeroUsize,
    /// The stamp of the circuit that was used last.
    latest: AtomicU64,
    /// How many circuits there are; locked while one is put in the place of another.
    count: Mutex<usize>,
}

type Segment = HashMap<Arc<str>, Kept>;

#[derive(Debug)]
struct Kept {
    circuit: Arc<Circuit>,
    used: AtomicU64,
}

const SEGMENTS: usize = 16;

// === impl Registry ===

impl Registry {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            segments: Default::default(),
            hasher: RandomState::new(),
            capacity,
            latest: AtomicU64::new(0),
            count: Mutex::new(0),
        }
    }

    /// Leave to make a call under this key, whose circuit is made if there is none.
    #[inline]
    pub(super) fn admit(
        &self,
        key: &str,
        make: impl FnOnce(Arc<str>) -> Arc<Circuit>,
        now: impl FnOnce() -> Instant,
    ) -> Result<Permit, Option<Duration>> {
        let circuit = {
            let segment = read(self.segment(key));
            let kept = segment.get(key);
            if let Some(kept) = kept {
                self.touch(kept);
                if let Some((lane, generation)) = kept.circuit.pass() {
                    return Ok(Permit::Call { lane, generation });
                }
            }
            kept.map(|kept| kept.circuit.clone())
        };
        // Whatever may have to be told of is told without a lock.
        circuit.unwrap_or_else(|| self.insert(key, make)).admit(now)
    }

    /// The circuit of this key, which is made if there is none.
    pub(super) fn get(&self, key: &str, make: impl FnOnce(Arc<str>) -> Arc<Circuit>) -> Arc<Circuit> {
        self.find(key).unwrap_or_else(|| self.insert(key, make))
    }

    /// All there are, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Circuit>> {
        let circuits = |segment| read(segment).values().map(|kept| kept.circuit.clone()).collect::<Vec<_>>();
        self.segments.iter().flat_map(circuits).collect()
    }

    fn find(&self, key: &str) -> Option<Arc<Circuit>> {
        let segment = read(self.segment(key));
        let kept = segment.get(key)?;
        self.touch(kept);
        Some(kept.circuit.clone())
    }

    #[cold]
    fn insert(&self, key: &str, make: impl FnOnce(Arc<str>) -> Arc<Circuit>) -> Arc<Circuit> {
        // Whoever changes which keys there are holds this.
        let mut count = lock(&self.count);
        if let Some(circuit) = self.find(key) {
            return circuit;
        }
        if *count < self.capacity.get() {
            *count += 1;
        } else {
            self.evict();
        }
        let key: Arc<str> = key.into();
        let circuit = make(key.clone());
        let used = AtomicU64::new(self.stamp());
        write(self.segment(&key)).insert(key, Kept { circuit: circuit.clone(), used });
        circuit
    }

    /// Drops the circuit that has not been used for longest, and one that is in hand only when all are. A look
    /// at all of them, at a price that only new keys pay.
    fn evict(&self) {
        if let Some(key) = self.oldest(|kept| !kept.is_pinned()).or_else(|| self.oldest(|_| true)) {
            let gone = write(self.segment(&key)).remove(&key);
            drop(gone);
        }
    }

    /// The key of the circuit that has not been used for longest, of those that may go.
    fn oldest(&self, may_go: impl Fn(&Kept) -> bool) -> Option<Arc<str>> {
        let mut oldest: Option<(u64, Arc<str>)> = None;
        for segment in &self.segments {
            for (key, kept) in read(segment).iter() {
                let used = kept.used.load(Ordering::Relaxed);
                // Asked last, and thus seldom: it takes a lock.
                if oldest.as_ref().is_none_or(|(least, _)| used < *least) && may_go(kept) {
                    oldest = Some((used, key.clone()));
                }
            }
        }
        oldest.map(|(_, key)| key)
    }

    fn segment(&self, key: &str) -> &RwLock<Segment> {
        let hash = self.hasher.hash_one(key);
        &self.segments[usize::try_from(hash % SEGMENTS as u64).unwrap_or_default()]
    }

    #[inline]
    fn touch(&self, kept: &Kept) {
        if kept.used.load(Ordering::Relaxed) != self.latest.load(Ordering::Relaxed) {
            kept.used.store(self.stamp(), Ordering::Relaxed);
        }
    }

    fn stamp(&self) -> u64 {
        self.latest.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

// === impl Kept ===

impl Kept {
    /// Whether somebody has told it what to do, or holds its handle, and may; or a probe is on its way.
    fn is_pinned(&self) -> bool {
        Arc::strong_count(&self.circuit) > 1 || self.circuit.is_pinned()
    }
}

fn read(segment: &RwLock<Segment>) -> RwLockReadGuard<'_, Segment> {
    segment.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(segment: &RwLock<Segment>) -> RwLockWriteGuard<'_, Segment> {
    segment.write().unwrap_or_else(PoisonError::into_inner)
}
