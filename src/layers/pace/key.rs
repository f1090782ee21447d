//! One limit, and the calls that wait for it.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::config::Config;
use super::tally::AnswerSample;
use super::turn_line::TurnLine;
use crate::policy::micros::{Micros, micros};
use crate::policy::pace::estimate::{Estimate, written_in};
use crate::policy::pace::{Bucket, Demand, Grant, Hold, Pacer, SendDecision};
use crate::policy::queue::{FairQueue, Ticket};
use crate::proto::fingerprint::Fingerprint;
use crate::proto::rate_limit::Quota;
use crate::rt::alarm::{AlarmedCalls, Alarms};
use crate::rt::clock;
use crate::rt::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock};
use crate::store::pace::{Pausing, PeerPause};

/// The state that the calls of one key share.
#[derive(Debug)]
pub(super) struct Limit {
    config: Arc<Config>,
    epoch: Instant,
    /// Whether every call may be sent until the upstream refuses one: then the lock is not needed.
    is_open: AtomicBool,
    /// Whether a served call changes nothing.
    is_calm: AtomicBool,
    /// Whether a call was answered without an error: if all calls of a key fail, one caller may have invented it.
    is_proven: AtomicBool,
    tally: AnswerSample,
    state: Mutex<State>,
    turns: TurnLine,
    /// For the calls in both lines.
    alarms: Alarms,
    /// Identifies it in every process, if it is shared.
    id: Option<Fingerprint>,
}

#[derive(Debug)]
struct State {
    pacer: Pacer,
    line: FairQueue<PacedCall>,
    /// The total demand of the waiting calls.
    waiting: Demand,
    in_flight: u32,
    estimate: Estimate,
}

#[derive(Debug)]
struct PacedCall {
    demand: Demand,
    waker: Option<Waker>,
}

/// The decision on a call that is new, or asks again.
#[derive(Debug)]
pub(super) enum PaceDecision {
    Go(Grant),
    /// It waits in the line, for about this long. Zero: for a call in flight to end, at an unknown time.
    Waits(Ticket, Duration),
    /// It would have to wait for longer than it can.
    TooLong(Duration),
    /// Not now. Its turn may come at this time, or when it is woken.
    Again(Option<Instant>),
}

/// The state of one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) waiting: usize,
    pub(super) in_flight: u32,
    pub(super) paused: Option<Duration>,
}

/// The most calls that wait for one key. Beyond it the tenant with the most waiting calls makes room for one with fewer.
pub(super) const MOST: usize = 10_000;

// === impl Limit ===

impl Limit {
    /// With full buckets.
    pub(super) fn new(config: Arc<Config>, epoch: Instant, id: Option<Fingerprint>) -> Self {
        let buckets = config.buckets();
        let is_open = buckets.is_empty() && config.concurrency.is_none();
        let state = State {
            pacer: Pacer::new(buckets, micros(config.max_pause)),
            line: FairQueue::new(),
            waiting: Demand::default(),
            in_flight: 0,
            estimate: Estimate::default(),
        };
        Self {
            config,
            epoch,
            is_open: AtomicBool::new(is_open),
            is_calm: AtomicBool::new(true),
            is_proven: AtomicBool::new(false),
            tally: AnswerSample::default(),
            state: Mutex::new(state),
            turns: TurnLine::default(),
            alarms: Alarms::new(),
            id,
        }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// The demand of a call, by its size and the limit of its answer, if known.
    pub(super) fn demand(&self, bytes: u64, input: Option<u64>, most: Option<u64>) -> Demand {
        let state = lock(&self.state);
        // No upstream serves a call larger than its limit. A larger charge would only delay the others.
        let largest = state.pacer.most_tokens();
        let input = input.unwrap_or_else(|| state.estimate.input(bytes).min(largest));
        Demand { requests: 1, input, output: state.estimate.output(most).min(largest) }
    }

    /// A new call that can wait for `patience`.
    pub(super) fn arrive(&self, tenant: u64, demand: Demand, now: Instant, patience: Duration) -> PaceDecision {
        let at = self.micros(now);
        let mut state = lock(&self.state);
        if !state.any_may_go(at) {
            if let Some(grant) = state.admit(tenant, demand, self.config.concurrency, at) {
                self.changed(&mut state, at);
                return PaceDecision::Go(grant);
            }
        }
        let ahead = state.ahead(tenant);
        let wait = Duration::from_micros(state.pacer.wait(tenant, &ahead, &demand, at));
        // A call in flight ends, and frees its place, at an unknown time.
        if wait > patience || patience.is_zero() {
            return PaceDecision::TooLong(wait);
        }
        let mut evicted = None;
        if state.line.len() >= MOST {
            match state.line.last_of_longest() {
                Some((last, longest)) if longest > state.line.of(tenant) + 1 => evicted = state.forget(last),
                _ => return PaceDecision::TooLong(wait),
            }
        }
        state.waiting = state.waiting.and(demand);
        let ticket = state.line.push(tenant, PacedCall { demand, waker: None });
        drop(state);
        // It finds out that it has been evicted.
        evicted.into_iter().for_each(Waker::wake);
        PaceDecision::Waits(ticket, wait)
    }

    /// Whether a waiting call may be sent; if not, `waker` is woken when that may have changed, or at `end`, where an alarm is
    /// set.
    pub(super) fn ask(&self, ticket: Ticket, waker: &Waker, now: Instant, end: Micros) -> PaceDecision {
        let at = self.micros(now);
        let mut state = lock(&self.state);
        let Some((tenant, demand)) = state.waiter(ticket) else { return PaceDecision::TooLong(Duration::ZERO) };
        let is_leader = state.leader(at) == Some(ticket);
        if is_leader {
            if let Some(grant) = state.admit(tenant, demand, self.config.concurrency, at) {
                state.line.serve(ticket);
                state.forget(ticket);
                self.left(state, Some(tenant), at);
                return PaceDecision::Go(grant);
            }
        }
        if let Some(waiter) = state.line.get_mut(ticket) {
            match &mut waiter.waker {
                Some(known) => known.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
        state.line.set_end(ticket, end);
        let wait = state.pacer.wait(tenant, &Demand::default(), &demand, at);
        let is_next = is_leader || state.first_paused_alone(tenant, at) == Some(ticket);
        // No call is sent before the end of a pause.
        let least = if is_next { wait } else { state.pacer.paused_until().saturating_sub(at) };
        if least > 0 && at.saturating_add(least) > end {
            return PaceDecision::TooLong(Duration::from_micros(wait));
        }
        if !is_next {
            return PaceDecision::Again(None);
        }
        match state.pacer.next_look(tenant, &demand, at) {
            // A call in flight must end first.
            0 => PaceDecision::Again(None),
            next => PaceDecision::Again(now.checked_add(Duration::from_micros(next))),
        }
    }

    /// The tenant and the demand of a waiting call.
    pub(super) fn waiter(&self, ticket: Ticket) -> Option<(u64, Demand)> {
        lock(&self.state).waiter(ticket)
    }

    /// How long a new call would wait.
    pub(super) fn expected_wait(&self, tenant: u64, demand: &Demand, now: Instant) -> Duration {
        let at = self.micros(now);
        let state = lock(&self.state);
        Duration::from_micros(state.pacer.wait(tenant, &state.ahead(tenant), demand, at))
    }

    /// Removes a waiting call.
    pub(super) fn forget(&self, ticket: Ticket, now: Instant) {
        let mut state = lock(&self.state);
        let tenant = state.line.tenant(ticket);
        state.forget(ticket);
        self.left(state, tenant, self.micros(now));
    }

    /// A call was answered without a 429.
    #[inline]
    pub(super) fn served(&self, grant: &Grant) {
        let is_sample = self.tally.count();
        if is_sample || !self.is_calm.load(Ordering::Relaxed) {
            self.note_served(grant, is_sample, clock::now());
        }
    }

    /// A call was answered without an error.
    #[inline]
    pub(super) fn prove(&self) {
        if !self.is_proven() {
            self.is_proven.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    /// `is_sample`: it completes a sample.
    fn note_served(&self, grant: &Grant, is_sample: bool, now: Instant) {
        let at = self.micros(now);
        let mut state = lock(&self.state);
        if is_sample {
            state.pacer.sample(at);
        }
        if state.pacer.served(grant) {
            self.wake_next(state, None, at);
        }
    }

    /// Notes a 429 to a call that took `demand`. Returns for how long all calls are paused, if that is new.
    pub(super) fn throttled(
        &self,
        grant: &Grant,
        demand: &Demand,
        hint: Option<Duration>,
        now: Instant,
    ) -> Option<PeerPause> {
        let at = self.micros(now);
        let mut state = lock(&self.state);
        let until = state.pacer.throttled(grant, demand, hint.map(micros), at);
        self.is_open.store(false, Ordering::Relaxed);
        let finds_out = state.pacer.finds_out();
        let late = state.late(at);
        self.wake_next(state, Some(grant.tenant), at);
        late.into_iter().for_each(Waker::wake);
        until.map(|until| PeerPause::new(Duration::from_micros(until.saturating_sub(at)), finds_out))
    }

    /// Returns what holds a call of `tenant` back, independent of the rates.
    pub(super) fn hold(&self, tenant: u64, now: Instant) -> Hold {
        let at = self.micros(now);
        lock(&self.state).pacer.hold(tenant, at)
    }

    pub(super) fn turns(&self) -> &TurnLine {
        &self.turns
    }

    pub(super) fn id(&self) -> Option<Fingerprint> {
        self.id
    }

    /// Returns the reservation of a call that was not sent, or whose usage is unknown.
    pub(super) fn give_back(&self, grant: &Grant, demand: &Demand, was_sent: bool, now: impl Fn() -> Instant) {
        if self.is_open() {
            return;
        }
        let at = self.micros(now());
        let mut state = lock(&self.state);
        state.pacer.give_back(grant, demand, was_sent, at);
        self.wake_next(state, None, at);
    }

    /// Reads the limits in an answer.
    pub(super) fn observe(&self, quotas: &[Quota], learn: bool, now: Instant) {
        if quotas.is_empty() {
            return;
        }
        let at = self.micros(now);
        let mut state = lock(&self.state);
        state.pacer.observe(quotas, learn, at);
        self.changed(&mut state, at);
    }

    /// Corrects the charge of a call to its usage; `learned`: its bytes, if its usage is certain.
    pub(super) fn settle(&self, grant: &Grant, reserved: &Demand, used: &Demand, learned: Option<u64>, now: Instant) {
        let at = self.micros(now);
        let mut state = lock(&self.state);
        if let Some(bytes) = learned {
            state.estimate.learn(bytes, used.input, used.output);
        }
        state.pacer.settle(grant, reserved, used, at);
        self.wake_next(state, None, at);
    }

    /// The most tokens that an answer without a reported usage may have cost, given its reservation.
    pub(super) fn unsaid_output(&self, grant: &Grant, reserved: u64, most: Option<u64>, now: Instant) -> u64 {
        let written = written_in(self.micros(now).saturating_sub(grant.sent));
        let largest = lock(&self.state).pacer.most_tokens();
        reserved.max(written).min(most.unwrap_or(u64::MAX)).min(largest)
    }

    /// A counted call has ended.
    pub(super) fn leave(&self, now: Instant) {
        let mut state = lock(&self.state);
        state.in_flight = state.in_flight.saturating_sub(1);
        self.wake_next(state, None, self.micros(now));
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let at = self.micros(now);
        let for_turns = self.waiting_for_turns();
        let state = lock(&self.state);
        let paused = state.pacer.paused_until().saturating_sub(at);
        Standing {
            waiting: state.line.len().saturating_add(for_turns),
            in_flight: state.in_flight,
            paused: (paused > 0).then(|| Duration::from_micros(paused)),
        }
    }

    /// Passes the buckets to `show`, with their time, and the number of calls in flight.
    pub(super) fn with_buckets<T>(&self, now: Instant, show: impl FnOnce(&[Bucket], Micros, u32) -> T) -> T {
        let state = lock(&self.state);
        show(state.pacer.buckets(), self.micros(now), state.in_flight)
    }

    /// Whether it holds no state that matters, and may be evicted while no call uses it.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        state.in_flight == 0 && state.line.is_empty() && state.pacer.is_idle(self.micros(now))
    }

    /// Starts at one second, so that no instant is zero.
    pub(super) fn micros(&self, at: Instant) -> Micros {
        micros(at.saturating_duration_since(self.epoch)).saturating_add(1_000_000)
    }

    fn changed(&self, state: &mut State, at: Micros) {
        let is_open = self.config.concurrency.is_none() && state.line.is_empty() && state.pacer.is_open(at);
        let is_calm = state.pacer.is_calm();
        for (flag, is) in [(&self.is_open, is_open), (&self.is_calm, is_calm)] {
            if flag.load(Ordering::Relaxed) != is {
                flag.store(is, Ordering::Relaxed);
            }
        }
    }

    /// A call of `tenant` has left the line.
    fn left(&self, state: MutexGuard<'_, State>, tenant: Option<u64>, at: Micros) {
        let is_empty = state.line.is_empty();
        self.wake_next(state, tenant, at);
        if is_empty {
            self.alarms.end();
        }
    }

    /// Wakes the calls whose wait has changed, outside the lock: the next one in turn, and the first call of `tenant` (of
    /// a call that left the line, or was refused), if that tenant waits alone.
    fn wake_next(&self, mut state: MutexGuard<'_, State>, tenant: Option<u64>, at: Micros) {
        let leader = state.leader(at);
        let alone = tenant.and_then(|tenant| state.first_paused_alone(tenant, at));
        let mut waker = |ticket: Option<Ticket>| state.line.get_mut(ticket?)?.waker.clone();
        let wakers = [waker(leader), waker(alone)];
        self.changed(&mut state, at);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl AlarmedCalls for Limit {
    fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    fn wake_ended(&self) -> Option<Instant> {
        let now = clock::now();
        let at = self.micros(now);
        let mut ended = Vec::new();
        let in_line = lock(&self.state).line.ended(at, |waiter| ended.extend(waiter.waker.take()));
        let for_turns = lock(&self.turns.0).ended(at, |waiter| ended.extend(waiter.waker.take()));
        ended.into_iter().for_each(Waker::wake);
        let next = in_line.into_iter().chain(for_turns).min()?;
        now.checked_add(Duration::from_micros(next.saturating_sub(at)))
    }
}

impl Pausing for Limit {
    /// Pauses the calls for another process's 429.
    fn pause(&self, pause: PeerPause) {
        let now = clock::now();
        let at = self.micros(now);
        let mut state = lock(&self.state);
        state.pacer.pause(micros(pause.wait), pause.finds_out, at);
        self.is_open.store(false, Ordering::Relaxed);
        let late = state.late(at);
        self.wake_next(state, None, at);
        late.into_iter().for_each(Waker::wake);
    }
}

// === impl State ===

impl State {
    fn admit(&mut self, tenant: u64, demand: Demand, concurrency: Option<u32>, at: Micros) -> Option<Grant> {
        if concurrency.is_some_and(|most| self.in_flight >= most) {
            return None;
        }
        match self.pacer.admit(tenant, demand, at) {
            SendDecision::Go(grant) => {
                self.in_flight = self.in_flight.saturating_add(u32::from(concurrency.is_some()));
                Some(grant)
            }
            SendDecision::Wait(_) => None,
        }
    }

    /// The next call in turn, among those that wait for a common reason.
    fn leader(&mut self, at: Micros) -> Option<Ticket> {
        let Self { line, pacer, .. } = self;
        line.first(|_, tenant| !pacer.is_paused_alone(tenant, at)).map(|(ticket, _)| ticket)
    }

    /// The first of this tenant's waiting calls, if it waits for a reason of its own tenant.
    fn first_paused_alone(&self, tenant: u64, at: Micros) -> Option<Ticket> {
        if self.pacer.is_paused_alone(tenant, at) { self.line.first_of(tenant) } else { None }
    }

    fn any_may_go(&mut self, at: Micros) -> bool {
        !self.line.is_empty() && self.leader(at).is_some()
    }

    /// The mean demand of the calls before a new one.
    fn ahead(&self, tenant: u64) -> Demand {
        self.waiting.share(self.line.ahead(tenant) as u64, self.line.len() as u64)
    }

    fn waiter(&mut self, ticket: Ticket) -> Option<(u64, Demand)> {
        let tenant = self.line.tenant(ticket)?;
        self.line.get_mut(ticket).map(|waiter| (tenant, waiter.demand))
    }

    /// The calls that cannot wait for the end of the common pause: they are refused now.
    fn late(&mut self, at: Micros) -> Vec<Waker> {
        let mut late = Vec::new();
        let end = self.pacer.paused_until();
        if end > at {
            self.line.ended(end - 1, |waiter| late.extend(waiter.waker.take()));
        }
        late
    }

    /// Removes a waiter. Returns its waker, to be woken unless its own task asked for this.
    fn forget(&mut self, ticket: Ticket) -> Option<Waker> {
        let PacedCall { demand, waker, .. } = self.line.remove(ticket)?;
        self.waiting = self.waiting.without(demand);
        waker
    }
}
