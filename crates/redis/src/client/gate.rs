//! Decides from earlier commands whether to send any to Redis.

use std::time::{Duration, Instant};

/// Shuts when Redis does not answer, so that an outage costs callers one wait and then nothing. Only a probe opens it.
#[derive(Debug)]
pub(crate) struct Gate {
    state: State,
    /// When Redis last answered.
    answered: Option<Instant>,
    /// Consecutive commands without an answer in time.
    timeouts: u32,
    /// The timeout of a probe, and the time between probes.
    period: Duration,
    opened: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Shut {
        /// The earliest time to open.
        opens_from: Instant,
    },
}

/// This many consecutive timeouts are an outage, even if Redis answers other commands.
const MAX_TIMEOUTS: u32 = 3;

const FIRST_PERIOD: Duration = Duration::from_secs(1);
const LONGEST_PERIOD: Duration = Duration::from_secs(30);

/// If Redis fails again within this time after its return, the gate stays shut longer.
const STABLE_AFTER: Duration = Duration::from_secs(10);

// === impl Gate ===

impl Gate {
    pub(crate) fn new() -> Self {
        Self { state: State::Open, answered: None, timeouts: 0, period: FIRST_PERIOD, opened: None }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Redis answered a command.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
        self.timeouts = 0;
    }

    /// Redis did not answer a command sent at `sent` in time. Returns whether this shut the gate.
    pub(crate) fn timed_out(&mut self, sent: Instant, now: Instant) -> bool {
        self.timeouts = self.timeouts.saturating_add(1);
        let is_silent = self.answered.is_none_or(|answered| answered <= sent);
        (is_silent || self.timeouts >= MAX_TIMEOUTS) && self.shut(now)
    }

    /// The connection is lost. Returns whether this shut the gate.
    pub(crate) fn lost(&mut self, now: Instant) -> bool {
        self.shut(now)
    }

    fn shut(&mut self, now: Instant) -> bool {
        if !self.is_open() {
            return false;
        }
        let again = self.opened.is_some_and(|opened| now.saturating_duration_since(opened) < STABLE_AFTER);
        self.period = if again { (self.period * 2).min(LONGEST_PERIOD) } else { FIRST_PERIOD };
        // The first time, the gate opens as soon as Redis answers.
        let wait = if again { self.period } else { Duration::ZERO };
        self.state = State::Shut { opens_from: now.checked_add(wait).unwrap_or(now) };
        true
    }

    /// The timeout of the next probe.
    pub(crate) fn period(&self) -> Duration {
        self.period
    }

    /// A probe failed.
    pub(crate) fn probe_failed(&mut self) {
        self.period = (self.period * 2).min(LONGEST_PERIOD);
    }

    /// A probe was answered. Returns the time until the gate may open; zero: it is open.
    pub(crate) fn probe_answered(&mut self, now: Instant) -> Duration {
        if let State::Shut { opens_from } = self.state {
            let wait = opens_from.saturating_duration_since(now);
            if !wait.is_zero() {
                return wait;
            }
        }
        self.state = State::Open;
        self.opened = Some(now);
        self.answered(now);
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_silence_shuts_it() {
        let (mut gate, start) = (Gate::new(), Instant::now());
        gate.answered(start);
        assert!(gate.timed_out(start + MS, start + 101 * MS));
        assert!(!gate.is_open());
        assert!(!gate.timed_out(start + MS, start + 101 * MS), "it changes once");
    }

    #[test]
    fn where_others_are_answered_the_third_in_a_row_shuts_it() {
        let (mut gate, start) = (Gate::new(), Instant::now());
        for n in 1..=2 {
            gate.answered(start + 50 * MS);
            gate.timeouts = n - 1;
            assert!(!gate.timed_out(start, start + 100 * MS), "{n}");
        }
        assert!(gate.timed_out(start, start + 100 * MS));
    }

    #[test]
    fn an_answer_ends_a_row_of_timeouts() {
        let (mut gate, start) = (Gate::new(), Instant::now());
        for _ in 0..10 {
            gate.answered(start + MS);
            assert!(!gate.timed_out(start, start + 100 * MS));
        }
    }

    #[test]
    fn the_first_probe_that_is_answered_opens_it() {
        let (mut gate, start) = (Gate::new(), Instant::now());
        assert!(gate.lost(start));
        assert_eq!(gate.probe_answered(start + MS), Duration::ZERO);
        assert!(gate.is_open());
    }

    #[test]
    fn a_redis_that_fails_again_and_again_is_asked_less_and_less() {
        let (mut gate, mut now) = (Gate::new(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..8 {
            gate.lost(now);
            let wait = gate.probe_answered(now);
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(gate.probe_answered(now), Duration::ZERO);
        }
        assert_eq!(waits, [0, 2, 4, 8, 16, 30, 30, 30]);
        now += STABLE_AFTER;
        gate.lost(now);
        assert_eq!(gate.probe_answered(now), Duration::ZERO);
        assert_eq!(gate.period(), FIRST_PERIOD);
    }

    #[test]
    fn probes_come_less_and_less_often() {
        let mut gate = Gate::new();
        gate.lost(Instant::now());
        let mut periods = Vec::new();
        for _ in 0..7 {
            periods.push(gate.period().as_secs());
            gate.probe_failed();
        }
        assert_eq!(periods, [1, 2, 4, 8, 16, 30, 30]);
    }
}
