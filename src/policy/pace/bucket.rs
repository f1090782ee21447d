//! The generic cell rate algorithm, over several buckets at once.
//!
//! # Why a time, and not a count?
//!
//! A bucket is one number, the *theoretical arrival time* at which it will be full again. Nothing has to refill it: a
//! call adds its cost, a refund subtracts it, and the number gives the wait. A script in a shared store does the same
//! arithmetic in the same unit, whole microseconds, which stay exact in the numbers of Lua.

use std::time::Duration;

use super::rate::Rate;
use crate::policy::micros::{Micros, micros};
use crate::proto::rate_limit::{Quota, Unit};

/// The demand of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) requests: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// The limit of one unit, and how much of it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) unit: Unit,
    pub(crate) source: Source,
    /// The window that answers name for it, if any.
    window: Option<Duration>,
    spacing: Spacing,
    /// When it will be full again. In the past it is full.
    tat: Micros,
    /// For a configured rate: the rest that answers report. The upstream may allow a larger burst.
    reported: Option<ReportedRest>,
}

/// The reported rest of a configured rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReportedRest {
    /// The arrival time by the report; in the past if units are left.
    tat: i64,
    /// When an answer reported it. It includes earlier reservations, as the upstream counts them.
    at: Micros,
}

/// The source of a bucket's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Configured.
    Configured,
    /// Learned from answers.
    Learned,
}

/// A rate in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spacing {
    units: u64,
    per: Micros,
    /// How far ahead of now the arrival time may be after a call.
    burst: Micros,
}

/// A rate is learned only from a reset of at least this many times its sender's resolution: a value rounded to seconds
/// has no milliseconds.
const RESOLUTIONS: u32 = 20;
/// The default window of a limit without a named one. Longer windows are recognised by their reset.
const WINDOW: Micros = 60_000_000;
/// A longer time is not believed: a wrongly learned limit would last that long.
const LONGEST: Micros = 7 * 24 * 60 * WINDOW;

/// Takes `demand` from all of `buckets`, or from none.
///
/// # Errors
///
/// Returns the wait until all have room, if one has not.
pub(crate) fn reserve(buckets: &mut [Bucket], demand: &Demand, now: Micros) -> Result<(), Micros> {
    let wait = wait(buckets, &Demand::default(), demand, now);
    if wait > 0 {
        return Err(wait);
    }
    for bucket in buckets {
        let cost = bucket.cost(demand);
        bucket.change(cost, 0, now);
        bucket.change_reported(cost, 0);
    }
    Ok(())
}

/// How long until `buckets` have `demand`, if `ahead` is taken before.
pub(crate) fn wait(buckets: &[Bucket], ahead: &Demand, demand: &Demand, now: Micros) -> Micros {
    buckets.iter().map(|bucket| bucket.wait(bucket.cost(ahead), bucket.cost(demand), now)).max().unwrap_or_default()
}

// === impl Bucket ===

impl Bucket {
    /// A full one.
    pub(crate) fn new(unit: Unit, rate: Rate) -> Self {
        Self { unit, source: Source::Configured, window: None, spacing: Spacing::new(rate), tat: 0, reported: None }
    }

    /// The time that `demand` takes of it.
    pub(crate) fn cost(&self, demand: &Demand) -> Micros {
        self.spacing.cost(demand.of(self.unit))
    }

    /// A cost larger than the bucket goes when the bucket is full.
    fn wait(&self, ahead: Micros, cost: Micros, now: Micros) -> Micros {
        let taken = self.tat.max(now).saturating_add(ahead);
        let room = self.spacing.burst.saturating_sub(cost);
        let reported =
            self.reported.map_or(0, |reported| reported.tat.saturating_add(signed(ahead)).saturating_add(signed(cost)));
        let reported = u64::try_from(reported.saturating_sub(signed(now))).unwrap_or(0);
        if cost == 0 { 0 } else { taken.saturating_sub(now).saturating_sub(room).max(reported) }
    }

    fn change(&mut self, more: Micros, less: Micros, now: Micros) {
        self.tat = self.tat.max(now).saturating_add(more).saturating_sub(less);
    }

    fn change_reported(&mut self, more: Micros, less: Micros) {
        if let Some(reported) = &mut self.reported {
            reported.tat = reported.tat.saturating_add(signed(more)).saturating_sub(signed(less));
        }
    }

    /// The level that a call of `demand` sees, including the rest that answers report.
    pub(crate) fn level(&self, demand: &Demand, now: Micros) -> Micros {
        let cost = self.cost(demand);
        let wait = self.wait(0, cost, now);
        let needed = if wait == 0 { 0 } else { wait.saturating_add(self.spacing.burst.saturating_sub(cost)) };
        self.tat.saturating_sub(now).max(needed)
    }

    /// Corrects the amount `reserved` at `sent` to the amount `used`.
    pub(crate) fn settle(&mut self, reserved: &Demand, used: &Demand, sent: Micros, now: Micros) {
        let (reserved, used) = (self.cost(reserved), self.cost(used));
        self.change(used, reserved, now);
        if self.reported.is_some_and(|reported| sent > reported.at) {
            self.change_reported(used, reserved);
        }
    }

    /// Leaves no more than the cost of `demand` in it at `until`.
    pub(crate) fn empty(&mut self, demand: &Demand, until: Micros) {
        let room = self.spacing.burst.saturating_sub(self.cost(demand));
        self.tat = self.tat.max(until.saturating_add(room));
    }

    /// Applies an answer's report of this limit, but never returns units that the answer did not know to be taken.
    pub(crate) fn observe(&mut self, quota: &Quota, now: Micros) {
        if let (Source::Learned, Some(learned)) = (self.source, learn(quota)) {
            let change = learned.cost(1_000_000).abs_diff(self.spacing.cost(1_000_000));
            if change > self.spacing.cost(1_000_000) / 5
                || learned.units.abs_diff(self.spacing.units) > learned.units / 5
            {
                // Taken units stay taken: a time at the old rate has no meaning at the new one.
                let taken = self.spacing.units_in(self.reset(now));
                self.spacing = learned;
                // Units taken of a larger limit are not a debt of a smaller one.
                self.tat = now.saturating_add(learned.cost(taken).min(learned.burst));
            }
        }
        let Some(left) = quota.remaining.map(|remaining| self.spacing.cost(remaining)) else { return };
        if self.is_configured() {
            let tat = signed(now).saturating_sub(signed(left));
            if self.reported.is_none_or(|reported| reported.tat <= tat) {
                self.reported = Some(ReportedRest { tat, at: now });
            }
        } else {
            self.tat = self.tat.max(now.saturating_add(self.spacing.burst.saturating_sub(left)));
        }
    }

    /// How many units are left at `now`.
    pub(crate) fn remaining(&self, now: Micros) -> u64 {
        let reported =
            self.reported.map(|reported| u64::try_from(signed(now).saturating_sub(reported.tat)).unwrap_or(0));
        let left = self.spacing.burst.saturating_sub(self.tat.saturating_sub(now));
        self.spacing.units_in(reported.unwrap_or(left).min(left))
    }

    /// Whether its rate was set, and not learned.
    pub(crate) fn is_configured(&self) -> bool {
        self.source == Source::Configured
    }

    /// How many units are allowed in the time of its rate.
    pub(crate) fn units(&self) -> u64 {
        self.spacing.units
    }

    /// The time in which its units are allowed.
    pub(crate) fn per(&self) -> Micros {
        self.spacing.per
    }

    /// How long until it is full.
    pub(crate) fn reset(&self, now: Micros) -> Micros {
        self.tat.saturating_sub(now)
    }

    /// How many units may be taken at once.
    pub(crate) fn size(&self) -> u64 {
        self.spacing.units_in(self.spacing.burst)
    }

    /// How many units are allowed in the time of its rate, in a minute, or at once: the most of these.
    pub(crate) fn most(&self) -> u64 {
        let Spacing { per, burst, .. } = self.spacing;
        self.spacing.units_in(per.max(WINDOW).max(burst))
    }

    /// The time in which an empty bucket fills.
    pub(crate) fn fills_in(&self) -> Duration {
        Duration::from_micros(self.spacing.burst)
    }

    /// When it will be full.
    pub(crate) fn full_at(&self) -> Micros {
        self.tat
    }

    /// Whether a quota of this kind is the limit that it stands for.
    pub(crate) fn is_reported_by(&self, quota: &Quota) -> bool {
        self.unit == quota.unit && (self.source == Source::Configured || self.window == quota.window)
    }

    #[cfg(test)]
    fn interval(&self) -> Micros {
        self.spacing.cost(1)
    }
}

/// Returns the bucket that `quota` describes, if it is complete.
pub(crate) fn learned(quota: &Quota, now: Micros) -> Option<Bucket> {
    let Quota { unit, window, .. } = *quota;
    let mut bucket = Bucket { unit, source: Source::Learned, window, spacing: learn(quota)?, tat: 0, reported: None };
    bucket.observe(quota, now);
    Some(bucket)
}

/// A bucket refills continuously: what has been taken comes back until its reset. (The wait for one call is therefore
/// not the reset.) Limits that start afresh at once look slower here than they are until much of them is taken, which
/// matters only when nothing is left.
fn learn(quota: &Quota) -> Option<Spacing> {
    let (limit, remaining, reset) = (quota.limit?, quota.remaining?, quota.reset?);
    let taken = limit.checked_sub(remaining).filter(|taken| *taken > 0)?;
    if reset.after < reset.resolution.saturating_mul(RESOLUTIONS) {
        return None;
    }
    let named = quota.window.map(micros);
    let whole = u128::from(limit).saturating_mul(u128::from(micros(reset.after))) / u128::from(taken);
    let per = named.unwrap_or_else(|| u64::try_from(whole).unwrap_or(u64::MAX).max(WINDOW));
    (per <= LONGEST).then_some(Spacing { units: limit, per: per.max(1), burst: per.max(1) })
}

fn signed(time: Micros) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

// === impl Spacing ===

impl Spacing {
    fn new(rate: Rate) -> Self {
        let mut spacing = Self { units: rate.units(), per: micros(rate.per()), burst: 0 };
        spacing.burst = spacing.cost(rate.at_once());
        spacing
    }

    /// The time that `units` take, rounded up: never too fast.
    fn cost(&self, units: u64) -> Micros {
        let cost = (u128::from(units) * u128::from(self.per)).div_ceil(u128::from(self.units.max(1)));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    fn units_in(&self, time: Micros) -> u64 {
        let units = u128::from(time) * u128::from(self.units) / u128::from(self.per.max(1));
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}

// === impl Demand ===

impl Demand {
    /// One request, whose tokens are not counted.
    pub(crate) const REQUEST: Self = Self { requests: 1, input: 0, output: 0 };

    fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Requests => self.requests,
            Unit::Tokens => self.input.saturating_add(self.output),
            Unit::InputTokens => self.input,
            Unit::OutputTokens => self.output,
        }
    }

    /// Scales the demand for a process with one of `parts` equal parts of a rate.
    pub(crate) fn times(self, parts: u32) -> Self {
        let times = |units: u64| units.saturating_mul(parts.max(1).into());
        Self { requests: times(self.requests), input: times(self.input), output: times(self.output) }
    }

    /// The mean share of `some` of `all` calls in this total demand.
    pub(crate) fn share(self, some: u64, all: u64) -> Self {
        let share = |sum: u64| sum.saturating_mul(some).div_ceil(all.max(1));
        Self { requests: share(self.requests), input: share(self.input), output: share(self.output) }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            input: self.input.saturating_sub(other.input),
            output: self.output.saturating_sub(other.output),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::rate_limit::Reset;

    const SECOND: Micros = 1_000_000;

    fn requests(rate: Rate) -> Bucket {
        Bucket::new(Unit::Requests, rate)
    }

    fn tokens(rate: Rate) -> Bucket {
        Bucket::new(Unit::Tokens, rate)
    }

    fn call(tokens: u64) -> Demand {
        Demand { requests: 1, input: tokens, output: 0 }
    }

    #[test]
    fn calls_are_one_interval_apart() {
        let mut buckets = [requests(Rate::per_minute(60))];
        assert_eq!(reserve(&mut buckets, &call(0), 0), Ok(()));
        assert_eq!(reserve(&mut buckets, &call(0), 0), Err(SECOND));
        assert_eq!(reserve(&mut buckets, &call(0), SECOND - 1), Err(1));
        assert_eq!(reserve(&mut buckets, &call(0), SECOND), Ok(()));
    }

    /// The example that distributed.md checked against Redis.
    #[test]
    fn a_bucket_that_lacks_something_takes_nothing_from_the_others() {
        let mut buckets = [requests(Rate::per_minute(600).burst(10)), tokens(Rate::per_minute(6000).burst(1000))];
        for _ in 0..2 {
            assert_eq!(reserve(&mut buckets, &call(500), 0), Ok(()));
        }
        let before = buckets;
        assert_eq!(reserve(&mut buckets, &call(500), 0), Err(5 * SECOND));
        assert_eq!(buckets, before);
        buckets[1].settle(&call(500), &call(0), 0, 0);
        assert_eq!(reserve(&mut buckets, &call(500), 0), Ok(()));
    }

    #[test]
    fn a_cost_larger_than_the_bucket_goes_when_it_is_full() {
        let mut buckets = [tokens(Rate::per_minute(6000).burst(1000))];
        assert_eq!(reserve(&mut buckets, &call(5000), 0), Ok(()));
        assert_eq!(reserve(&mut buckets, &call(5000), 0), Err(50 * SECOND));
        assert_eq!(reserve(&mut buckets, &call(5000), 50 * SECOND), Ok(()));
    }

    fn quota(limit: u64, remaining: u64, reset: Duration, resolution: Duration) -> Quota {
        let reset = Some(Reset { after: reset, resolution });
        Quota { unit: Unit::Tokens, window: None, limit: Some(limit), remaining: Some(remaining), reset }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rate_is_learned_from_what_has_been_taken() {
        // Groq's requests are counted over a day, and its header does not say so.
        let day = learned(&quota(14_400, 14_370, 179_560 * MS, 10 * MS), 0).unwrap();
        assert!(day.interval().abs_diff(6 * SECOND) < SECOND / 50, "{}", day.interval());
        let minute = learned(&quota(160_000, 100_000, 22_500 * MS, MS), 0).unwrap();
        assert_eq!(minute.interval(), 375);
        assert_eq!(minute.remaining(0), 100_000);
        // 24 tokens in 9 ms: as good as nothing.
        assert_eq!(learned(&quota(160_000, 159_976, 9 * MS, MS), 0), None);
        // Rounded to seconds.
        assert_eq!(learned(&quota(60, 59, 1_000 * MS, 1_000 * MS), 0), None);
    }

    #[test]
    fn what_is_left_elsewhere_holds_here() {
        let mut bucket = learned(&quota(60, 30, 30_000 * MS, MS), 0).unwrap();
        assert_eq!(bucket.remaining(0), 30);
        // Others took more.
        bucket.observe(&quota(60, 2, 58_000 * MS, MS), 0);
        assert_eq!(bucket.remaining(0), 2);
        // An answer that was on its way says that there is more: it does not know of our own calls.
        bucket.observe(&quota(60, 40, 20_000 * MS, MS), 0);
        assert_eq!(bucket.remaining(0), 2);
        // A limit of ours that is far below the provider's is not touched by it.
        let mut own = tokens(Rate::per_minute(100).burst(100));
        own.observe(&quota(5_000, 4_000, 12_000 * MS, MS), 0);
        assert_eq!(own.remaining(0), 100);
        own.observe(&quota(5_000, 40, 59_000 * MS, MS), 0);
        assert_eq!(own.remaining(0), 40);
    }

    /// A rate that was set is spaced evenly, and holds one unit at once.
    #[test]
    fn what_an_answer_says_is_left_of_a_rate_that_was_set_holds_for_calls_of_many_units() {
        let reported = |remaining| {
            let mut bucket = tokens(Rate::per_minute(200_000));
            bucket.observe(&quota(200_000, remaining, 60_000 * MS, MS), 0);
            bucket
        };
        let waits = |remaining| wait(&[reported(remaining)], &Demand::default(), &call(5_000), 0);
        assert_eq!((waits(0), waits(4_000), waits(6_000)), (1_500_000, 300_000, 0));
        // Others learn as much of it as they need to wait for as long.
        let level = reported(0).level(&call(5_000), 0);
        assert_eq!(
            level.saturating_sub(reported(0).spacing.burst.saturating_sub(reported(0).cost(&call(5_000)))),
            1_500_000
        );
        // What a call takes is taken of both, and comes back with time.
        let mut buckets = [reported(6_000)];
        assert_eq!(reserve(&mut buckets, &call(5_000), 0), Ok(()));
        assert_eq!(wait(&buckets, &Demand::default(), &call(5_000), 1_500_000), 0);
        assert_eq!(reserve(&mut buckets, &call(5_000), 1_500_000), Ok(()));
        buckets[0].settle(&call(5_000), &call(0), 1_500_000, 1_500_000);
        assert_eq!(wait(&buckets, &Demand::default(), &call(6_000), 1_500_000), 0);
        // The call whose answer says that nothing is left does not give back what that answer knows of.
        let mut buckets = [tokens(Rate::per_minute(200_000))];
        assert_eq!(reserve(&mut buckets, &call(5_000), 0), Ok(()));
        buckets[0].observe(&quota(200_000, 0, 60_000 * MS, MS), 1);
        buckets[0].settle(&call(5_000), &call(0), 0, 1);
        assert_eq!(wait(&buckets, &Demand::default(), &call(5_000), 1), 1_500_000);
    }

    #[test]
    fn an_emptied_bucket_has_one_call_when_the_pause_ends() {
        let mut buckets = [requests(Rate::per_minute(60).burst(10))];
        buckets[0].empty(&call(0), 20 * SECOND);
        assert_eq!(wait(&buckets, &Demand::default(), &call(0), 0), 20 * SECOND);
        assert_eq!(reserve(&mut buckets, &call(0), 20 * SECOND), Ok(()));
        assert_eq!(reserve(&mut buckets, &call(0), 20 * SECOND), Err(SECOND));
    }

    #[test]
    fn what_a_bucket_says_of_itself() {
        let mut bucket = tokens(Rate::per_minute(60).burst(10));
        assert!(bucket.is_configured());
        assert_eq!((bucket.per(), bucket.size(), bucket.interval()), (60 * SECOND, 10, SECOND));
        assert_eq!(bucket.fills_in(), Duration::from_secs(10));
        assert_eq!((bucket.full_at(), bucket.reset(5 * SECOND), bucket.remaining(5 * SECOND)), (0, 0, 10));
        assert_eq!(reserve(std::slice::from_mut(&mut bucket), &call(4), 5 * SECOND), Ok(()));
        assert_eq!(
            (bucket.full_at(), bucket.reset(5 * SECOND), bucket.remaining(5 * SECOND)),
            (9 * SECOND, 4 * SECOND, 6)
        );
        assert_eq!(bucket.remaining(6 * SECOND), 7);
        assert_eq!(bucket.cost(&call(3)), 3 * SECOND);
        assert_eq!(wait(&[bucket], &call(4), &call(3), 5 * SECOND), SECOND, "eight are taken, and seven may be");
        assert_eq!(wait(&[bucket], &call(4), &Demand::default(), 5 * SECOND), 0, "nothing is asked for");
        assert!(!learned(&quota(60, 30, 30_000 * MS, MS), 0).unwrap().is_configured());
    }

    #[test]
    fn an_answer_speaks_of_the_bucket_of_its_unit_and_window() {
        let minute = quota(60, 30, 30_000 * MS, MS);
        let day = Quota { window: Some(Duration::from_secs(86_400)), ..minute };
        let other = Quota { unit: Unit::Requests, ..minute };
        let own = tokens(Rate::per_minute(60));
        assert!(own.is_reported_by(&minute) && own.is_reported_by(&day) && !own.is_reported_by(&other));
        let learned = learned(&minute, 0).unwrap();
        assert!(learned.is_reported_by(&minute) && !learned.is_reported_by(&day) && !learned.is_reported_by(&other));
    }

    #[test]
    fn a_rate_is_learned_anew_only_where_it_is_another() {
        let first = quota(100, 50, 30_000 * MS, MS);
        let mut bucket = learned(&first, 0).unwrap();
        assert_eq!((bucket.size(), bucket.per()), (100, 60 * SECOND));
        bucket.observe(&quota(110, 60, 30_000 * MS, MS), 0);
        assert_eq!((bucket.size(), bucket.per()), (100, 60 * SECOND), "the same rate of a tenth more");
        let mut bucket = learned(&first, 0).unwrap();
        bucket.observe(&quota(200, 100, 60_000 * MS, MS), 0);
        assert_eq!((bucket.size(), bucket.per()), (200, 120 * SECOND), "the same rate of twice as many");
        let mut bucket = learned(&first, 0).unwrap();
        bucket.observe(&quota(100, 50, 33_000 * MS, MS), 0);
        assert_eq!(bucket.per(), 60 * SECOND, "a tenth slower");
        bucket.observe(&quota(100, 50, 39_000 * MS, MS), 0);
        assert_eq!(bucket.per(), 78 * SECOND, "three tenths slower");
        let mut own = tokens(Rate::per_minute(60));
        own.observe(&first, 0);
        assert_eq!(own.per(), 60 * SECOND);
    }

    #[test]
    fn what_says_too_little_teaches_nothing() {
        let whole = quota(100, 50, 30_000 * MS, MS);
        for quota in [
            Quota { limit: None, ..whole },
            Quota { remaining: None, ..whole },
            Quota { reset: None, ..whole },
            Quota { remaining: Some(100), ..whole },
            Quota { remaining: Some(101), ..whole },
            quota(100, 50, 19 * MS, MS),
        ] {
            assert_eq!(learned(&quota, 0), None, "{quota:?}");
        }
        assert!(learned(&quota(100, 50, 20 * MS, MS), 0).is_some());
        let named = Quota { window: Some(Duration::from_secs(1)), ..whole };
        assert_eq!(learned(&named, 0).unwrap().per(), SECOND);
    }

    #[test]
    fn demands_are_counted_for_parts_of_a_rate() {
        let demand = Demand { requests: 2, input: 10, output: 7 };
        assert_eq!(demand.times(3), Demand { requests: 6, input: 30, output: 21 });
        assert_eq!(demand.times(0), demand);
        let one = Demand { requests: 1, input: 2, output: 9 };
        assert_eq!(demand.and(one), Demand { requests: 3, input: 12, output: 16 });
        assert_eq!(demand.without(one), Demand { requests: 1, input: 8, output: 0 });
        let of = |unit| demand.of(unit);
        assert_eq!(
            [of(Unit::Requests), of(Unit::Tokens), of(Unit::InputTokens), of(Unit::OutputTokens)],
            [2, 17, 10, 7]
        );
    }

    #[test]
    fn a_settlement_gives_back_or_takes_more() {
        let mut bucket = tokens(Rate::per_minute(60).burst(100));
        bucket.settle(&call(10), &call(30), 0, 0);
        assert_eq!(bucket.full_at(), 20 * SECOND);
        bucket.settle(&call(15), &call(5), 0, SECOND);
        assert_eq!(bucket.full_at(), 10 * SECOND);
        bucket.settle(&call(0), &call(5), 0, 20 * SECOND);
        assert_eq!(bucket.full_at(), 25 * SECOND, "from now on");
    }

    /// What the script does in a shared store, in the numbers of Lua.
    #[allow(clippy::cast_precision_loss)]
    fn script(tats: &mut [f64], costs: &[(f64, f64)], now: f64) -> Option<f64> {
        let (mut new, mut worst) = (Vec::new(), 0.0);
        for (tat, (cost, burst)) in tats.iter().zip(costs) {
            let tat = tat.max(now) + cost;
            let mut wait = tat - burst - now;
            if cost > burst {
                wait = f64::max(tat - cost - now, 0.0);
            }
            if wait > worst {
                worst = wait;
            }
            new.push(tat);
        }
        if worst > 0.0 {
            return Some(worst);
        }
        tats.copy_from_slice(&new);
        None
    }

    fn rates() -> impl Strategy<Value = Rate> {
        (1..100_000_u64, 1..3600_u64, 1..500_u64)
            .prop_map(|(units, seconds, burst)| Rate::new(units, Duration::from_secs(seconds)).burst(burst))
    }

    proptest! {
        #[test]
        #[allow(clippy::cast_precision_loss)]
        fn a_script_decides_the_same(
            request_rate in rates(),
            token_rate in rates(),
            calls in proptest::collection::vec((1..2_000_u64, 0..3_000_000_u64), 1..60),
        ) {
            // As long as 1970 is ago.
            let start = 1_795_694_400 * SECOND;
            let mut buckets = [requests(request_rate), tokens(token_rate)];
            let mut tats = [0.0, 0.0];
            let mut now = start;
            for (tokens, later) in calls {
                now += later;
                let demand = call(tokens);
                let costs = buckets.map(|bucket| (bucket.cost(&demand) as f64, bucket.spacing.burst as f64));
                let decided = reserve(&mut buckets, &demand, now).err().map(|wait| wait as f64);
                prop_assert_eq!(decided, script(&mut tats, &costs, now as f64));
                for (bucket, tat) in buckets.iter().zip(tats) {
                    prop_assert_eq!(bucket.tat as f64, tat);
                }
            }
        }

        /// In any window: no more than the rate, and the burst.
        #[test]
        fn no_window_sees_more_than_the_rate(
            rate in (1..200_u64, 1..120_u64, 1..20_u64)
                .prop_map(|(units, seconds, burst)| Rate::new(units, Duration::from_secs(seconds)).burst(burst)),
            steps in proptest::collection::vec(0..5_000_000_u64, 1..200),
        ) {
            let mut buckets = [requests(rate)];
            let (mut now, mut admitted) = (0, Vec::new());
            for step in steps {
                now += step;
                while reserve(&mut buckets, &call(0), now).is_ok() {
                    admitted.push(now);
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let count = (last - first + 1) as u64;
                    let allowed = buckets[0].spacing.units_in(to - from) + rate.at_once() + 1;
                    prop_assert!(count <= allowed, "{count} of {allowed} in {}", to - from);
                }
            }
        }

        /// The returned wait is exact.
        #[test]
        fn a_call_that_waits_for_the_returned_time_passes(
            rate in rates(),
            taken in 0..2_000_u64,
            tokens_ in 1..2_000_u64,
        ) {
            let mut buckets = [tokens(rate)];
            let _ = reserve(&mut buckets, &call(taken), 0);
            let wait = reserve(&mut buckets, &call(tokens_), 0).err().unwrap_or_default();
            prop_assert!(wait == 0 || reserve(&mut buckets, &call(tokens_), wait - 1).is_err());
            prop_assert!(wait == 0 || reserve(&mut buckets, &call(tokens_), wait).is_ok());
        }
    }
}
