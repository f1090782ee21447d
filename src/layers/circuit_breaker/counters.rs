//! Lock-free counters for the calls of some threads.

use std::time::{Duration, Instant};

use crate::policy::breaker::own_failures::SERVED;
use crate::policy::breaker::{Caller, Counted, QUIET};
use crate::policy::window::CountedIn;
use crate::rt::sync::{AtomicU32, AtomicU64, Ordering};

/// The successes of a few threads, and the state that a call reads at its start.
#[derive(Debug)]
pub(super) struct Counters {
    /// The generation whose successes are counted here, or [`NONE`], in the upper half; their number in the lower.
    packed: AtomicU64,
    /// Until when they may be counted, in nanoseconds from the epoch; and in which slot.
    until: AtomicU64,
    slot: AtomicU64,
    /// The upstream's last sign of life, in nanoseconds from the epoch, or [`NEVER`].
    last_sign: AtomicU64,
    refused: AtomicU64,
    /// For each second, the calls that began in it and wait for their first data: the second in the upper half, the
    /// number in the lower.
    waiting: [AtomicU32; SECONDS],
    /// A [`LatestServed`].
    served: AtomicU64,
    limits: SlownessLimits,
    epoch: Instant,
}

/// The caller of the latest success, its second, and the second of the latest success of another caller. Seconds wrap
/// around every eighteen hours: then an old success passes for a new one, for a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LatestServed {
    caller: u32,
    latest: u16,
    before: u16,
}

/// The limit that makes a call slow, in nanoseconds; [`u64::MAX`] for never.
#[derive(Debug)]
pub(super) struct SlownessLimits {
    slow_after: AtomicU64,
    /// Zero: slow calls are measured by their first data.
    whole_body: AtomicU32,
    patience: AtomicU64,
}

/// Nanoseconds since the circuit was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nanos(pub(super) u64);

/// No generation: the machine counts from one.
pub(super) const NONE: u32 = 0;
const NEVER: u64 = u64::MAX;
/// The seconds of [`QUIET`], the current one, and some more, so that an old count is never read as a new one.
const SECONDS: usize = 8;

// === impl Counters ===

impl Counters {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            packed: AtomicU64::new(packed(NONE, 0)),
            until: AtomicU64::new(0),
            slot: AtomicU64::new(0),
            last_sign: AtomicU64::new(NEVER),
            refused: AtomicU64::new(0),
            waiting: std::array::from_fn(|_| AtomicU32::new(0)),
            served: AtomicU64::new(LatestServed::NONE.to_word()),
            limits: SlownessLimits::default(),
            epoch,
        }
    }

    pub(super) fn limits(&self) -> &SlownessLimits {
        &self.limits
    }

    #[inline]
    pub(super) fn nanos(&self, at: Instant) -> Nanos {
        Nanos::since(self.epoch, at)
    }

    pub(super) fn note_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a success of this caller here, if allowed.
    #[inline]
    pub(super) fn count(&self, generation: u32, caller: Caller, now: Instant) -> Option<Counted> {
        let now = self.nanos(now);
        let mut seen = self.packed.load(Ordering::Acquire);
        loop {
            let (of, calls) = parts(seen);
            if of != generation || calls == u32::MAX || now.0 >= self.until.load(Ordering::Relaxed) {
                return None;
            }
            let slot = CountedIn(self.slot.load(Ordering::Relaxed));
            self.last_sign.store(now.0, Ordering::Relaxed);
            self.note_served(caller, now);
            // The comparison includes the generation: the count belongs to it.
            match self.packed.compare_exchange_weak(seen, seen + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(Counted { generation, slot, slow: false }),
                Err(now) => seen = now,
            }
        }
    }

    /// Notes data of a stream in flight.
    pub(super) fn note_sign_of_life(&self, now: Nanos) {
        self.last_sign.store(now.0, Ordering::Relaxed);
    }

    /// Notes that this caller was served.
    #[inline]
    pub(super) fn note_served(&self, caller: Caller, now: Nanos) {
        // Another thread of this shard may write at the same time: then one of the two counts.
        let seen = self.served.load(Ordering::Relaxed);
        let served = LatestServed::of(seen).and(short(caller), now.second()).to_word();
        if served != seen {
            self.served.store(served, Ordering::Relaxed);
        }
    }

    /// Whether another caller was served within [`SERVED`], to the second.
    pub(super) fn has_served_other(&self, caller: Caller, now: Nanos) -> bool {
        let served = LatestServed::of(self.served.load(Ordering::Relaxed));
        let age = now.second().wrapping_sub(served.of_others(short(caller)));
        u64::from(age) <= SERVED.as_secs()
    }

    /// Notes that a call begins to wait for its first data.
    pub(super) fn begin_wait(&self, since: Nanos) {
        let second = since.second();
        self.update_waiting(
            second,
            |of, calls| if of == second { (second, calls.saturating_add(1)) } else { (second, 1) },
        );
    }

    /// Notes that a call that began to wait at `since` no longer waits.
    pub(super) fn end_wait(&self, since: Nanos) {
        let second = since.second();
        self.update_waiting(second, |of, calls| (of, calls.saturating_sub((of == second).into())));
    }

    fn update_waiting(&self, second: u16, update: impl Fn(u16, u16) -> (u16, u16)) {
        let place = &self.waiting[usize::from(second) % SECONDS];
        let mut seen = place.load(Ordering::Relaxed);
        loop {
            let (of, calls) = halves(seen);
            let (of, calls) = update(of, calls);
            match place.compare_exchange_weak(seen, joined(of, calls), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// The number of waiting calls here that began in the last seconds.
    pub(super) fn waiting(&self, now: Nanos) -> u64 {
        let recent = |place: &AtomicU32| {
            let (second, calls) = halves(place.load(Ordering::Relaxed));
            let age = now.second().wrapping_sub(second);
            if u64::from(age) <= QUIET.as_secs() { u64::from(calls) } else { 0 }
        };
        self.waiting.iter().map(recent).sum()
    }

    /// Takes the count, the last sign of life, and the permission to count.
    pub(super) fn drain(&self) -> (u64, Option<Instant>) {
        let mut calls = 0;
        if self.packed.load(Ordering::Relaxed) != packed(NONE, 0) {
            (_, calls) = parts(self.packed.swap(packed(NONE, 0), Ordering::AcqRel));
        }
        let mut last_sign = self.last_sign.load(Ordering::Relaxed);
        if last_sign != NEVER {
            // Taken once: an older sign must not come back after the machine has forgotten it.
            last_sign = self.last_sign.swap(NEVER, Ordering::Relaxed);
        }
        let last_sign = (last_sign != NEVER).then(|| self.epoch.checked_add(Duration::from_nanos(last_sign))).flatten();
        (calls.into(), last_sign)
    }

    /// Permits counting.
    pub(super) fn resume(&self, generation: u32, until: u64, slot: CountedIn) {
        self.until.store(until, Ordering::Relaxed);
        self.slot.store(slot.0, Ordering::Relaxed);
        self.packed.store(packed(generation, 0), Ordering::Release);
    }

    #[cfg(test)]
    pub(super) fn fill(&self, generation: u32) {
        self.packed.store(packed(generation, u32::MAX), Ordering::Relaxed);
    }
}

// === impl LatestServed ===

impl LatestServed {
    /// Nine hours before the circuit was created.
    const NONE: Self = Self { caller: 0, latest: 1 << 15, before: 1 << 15 };

    #[inline]
    fn and(self, caller: u32, second: u16) -> Self {
        let before = if self.caller == caller { self.before } else { self.latest };
        Self { caller, latest: second, before }
    }

    fn of_others(self, caller: u32) -> u16 {
        if self.caller == caller { self.before } else { self.latest }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "the parts of a word")]
    const fn of(word: u64) -> Self {
        Self { caller: (word >> 32) as u32, latest: (word >> 16) as u16, before: word as u16 }
    }

    #[inline]
    const fn to_word(self) -> u64 {
        (self.caller as u64) << 32 | (self.latest as u64) << 16 | self.before as u64
    }
}

/// Two callers with the same number count as one.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "half of a hash")]
const fn short(caller: Caller) -> u32 {
    match caller {
        Caller::Anonymous => 0,
        Caller::Tenant(hash) => (hash >> 32) as u32 | 1,
    }
}

// === impl SlownessLimits ===

impl SlownessLimits {
    /// Sets the limits.
    pub(super) fn set(&self, slow_after: Option<Duration>, whole_body: bool, patience: Duration) {
        self.slow_after.store(slow_after.map_or(u64::MAX, clamped), Ordering::Relaxed);
        self.whole_body.store(whole_body.into(), Ordering::Relaxed);
        self.patience.store(clamped(patience), Ordering::Relaxed);
    }

    /// Whether the duration of a call matters.
    #[inline]
    pub(super) fn has_slow(&self) -> bool {
        self.slow_after.load(Ordering::Relaxed) != u64::MAX
    }

    /// Whether a call that took this long is slow. The limit itself is not.
    pub(super) fn is_slow(&self, took: Nanos) -> bool {
        took.0 > self.slow_after.load(Ordering::Relaxed)
    }

    /// Whether the whole body counts for slowness, not the first data.
    pub(super) fn by_whole_body(&self) -> bool {
        self.whole_body.load(Ordering::Relaxed) != 0
    }

    /// How long a cancelled call must have waited to count; `first_byte` is the request's own limit, if it has one.
    pub(super) fn patience(&self, first_byte: Option<Duration>) -> Duration {
        let slow = match self.slow_after.load(Ordering::Relaxed) {
            u64::MAX => Duration::ZERO,
            slow => Duration::from_nanos(slow),
        };
        let usual = || Duration::from_nanos(self.patience.load(Ordering::Relaxed));
        first_byte.map_or_else(usual, |limit| slow.max(limit / 2))
    }
}

impl Default for SlownessLimits {
    fn default() -> Self {
        Self { slow_after: AtomicU64::new(u64::MAX), whole_body: AtomicU32::new(0), patience: AtomicU64::new(u64::MAX) }
    }
}

// === impl Nanos ===

impl Nanos {
    /// Saturates: before the epoch at zero, after five hundred years at the maximum.
    #[inline]
    pub(super) fn since(epoch: Instant, at: Instant) -> Self {
        let since = at.saturating_duration_since(epoch);
        Self(since.as_secs().saturating_mul(1_000_000_000).saturating_add(since.subsec_nanos().into()))
    }

    /// No instant.
    pub(super) const NONE: Self = Self(u64::MAX);

    #[inline]
    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// The time from `earlier` to `self`.
    #[inline]
    pub(super) fn elapsed_since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    pub(super) fn as_duration(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Wraps around every eighteen hours.
    #[allow(clippy::cast_possible_truncation, reason = "counted around")]
    fn second(self) -> u16 {
        (self.0 / 1_000_000_000) as u16
    }
}

fn clamped(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const fn packed(generation: u32, calls: u32) -> u64 {
    (generation as u64) << 32 | calls as u64
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn parts(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

const fn joined(second: u16, calls: u16) -> u32 {
    (second as u32) << 16 | calls as u32
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn halves(joined: u32) -> (u16, u16) {
    ((joined >> 16) as u16, joined as u16)
}
