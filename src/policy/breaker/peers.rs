//! The rule by which a process weighs other processes' reports on the same upstream.
//!
//! # Why not simply open?
//!
//! A process with a broken network sees every upstream fail. If its report opened the circuits of all, one bad machine
//! would take the fleet down. So this process's own results take precedence, then the majority's; a single report only
//! makes the circuit suspicious: the first failure of its own then opens it.

use std::time::{Duration, Instant};

use super::report::CircuitReason;
use super::{Breaker, BreakerEvent, Open, State};
use crate::policy::instant::saturating_add;

/// A report of other processes that an upstream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerReport {
    /// The number of processes that found it failing, and still do.
    pub votes: u32,
    /// The number of processes.
    pub active: u32,
    /// How long their circuits are still open.
    pub open_for: Duration,
}

/// A circuit's decision on other processes' report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerDecision {
    /// Ignored: this process has had answers itself, is probing the upstream, or its circuit was set by hand.
    Ignored,
    /// One failure will open the circuit.
    Suspicious,
    /// The circuit is open.
    Opened,
}

/// This many successes, the last at most this old, outweigh the report.
const VETO: u64 = 3;
const VETO_FRESH: Duration = Duration::from_secs(10);
/// Unless this many calls in a row have failed since: a single call may fail at a healthy upstream.
const CONTRADICTED: u32 = 2;

// === impl PeerReport ===

impl PeerReport {
    /// Returns a report.
    #[must_use]
    pub const fn new(votes: u32, active: u32, open_for: Duration) -> Self {
        Self { votes, active, open_for }
    }

    /// Whether enough processes agree to open without own evidence: half of them, and at least two.
    fn is_quorum(self) -> bool {
        self.votes >= self.active.div_ceil(2).max(2)
    }
}

// === impl Breaker ===

impl Breaker {
    /// Weighs a report of other processes that the upstream fails.
    pub(crate) fn apply_report(&mut self, report: PeerReport, now: Instant) -> (PeerDecision, Option<BreakerEvent>) {
        self.window.advance(now);
        // At most as long as its own open time: the others' clock may have been set back.
        let open_for = report.open_for.min(self.settings.open_max);
        let until = saturating_add(now, open_for);
        match &mut self.state {
            State::Open(open) => {
                // The longest open time applies: probes are counted for the fleet.
                open.until = open.until.max(until);
                return (PeerDecision::Opened, None);
            }
            State::Closed if !report.open_for.is_zero() => {}
            _ => return (PeerDecision::Ignored, None),
        }
        if self.has_evidence_of_life(now) {
            return (PeerDecision::Ignored, None);
        }
        if !report.is_quorum() {
            self.probation = self.probation.max(Some(until));
            return (PeerDecision::Suspicious, None);
        }
        let open = Open { until, probed_from: now, seen: self.stats() };
        let event = self.change(State::Open(open), CircuitReason::Peers, Some(open_for));
        (PeerDecision::Opened, Some(event))
    }

    /// Closes the circuit because a probe of another process got an answer.
    pub(crate) fn close_for_peers(&mut self, now: Instant) -> Option<BreakerEvent> {
        matches!(self.state, State::Open(_) | State::HalfOpen(_)).then(|| self.close(CircuitReason::Peers, now))
    }

    /// Prevents callers from probing, until [`let_probe`](Self::let_probe): another process may be testing the upstream.
    pub(crate) fn hold_probes(&mut self) {
        self.is_held = true;
    }

    pub(crate) fn let_probe(&mut self) {
        self.is_held = false;
    }

    /// The number of probes in a row without an answer.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Notes the number of unanswered probes of other processes: open times double for all.
    pub(crate) fn note_unanswered(&mut self, unanswered: u32) {
        self.unanswered = self.unanswered.max(unanswered);
    }

    fn has_evidence_of_life(&self, now: Instant) -> bool {
        let is_fresh = self.last_sign.is_some_and(|last_sign| now.saturating_duration_since(last_sign) < VETO_FRESH);
        let silence = now.saturating_duration_since(self.last_sign.unwrap_or(self.since));
        let run = self.streak.run();
        let is_contradicted = run.length(silence) >= CONTRADICTED && run.lasted(now) <= silence;
        let tally = self.window.sum();
        is_fresh && !is_contradicted && tally.calls.saturating_sub(tally.failures) >= VETO
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::CircuitState;
    use super::super::settings::BreakerSettings;
    use super::super::{CallResult, CircuitDecision};
    use super::*;

    const OPEN: Duration = Duration::from_secs(15);

    fn breaker(now: Instant) -> Breaker {
        Breaker::new(BreakerSettings::default(), 1, now)
    }

    fn call(breaker: &mut Breaker, result: CallResult, now: Instant) -> Option<BreakerEvent> {
        let (CircuitDecision::Granted(grant), event) = breaker.admit(now) else { panic!("refused") };
        assert!(event.is_none_or(|event| matches!(event, BreakerEvent::Changed(_))));
        breaker.settle(grant, result, 0, now).1
    }

    fn one_of(active: u32) -> PeerReport {
        PeerReport::new(1, active, OPEN)
    }

    #[test]
    fn the_word_of_one_makes_suspicious_and_one_failure_of_ones_own_opens() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        assert_eq!(breaker.apply_report(one_of(2), now), (PeerDecision::Suspicious, None));
        assert_eq!(breaker.state(), CircuitState::Closed);
        call(&mut breaker, CallResult::UNANSWERED, now);
        assert_eq!(breaker.state(), CircuitState::Open);
    }

    #[test]
    fn a_success_ends_the_suspicion() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        breaker.apply_report(one_of(8), now);
        call(&mut breaker, CallResult::SUCCESS, now);
        call(&mut breaker, CallResult::UNANSWERED, now);
        assert_eq!(breaker.state(), CircuitState::Closed);
    }

    #[test]
    fn half_of_the_processes_and_two_at_least_open() {
        let now = Instant::now();
        for (votes, active, opens) in
            [(1, 1, false), (1, 2, false), (2, 2, true), (2, 4, true), (2, 5, false), (3, 5, true)]
        {
            let mut breaker = breaker(now);
            let decision = breaker.apply_report(PeerReport::new(votes, active, OPEN), now).0;
            assert_eq!(decision == PeerDecision::Opened, opens, "{votes} of {active}");
        }
    }

    #[test]
    fn what_a_process_has_seen_itself_outweighs_what_others_say() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        for _ in 0..3 {
            call(&mut breaker, CallResult::SUCCESS, now);
        }
        let all = PeerReport::new(8, 8, OPEN);
        assert_eq!(breaker.apply_report(all, now + Duration::from_secs(9)), (PeerDecision::Ignored, None));
        assert_eq!(breaker.apply_report(all, now + Duration::from_secs(11)).0, PeerDecision::Opened);
    }

    #[test]
    fn what_failed_here_since_the_last_success_agrees_with_what_others_say() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(2);
        let after = |failures: usize| {
            let mut breaker = breaker(now);
            for _ in 0..8 {
                call(&mut breaker, CallResult::SUCCESS, now);
            }
            for _ in 0..failures {
                call(&mut breaker, CallResult::UNANSWERED, now);
            }
            breaker
        };
        let all = PeerReport::new(8, 8, OPEN);
        // One failure may be chance.
        assert_eq!(after(1).apply_report(all, soon).0, PeerDecision::Ignored);
        assert_eq!(after(2).apply_report(all, soon).0, PeerDecision::Opened);
        assert_eq!(after(1).apply_report(one_of(8), soon).0, PeerDecision::Ignored);
        let mut suspicious = after(2);
        assert_eq!(suspicious.apply_report(one_of(8), soon).0, PeerDecision::Suspicious);
        call(&mut suspicious, CallResult::UNANSWERED, soon);
        assert_eq!(suspicious.state(), CircuitState::Open);
        let mut served = after(2);
        call(&mut served, CallResult::SUCCESS, soon);
        assert_eq!(served.apply_report(all, soon).0, PeerDecision::Ignored);
    }

    #[test]
    fn the_longest_open_time_holds_and_a_report_of_none_opens_nothing() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        let all = |open_for| PeerReport::new(2, 2, open_for);
        assert_eq!(breaker.apply_report(all(Duration::ZERO), now).0, PeerDecision::Ignored);
        breaker.apply_report(all(OPEN / 3), now);
        breaker.apply_report(all(OPEN / 2), now);
        breaker.apply_report(all(OPEN / 3), now);
        assert_eq!(breaker.snapshot(now).open_for, Some(OPEN / 2));
    }

    #[test]
    fn a_report_opens_for_no_longer_than_the_longest_open_time_here() {
        let now = Instant::now();
        let longest = BreakerSettings::default().open_max;
        let day = PeerReport::new(2, 2, Duration::from_secs(24 * 60 * 60));
        let mut closed = breaker(now);
        let event = closed.apply_report(day, now).1;
        assert_eq!(closed.snapshot(now).open_for, Some(longest));
        assert!(matches!(event, Some(BreakerEvent::Changed(change)) if change.open_for == Some(longest)));
        closed.apply_report(day, now);
        assert_eq!(closed.snapshot(now).open_for, Some(longest));
    }

    #[test]
    fn while_probes_are_held_no_call_is_one_and_a_peer_can_close() {
        let now = Instant::now();
        let mut breaker = breaker(now);
        breaker.apply_report(PeerReport::new(2, 2, OPEN), now);
        breaker.hold_probes();
        let later = now + OPEN * 2;
        assert!(matches!(breaker.admit(later), (CircuitDecision::Refused { retry_after: Some(_) }, None)));
        breaker.let_probe();
        assert!(matches!(breaker.admit(later).0, CircuitDecision::Granted(_)));
        assert_eq!(breaker.state(), CircuitState::HalfOpen);
        assert!(breaker.close_for_peers(later).is_some());
        assert_eq!(breaker.state(), CircuitState::Closed);
        assert!(breaker.close_for_peers(later).is_none());
    }
}
