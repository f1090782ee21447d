//! Finds how many concurrent calls an upstream can serve, by its refusals.
//!
//! # Why by loss, and not by latency?
//!
//! A call takes as long as its answer: a second and two minutes are both healthy, so a limit by latency would follow the
//! mix of prompts. An upstream that refuses, drops, or never begins calls is overloaded. So the limit grows by one for
//! each round of successes that reached it, and shrinks by 30 % once for each round with a loss (AIMD, as in TCP;
//! Netflix' concurrency-limits do it for clients).

/// A concurrency limit, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adaptive {
    min: u64,
    max: u64,
    limit: u64,
    /// The number of times that it has shrunk.
    round: u32,
}

const ONE: u64 = 1000;

// === impl Adaptive ===

impl Adaptive {
    /// Begins at `start` calls.
    pub(crate) fn new(min: u32, max: u32, start: u32) -> Self {
        let min = min.max(1);
        let max = max.max(min);
        let thousandths = |calls: u32| u64::from(calls) * ONE;
        Self { min: thousandths(min), max: thousandths(max), limit: thousandths(start.clamp(min, max)), round: 0 }
    }

    pub(crate) fn limit(&self) -> u32 {
        u32::try_from(self.limit / ONE).unwrap_or(u32::MAX)
    }

    /// The round of calls that begin now.
    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// A call was served while `under_way` calls were in flight. A limit that is not reached proves nothing about a
    /// higher one.
    pub(crate) fn served(&mut self, under_way: u32) {
        if u64::from(under_way) * ONE + ONE > self.limit {
            self.limit = (self.limit + (ONE * ONE / self.limit).max(1)).min(self.max);
        }
    }

    /// A call that began in `round` was lost. All losses among the calls in flight when the limit shrank count once.
    pub(crate) fn lost(&mut self, round: u32) {
        if round == self.round {
            self.limit = (self.limit * 7 / 10).max(self.min);
            self.round = self.round.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_grows_by_one_a_round_while_it_is_used() {
        let mut limit = Adaptive::new(1, 100, 10);
        for _ in 0..10 {
            limit.served(10);
        }
        assert!(limit.limit() <= 11);
        limit.served(10);
        assert_eq!(limit.limit(), 11 - u32::from(limit.limit < 11 * ONE));
        let before = limit;
        limit.served(3);
        assert_eq!(limit, before, "what is not used does not grow");
    }

    #[test]
    fn a_round_shrinks_it_once() {
        let mut limit = Adaptive::new(2, 100, 100);
        let round = limit.round();
        for _ in 0..100 {
            limit.lost(round);
        }
        assert_eq!(limit.limit(), 70);
        for _ in 0..20 {
            limit.lost(limit.round());
        }
        assert_eq!(limit.limit(), 2);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            min in any::<u32>(),
            max in any::<u32>(),
            start in any::<u32>(),
            calls in proptest::collection::vec((any::<bool>(), any::<u32>()), 0..200),
        ) {
            let mut limit = Adaptive::new(min, max, start);
            for (lost, number) in calls {
                if lost { limit.lost(limit.round()) } else { limit.served(number) }
                prop_assert!((min.max(1)..=max.max(min).max(1)).contains(&limit.limit()));
            }
        }
    }

    #[test]
    fn only_a_limit_that_is_reached_grows() {
        let mut limit = Adaptive::new(1, 11, 10);
        let before = limit;
        (0..100).for_each(|_| limit.served(9));
        assert_eq!(limit, before);
        (0..11).for_each(|_| limit.served(10));
        assert_eq!(limit.limit(), 11);
        (0..100).for_each(|_| limit.served(11));
        assert_eq!(limit.limit(), 11, "the maximum");
        assert_eq!(
            (Adaptive::new(0, 0, 9).limit(), Adaptive::new(3, 8, 1).limit(), Adaptive::new(3, 8, 9).limit()),
            (1, 3, 8)
        );
    }

    #[test]
    fn it_shrinks_once_a_round_down_to_the_minimum() {
        let mut limit = Adaptive::new(2, 100, 10);
        limit.lost(limit.round());
        assert_eq!((limit.limit(), limit.round()), (7, 1));
        limit.lost(0);
        assert_eq!(limit.limit(), 7, "it began before");
        (0..9).for_each(|_| limit.lost(limit.round()));
        assert_eq!((limit.limit(), limit.round()), (2, 10));
    }
}
