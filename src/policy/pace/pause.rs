//! Decides which calls a 429 pauses.
//!
//! # Why not all calls at once?
//!
//! A 429 with a `Retry-After` is about a credential, and applies to all calls that share it. A 429 without a hint may be
//! about one caller's requests alone (a limit by user, a prompt that is refused), and a caller that could pause all
//! others by provoking it would be worse than the limit. So it pauses its own tenant, and all tenants only when a second
//! one gets a 429 too. No wait that an upstream asks for, such as a day, is obeyed beyond the cap: then one call finds
//! out.

use std::collections::HashMap;

use crate::policy::micros::Micros;

/// A 429 of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Throttled {
    pub(crate) tenant: u64,
    /// When to retry, if the upstream said so.
    pub(crate) hint: Option<Micros>,
    /// When the call was sent.
    pub(crate) sent: Micros,
    /// The interval between restarted calls.
    pub(crate) interval: Micros,
}

/// The calls that are paused, by tenant.
#[derive(Debug)]
pub(crate) struct Pauses {
    cap: Micros,
    all: Pause,
    tenants: HashMap<u64, Pause>,
}

/// One pause, and the restart after it.
#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    until: Micros,
    /// 429s without a hint, in a row.
    failures: u32,
    probe: Recovery,
    /// The interval between the restarted calls, until a call has none before it, and when the next may start.
    interval: Micros,
    next: Micros,
}

/// How calls restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Recovery {
    /// At the time that the upstream named.
    #[default]
    None,
    /// One call finds out whether the pause is over.
    Due,
    /// The probe was sent at this time.
    Sent(Micros),
}

/// Whether pauses allow a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseCheck {
    Free,
    /// As a probe of whether the pause is over, for the tenant or for all.
    Restart,
    /// After this wait.
    Wait(Micros),
}

/// What holds a call back, independent of the rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    None,
    /// All calls are paused, for this long.
    All(Micros),
    /// This call is paused, or a probe is in flight: ask again after this time.
    Own(Micros),
}

const SECOND: Micros = 1_000_000;
/// The first wait without a hint, as in the SDKs of the providers.
const FIRST: Micros = SECOND;
/// A refusal takes no longer. A probe without a head by then is being served.
const PROBE: Micros = 2 * SECOND;
/// Calls that wait for a probe outside a line ask again after this time.
const PROBE_STEP: Micros = SECOND / 10;
/// Each served call shortens the interval by this part, so that eleven calls double the rate. Otherwise a rate that was
/// measured too low would last as long as calls wait.
const SPEEDS_UP: Micros = 16;
/// The longest interval between restarted calls.
const SLOWEST: Micros = 4 * SECOND;
/// A pause is dropped after this many times the cap, even if no call has found out that it is over.
const FORGETS: Micros = 10;
/// The most tenants that are paused on their own. More of them pause all.
const TENANTS: usize = 256;

// === impl Pauses ===

impl Pauses {
    pub(crate) fn new(cap: Micros) -> Self {
        Self { cap, all: Pause::default(), tenants: HashMap::new() }
    }

    /// Whether a call of `tenant` may be sent. Changes nothing.
    pub(crate) fn look(&self, tenant: u64, now: Micros) -> PauseCheck {
        let own = self.tenants.get(&tenant).map_or(PauseCheck::Free, |pause| pause.look(now));
        match (self.all.look(now), own) {
            (PauseCheck::Wait(one), PauseCheck::Wait(other)) => PauseCheck::Wait(one.max(other)),
            (PauseCheck::Wait(wait), _) | (_, PauseCheck::Wait(wait)) => PauseCheck::Wait(wait),
            (PauseCheck::Restart, _) | (_, PauseCheck::Restart) => PauseCheck::Restart,
            (PauseCheck::Free, PauseCheck::Free) => PauseCheck::Free,
        }
    }

    /// Returns what holds a call of `tenant` back. The interval between restarted calls does not count.
    pub(crate) fn hold(&self, tenant: u64, now: Micros) -> Hold {
        if now < self.all.until {
            return Hold::All(self.all.until - now);
        }
        let own = self.tenants.get(&tenant).map_or(0, |pause| pause.hold(now));
        match own.max(self.all.hold(now)) {
            0 => Hold::None,
            wait => Hold::Own(wait),
        }
    }

    /// Whether only this tenant waits.
    pub(crate) fn is_paused_alone(&self, tenant: u64, now: Micros) -> bool {
        self.tenants.get(&tenant).is_some_and(|pause| matches!(pause.look(now), PauseCheck::Wait(_)))
    }

    /// Notes that a call is sent. Returns whether it is a probe.
    pub(crate) fn send(&mut self, tenant: u64, now: Micros) -> bool {
        let mut is_probe = false;
        self.each(tenant, |pause| {
            // Calls behind a probe are late because they were held.
            let was_held = matches!(pause.probe, Recovery::Sent(_));
            if pause.look(now) == PauseCheck::Restart {
                pause.probe = Recovery::Sent(now);
                is_probe = true;
            }
            if !was_held && now >= pause.next.saturating_add(pause.interval) {
                pause.interval = 0;
            }
            if pause.interval > 0 {
                pause.next = pause.next.max(now).saturating_add(pause.interval);
            }
        });
        is_probe
    }

    /// Releases a probe without a result.
    pub(crate) fn give_back(&mut self, tenant: u64) {
        self.each(tenant, |pause| {
            if let Recovery::Sent(_) = pause.probe {
                pause.probe = Recovery::Due;
            }
        });
    }

    /// A call sent at `sent` was served: earlier pauses are over, and the interval shrinks. Returns whether a pause has
    /// ended.
    pub(crate) fn passed(&mut self, tenant: u64, sent: Micros) -> bool {
        let mut is_new = false;
        self.each(tenant, |pause| {
            if sent >= pause.until && pause.interval > 0 {
                pause.interval = (pause.interval - pause.interval / SPEEDS_UP).max(1);
            }
            if sent >= pause.until && (pause.failures > 0 || pause.probe != Recovery::None) {
                (pause.failures, pause.probe) = (0, Recovery::None);
                is_new = true;
            }
        });
        is_new
    }

    /// Whether a served call changes nothing.
    pub(crate) fn is_calm(&self) -> bool {
        self.tenants.is_empty() && self.all.interval == 0 && self.all.failures == 0 && self.all.probe == Recovery::None
    }

    /// Returns how long a call waits behind the others.
    pub(crate) fn wait(&self, tenant: u64, ahead: u64, now: Micros) -> Micros {
        let own = self.tenants.get(&tenant).map_or(0, |pause| pause.wait(ahead, now));
        own.max(self.all.wait(ahead, now))
    }

    /// Notes a 429. Returns until when all calls are paused, if that is new.
    pub(crate) fn throttled(&mut self, refusal: &Throttled, now: Micros) -> Option<Micros> {
        let Throttled { tenant, hint, interval, .. } = *refusal;
        self.tenants.retain(|_, pause| now < pause.until.saturating_add(self.cap));
        if let Some(hint) = hint {
            let probe = if hint > self.cap { Recovery::Due } else { Recovery::None };
            return self.all.extend(hint.min(self.cap), probe, self.all.slowed(refusal).unwrap_or(interval), now);
        }
        let met_by_another = self.tenants.iter().any(|(other, pause)| *other != tenant && pause.failures > 0);
        let is_paused = self.all.until > now || self.all.probe != Recovery::None;
        if is_paused || met_by_another || self.tenants.len() >= TENANTS {
            return self.all.back_off(refusal, self.cap, now);
        }
        self.tenants.entry(tenant).or_default().back_off(refusal, self.cap, now);
        None
    }

    /// Pauses all calls for another process's 429. Returns until when, if that is new.
    pub(crate) fn pause(&mut self, wait: Micros, finds_out: bool, interval: Micros, now: Micros) -> Option<Micros> {
        let probe = if finds_out || wait > self.cap { Recovery::Due } else { self.all.probe };
        self.all.extend(wait.min(self.cap), probe, interval, now)
    }

    /// Whether one call will find out that the pause of all is over.
    pub(crate) fn finds_out(&self) -> bool {
        self.all.probe != Recovery::None
    }

    /// Until when all calls are paused; in the past if they are not.
    pub(crate) fn until(&self) -> Micros {
        self.all.until
    }

    /// Drops its state, if none of it matters any more.
    pub(crate) fn forget(&mut self, now: Micros) -> bool {
        // State of a tenant or credential that never returns must not stay forever.
        let forgets = self.cap.saturating_mul(FORGETS);
        let is_over = |pause: &Pause| pause.is_over(now) || now >= pause.until.saturating_add(forgets);
        let is_over = is_over(&self.all) && self.tenants.values().all(is_over);
        if is_over {
            (self.all, self.tenants) = (Pause::default(), HashMap::new());
        }
        is_over
    }

    fn each(&mut self, tenant: u64, mut change: impl FnMut(&mut Pause)) {
        change(&mut self.all);
        if let Some(pause) = self.tenants.get_mut(&tenant) {
            change(pause);
        }
    }
}

// === impl Pause ===

impl Pause {
    fn look(&self, now: Micros) -> PauseCheck {
        let next = self.until.max(if self.interval > 0 { self.next } else { 0 });
        if now < next {
            return PauseCheck::Wait(next - now);
        }
        match self.probe {
            Recovery::None => PauseCheck::Free,
            Recovery::Due => PauseCheck::Restart,
            Recovery::Sent(at) if now < at.saturating_add(PROBE) => PauseCheck::Wait(at.saturating_add(PROBE) - now),
            Recovery::Sent(_) => PauseCheck::Free,
        }
    }

    fn hold(&self, now: Micros) -> Micros {
        match self.probe {
            _ if now < self.until => self.until - now,
            Recovery::Sent(at) => at.saturating_add(PROBE).saturating_sub(now).min(PROBE_STEP),
            Recovery::None | Recovery::Due => 0,
        }
    }

    /// Whether it no longer affects any call.
    fn is_over(&self, now: Micros) -> bool {
        let is_spaced = self.interval > 0 && now < self.next.saturating_add(self.interval);
        self.failures == 0 && self.probe == Recovery::None && now >= self.until && !is_spaced
    }

    fn wait(&self, ahead: u64, now: Micros) -> Micros {
        let next = if self.interval > 0 { self.next } else { 0 };
        let start = self.until.max(next).saturating_sub(now);
        start.saturating_add(self.interval.saturating_mul(ahead))
    }

    /// Extends the pause to `wait`, unless it is longer already.
    fn extend(&mut self, wait: Micros, probe: Recovery, interval: Micros, now: Micros) -> Option<Micros> {
        let until = now.saturating_add(wait);
        if until <= self.until {
            return None;
        }
        *self = Self { until, probe, failures: self.failures, interval, next: until };
        Some(until)
    }

    /// Doubles the wait. Refusals of calls that were sent before this pause began are not new.
    fn back_off(&mut self, refusal: &Throttled, cap: Micros, now: Micros) -> Option<Micros> {
        if self.until > 0 && refusal.sent < self.until {
            return None;
        }
        let wait = FIRST.saturating_mul(1 << self.failures.min(16)).min(cap);
        self.failures = self.failures.saturating_add(1);
        self.extend(wait, Recovery::Due, self.slowed(refusal).unwrap_or(refusal.interval), now)
    }

    /// Returns the interval of a restart: doubled, if a call sent at the current interval is refused.
    fn slowed(&self, refusal: &Throttled) -> Option<Micros> {
        if self.interval == 0 || refusal.interval == 0 {
            return None;
        }
        // A probe is one call, whatever the interval of the others.
        let was_too_fast = refusal.sent >= self.until && self.probe == Recovery::None;
        Some(if was_too_fast { self.interval.saturating_mul(2).min(SLOWEST) } else { self.interval })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAP: Micros = 60 * SECOND;
    const ANN: u64 = 1;
    const BOB: u64 = 2;

    fn pauses() -> Pauses {
        Pauses::new(CAP)
    }

    fn hint(pauses: &mut Pauses, hint: Micros, now: Micros) -> Option<Micros> {
        pauses.throttled(&Throttled { tenant: ANN, hint: Some(hint), sent: now, interval: 0 }, now)
    }

    fn no_hint(pauses: &mut Pauses, tenant: u64, now: Micros) -> Option<Micros> {
        pauses.throttled(&Throttled { tenant, hint: None, sent: now, interval: 0 }, now)
    }

    #[test]
    fn a_hint_holds_for_all_and_is_never_shortened() {
        let mut pauses = pauses();
        assert_eq!(hint(&mut pauses, 20 * SECOND, 0), Some(20 * SECOND));
        assert_eq!(hint(&mut pauses, SECOND, 2 * SECOND), None);
        assert_eq!(pauses.look(BOB, 5 * SECOND), PauseCheck::Wait(15 * SECOND));
        // The upstream named the time: no probe is needed.
        assert_eq!(pauses.look(BOB, 20 * SECOND), PauseCheck::Free);
    }

    #[test]
    fn calls_behind_a_probe_that_is_being_served_are_spaced() {
        let mut pauses = pauses();
        let refusal = Throttled { tenant: ANN, hint: Some(2 * CAP), sent: 0, interval: SECOND };
        assert_eq!(pauses.throttled(&refusal, 0), Some(CAP));
        assert!(pauses.send(BOB, CAP));
        let free = CAP + PROBE;
        assert_eq!(pauses.look(BOB, free), PauseCheck::Free);
        assert!(!pauses.send(BOB, free));
        assert_eq!(pauses.look(ANN, free), PauseCheck::Wait(SECOND));
    }

    #[test]
    fn a_day_is_a_minute_and_then_one_call_finds_out() {
        let mut pauses = pauses();
        hint(&mut pauses, 86_400 * SECOND, 0);
        assert_eq!(pauses.look(BOB, 0), PauseCheck::Wait(CAP));
        assert_eq!(pauses.look(BOB, CAP), PauseCheck::Restart);
        pauses.send(BOB, CAP);
        assert_eq!(pauses.look(ANN, CAP), PauseCheck::Wait(PROBE));
        // Refused again.
        hint(&mut pauses, 86_400 * SECOND, CAP + 1);
        assert_eq!(pauses.look(ANN, 2 * CAP), PauseCheck::Wait(1));
        pauses.send(BOB, 2 * CAP + 1);
        pauses.passed(BOB, 2 * CAP + 1);
        assert_eq!(pauses.look(ANN, 2 * CAP + 1), PauseCheck::Free);
    }

    #[test]
    fn a_probe_that_is_dropped_is_followed_by_another_and_one_without_a_refusal_is_being_served() {
        let mut pauses = pauses();
        no_hint(&mut pauses, ANN, 0);
        assert_eq!(pauses.look(ANN, SECOND), PauseCheck::Restart);
        pauses.send(ANN, SECOND);
        pauses.give_back(ANN);
        assert_eq!(pauses.look(ANN, SECOND), PauseCheck::Restart);
        pauses.send(ANN, SECOND);
        assert_eq!(pauses.look(ANN, SECOND + PROBE), PauseCheck::Free);
    }

    #[test]
    fn a_tenant_without_a_hint_stops_no_other_until_a_second_one_meets_it() {
        let mut pauses = pauses();
        assert_eq!(no_hint(&mut pauses, ANN, 0), None);
        assert_eq!((pauses.look(ANN, 0), pauses.look(BOB, 0)), (PauseCheck::Wait(SECOND), PauseCheck::Free));
        // However often.
        for n in 0..10 {
            let now = n * 2 * CAP;
            assert_eq!(no_hint(&mut pauses, ANN, now), None);
            assert_eq!(pauses.look(BOB, now), PauseCheck::Free);
        }
        let now = 18 * CAP + SECOND;
        assert_eq!(no_hint(&mut pauses, BOB, now), Some(now + SECOND));
        assert_eq!(pauses.look(3, now), PauseCheck::Wait(SECOND));
    }

    #[test]
    fn what_holds_a_call_is_all_of_them_or_its_own() {
        let mut pauses = pauses();
        no_hint(&mut pauses, ANN, 0);
        assert_eq!(pauses.hold(ANN, 0), Hold::Own(SECOND));
        assert_eq!(pauses.hold(BOB, 0), Hold::None);
        // One finds out, and the others look again before it must have an answer.
        assert_eq!(pauses.hold(ANN, SECOND), Hold::None);
        pauses.send(ANN, SECOND);
        assert_eq!(pauses.hold(ANN, SECOND), Hold::Own(PROBE_STEP));
        assert_eq!(pauses.hold(ANN, SECOND + PROBE - 1), Hold::Own(1));
        assert_eq!(pauses.hold(ANN, SECOND + PROBE), Hold::None);
        hint(&mut pauses, 5 * SECOND, 2 * SECOND);
        for tenant in [ANN, BOB] {
            assert_eq!(pauses.hold(tenant, 3 * SECOND), Hold::All(4 * SECOND));
        }
    }

    #[test]
    fn waits_without_a_hint_double_and_what_was_on_its_way_doubles_nothing() {
        let mut pauses = pauses();
        let mut now = 0;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            no_hint(&mut pauses, ANN, now);
            // Sent before the pause, and refused now.
            pauses.throttled(&Throttled { tenant: ANN, hint: None, sent: now, interval: 0 }, now + 1);
            assert_eq!(pauses.look(ANN, now), PauseCheck::Wait(expected * SECOND));
            now += expected * SECOND;
        }
        pauses.passed(ANN, now);
        no_hint(&mut pauses, ANN, now + 1);
        assert_eq!(pauses.look(ANN, now + 1), PauseCheck::Wait(SECOND));
    }

    #[test]
    fn calls_start_again_one_interval_apart_until_none_waits() {
        let mut pauses = pauses();
        pauses.throttled(&Throttled { tenant: ANN, hint: Some(5 * SECOND), sent: 0, interval: SECOND }, 0);
        assert_eq!(pauses.wait(BOB, 3, 0), 8 * SECOND);
        for n in 5..8 {
            assert_eq!(pauses.look(BOB, n * SECOND), PauseCheck::Free);
            pauses.send(BOB, n * SECOND);
            assert_eq!(pauses.look(BOB, n * SECOND), PauseCheck::Wait(SECOND));
        }
        // A second without a call: no line is left.
        pauses.send(BOB, 9 * SECOND);
        assert_eq!(pauses.look(BOB, 9 * SECOND), PauseCheck::Free);
    }

    /// Sends all that may go, served at once, for this long. Returns how many those were.
    fn served(pauses: &mut Pauses, from: Micros, time: Micros) -> u32 {
        let mut served = 0;
        for now in (from..from + time).step_by(1_000) {
            if pauses.look(BOB, now) == PauseCheck::Free {
                pauses.send(BOB, now);
                pauses.passed(BOB, now);
                served += 1;
            }
        }
        served
    }

    #[test]
    fn calls_that_are_served_speed_up_those_behind_them() {
        let mut pauses = pauses();
        pauses.throttled(&Throttled { tenant: ANN, hint: Some(SECOND), sent: 0, interval: SECOND }, 0);
        assert_eq!(served(&mut pauses, SECOND, 4 * SECOND), 5);
        let later = served(&mut pauses, 5 * SECOND, 20 * SECOND);
        assert!(later > 500, "{later}: it does not stay at one a second");

        // One that was sent at that rate is refused; one that was on its way before says nothing new.
        let now = 30 * SECOND;
        let refusal = |sent| Throttled { tenant: ANN, hint: Some(SECOND), sent, interval: SECOND };
        let mut pauses = self::pauses();
        pauses.throttled(&refusal(0), 0);
        pauses.throttled(&refusal(now), now);
        assert_eq!(pauses.all.interval, 2 * SECOND);
        pauses.throttled(&refusal(now), now + 1);
        assert_eq!(pauses.all.interval, 2 * SECOND);
        for n in 2..20 {
            pauses.throttled(&refusal(n * now), n * now);
        }
        assert_eq!(pauses.all.interval, SLOWEST);
    }

    #[test]
    fn tenants_without_end_are_not_kept() {
        let mut pauses = pauses();
        for tenant in 0..10_000 {
            no_hint(&mut pauses, tenant, 0);
        }
        assert!(pauses.tenants.len() <= TENANTS);
    }

    proptest! {
        /// No call waits for longer than the cap, whatever the upstream says.
        #[test]
        fn no_pause_outlasts_the_cap(
            refusals in proptest::collection::vec((0..4_u64, proptest::option::of(0..u64::MAX), 0..90 * SECOND), 1..60),
        ) {
            let (mut pauses, mut now) = (pauses(), 0);
            for (tenant, hint, later) in refusals {
                now += later;
                pauses.throttled(&Throttled { tenant, hint, sent: now, interval: 0 }, now);
                for tenant in 0..4 {
                    if let PauseCheck::Wait(wait) = pauses.look(tenant, now) {
                        prop_assert!(wait <= CAP);
                    }
                    prop_assert!(!matches!(pauses.look(tenant, now + CAP + PROBE), PauseCheck::Wait(_)));
                }
            }
        }
    }

    #[test]
    fn when_a_pause_is_over_a_tenant_without_a_hint_waits_alone() {
        let mut pauses = pauses();
        hint(&mut pauses, 20 * SECOND, 0);
        assert_eq!(no_hint(&mut pauses, BOB, 20 * SECOND), None);
        assert_eq!((pauses.look(ANN, 20 * SECOND), pauses.until()), (PauseCheck::Free, 20 * SECOND));
        assert!(pauses.is_paused_alone(BOB, 20 * SECOND) && !pauses.is_paused_alone(ANN, 20 * SECOND));
    }

    #[test]
    fn a_call_behind_others_waits_for_their_intervals() {
        let mut pauses = pauses();
        assert_eq!(pauses.wait(ANN, 3, 0), 0, "nothing is spaced");
        pauses.throttled(&Throttled { tenant: ANN, hint: Some(10 * SECOND), sent: 0, interval: SECOND }, 0);
        assert_eq!(
            (pauses.wait(ANN, 0, 0), pauses.wait(BOB, 3, 0), pauses.wait(ANN, 0, 4 * SECOND)),
            (10 * SECOND, 13 * SECOND, 6 * SECOND)
        );
        assert_eq!(pauses.look(ANN, 10 * SECOND), PauseCheck::Free);
        pauses.send(ANN, 10 * SECOND);
        assert_eq!(pauses.look(BOB, 10 * SECOND), PauseCheck::Wait(SECOND));
        assert_eq!((pauses.wait(BOB, 0, 10 * SECOND), pauses.wait(BOB, 2, 10 * SECOND)), (SECOND, 3 * SECOND));
        pauses.send(BOB, 11 * SECOND);
        assert_eq!(pauses.look(ANN, 11 * SECOND), PauseCheck::Wait(SECOND));
        // An interval later than it may go, a call finds none that it could be too close to.
        pauses.send(ANN, 13 * SECOND - 1);
        assert_eq!(pauses.look(ANN, 13 * SECOND - 1), PauseCheck::Wait(SECOND));
        pauses.send(ANN, 15 * SECOND - 1);
        assert_eq!(pauses.look(ANN, 15 * SECOND - 1), PauseCheck::Free);
        assert_eq!(pauses.wait(ANN, 5, 15 * SECOND), 0);
    }

    #[test]
    fn of_many_tenants_without_a_hint_one_more_pauses_all() {
        let mut pauses = pauses();
        for tenant in 0..TENANTS as u64 {
            pauses.tenants.insert(tenant, Pause { until: CAP, ..Pause::default() });
        }
        assert_eq!(no_hint(&mut pauses, 1_000, 0), Some(SECOND));
        let mut pauses = Pauses::new(CAP);
        for tenant in 1..TENANTS as u64 {
            pauses.tenants.insert(tenant, Pause { until: CAP, ..Pause::default() });
        }
        assert_eq!(no_hint(&mut pauses, 1_000, 0), None);
        assert!(pauses.is_paused_alone(1_000, 0));
    }

    #[test]
    fn what_paused_is_forgotten_when_it_leaves_no_trace() {
        let mut pauses = pauses();
        hint(&mut pauses, SECOND, 0);
        assert!(!pauses.forget(SECOND - 1));
        assert!(pauses.forget(SECOND) && pauses.until() == 0);
        no_hint(&mut pauses, ANN, 0);
        assert!(!pauses.forget(100 * SECOND), "it failed, and nothing was served since");
        assert!(!pauses.forget(10 * CAP));
        assert!(pauses.forget(SECOND + 10 * CAP), "no tenant has come back");
        hint(&mut pauses, 24 * 60 * CAP, 0);
        assert!(!pauses.forget(10 * CAP), "it is not known whether it is over");
        assert!(pauses.forget(11 * CAP) && pauses.is_calm());
        no_hint(&mut pauses, ANN, 0);
        pauses.send(ANN, SECOND);
        assert!(pauses.passed(ANN, SECOND) && !pauses.passed(ANN, SECOND));
        assert!(pauses.forget(SECOND));
        assert_eq!(pauses.tenants.len(), 0);
    }
}
