//! How long to wait before the next attempt.
//!
//! # Why full jitter?
//!
//! Clients that failed together retry together, and collide again at each step. Full jitter spreads them over the whole
//! wait, and beats the other kinds both in repeated work and in the time until all are served
//! (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>). That requires that they draw different
//! numbers: all calls of a layer draw from one [`Entropy`](crate::rt::entropy::Entropy).

use std::time::Duration;

use fastrand::Rng;

/// Waits that grow from attempt to attempt, up to a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
    pub(crate) jitter: Jitter,
}

/// How waits are randomised, so that clients that failed together do not retry together.
///
/// `wait` is the wait without jitter, `base * 2^(retries so far)`, at most the cap:
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Jitter {
    /// No jitter: `wait`. For a single client, or a test.
    None,
    /// From the whole range, `0..=wait`: the least load, and the shortest total time.
    #[default]
    Full,
    /// From the second half, `wait / 2..=wait`: never immediately.
    Equal,
    /// From `base..=3 * previous`: by the previous wait, not by the number of attempts.
    Decorrelated,
}

// === impl Backoff ===

impl Backoff {
    /// Returns the wait before the next retry, after `retries` others, of which the last waited for `previous`.
    pub(crate) fn wait(&self, retries: u32, previous: Duration, rng: &mut Rng) -> Duration {
        let wait = self.base.saturating_mul(1 << retries.min(31)).min(self.cap);
        match self.jitter {
            Jitter::None => wait,
            Jitter::Full => between(Duration::ZERO, wait, rng),
            Jitter::Equal => between(wait / 2, wait, rng),
            Jitter::Decorrelated => {
                let most = previous.max(self.base).saturating_mul(3);
                between(self.base, most, rng).min(self.cap)
            }
        }
    }
}

impl Default for Backoff {
    /// 500 ms to 20 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(500), cap: Duration::from_secs(20), jitter: Jitter::Full }
    }
}

/// Draws evenly from `low` to `high`, both included; `low` if `high` is less. To the nanosecond up to 584 years, the
/// range of a `u64`.
pub(crate) fn between(low: Duration, high: Duration, rng: &mut Rng) -> Duration {
    let spread = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
    low.saturating_add(Duration::from_nanos(rng.u64(0..=spread)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn jitters() -> impl Strategy<Value = Jitter> {
        prop_oneof![Just(Jitter::None), Just(Jitter::Full), Just(Jitter::Equal), Just(Jitter::Decorrelated)]
    }

    fn durations() -> impl Strategy<Value = Duration> {
        prop_oneof![any::<Duration>(), (0..60_000_u64).prop_map(Duration::from_millis), Just(Duration::MAX)]
    }

    #[test]
    fn without_jitter_waits_double_up_to_the_cap() {
        let backoff = Backoff { base: 500 * MS, cap: 3_000 * MS, jitter: Jitter::None };
        let waits: Vec<_> =
            (0..5).map(|retries| backoff.wait(retries, Duration::ZERO, &mut Rng::with_seed(1))).collect();
        assert_eq!(waits, [500 * MS, 1_000 * MS, 2_000 * MS, 3_000 * MS, 3_000 * MS]);
    }

    #[test]
    fn full_jitter_spreads_evenly() {
        let mut rng = Rng::with_seed(1);
        let backoff = Backoff { base: 1_000 * MS, cap: 1_000 * MS, jitter: Jitter::Full };
        let mut tenths = [0_u32; 10];
        for _ in 0..10_000 {
            let wait = backoff.wait(0, Duration::ZERO, &mut rng);
            tenths[usize::try_from(wait.as_millis() / 100).unwrap().min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (850..1_150).contains(count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn no_wait_is_outside_its_bounds(
            base in durations(), cap in durations(), jitter in jitters(),
            retries in any::<u32>(), previous in durations(), seed in any::<u64>(),
        ) {
            let backoff = Backoff { base, cap, jitter };
            let wait = backoff.wait(retries, previous, &mut Rng::with_seed(seed));
            prop_assert!(wait <= cap);
            let plain = Backoff { jitter: Jitter::None, ..backoff }.wait(retries, previous, &mut Rng::with_seed(seed));
            match jitter {
                Jitter::None => prop_assert_eq!(wait, plain),
                Jitter::Full => prop_assert!(wait <= plain),
                Jitter::Equal => prop_assert!(wait <= plain && wait >= plain / 2),
                Jitter::Decorrelated => prop_assert!(wait >= base.min(cap)),
            }
        }

        #[test]
        fn a_draw_between_two_is_between_them(low in durations(), high in durations(), seed in any::<u64>()) {
            let drawn = between(low, high, &mut Rng::with_seed(seed));
            prop_assert!(drawn >= low && drawn <= high.max(low));
        }
    }
}
