//! Callers, an upstream, and the machine between them, over minutes of virtual time.
//!
//! Each rule is tried with seeds 1 to 100; CONTRIBUTING.md says how to try others, and how to see the figures.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::own_failures::{LatestCallers, SERVED};
use super::report::CircuitState;
use super::settings::BreakerSettings;
use super::{Breaker, BreakerEvent, CallGrant, CallResult, Caller, CircuitDecision, Counted, QUIET};
use crate::policy::verdict::Health;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const MINUTES: Duration = Duration::from_secs(600);
const UNAVAILABLE: CallResult = CallResult { health: Health::Failure, ..CallResult::SUCCESS };

/// The reaction of the upstream to a call.
#[derive(Clone, Copy)]
enum Fate {
    /// It answers 503 at once.
    Unavailable,
    /// It refuses the connection.
    Refused,
    /// It never answers.
    Hung,
    /// The time to the first data, and from there to the end.
    Stream(Duration, Duration),
}

#[derive(Clone)]
struct Client {
    tenant: u64,
    /// The client cancels a call without data after this time.
    patience: Option<Duration>,
    /// From the end of a call to its next one.
    pause: Range<Duration>,
    first_call: Duration,
}

#[derive(Clone, Copy)]
enum Step {
    Call(usize),
    FirstData(usize, Duration),
    End(usize),
    Fail(usize, CallResult),
    GiveUp(usize),
}

struct Call {
    client: usize,
    grant: CallGrant,
    began: Duration,
    /// The time of its first data, and the slot in which it was counted.
    streams: Option<(Duration, Counted)>,
    over: bool,
}

type Upstream = Box<dyn FnMut(usize, Duration, &mut fastrand::Rng) -> Fate>;

struct World {
    machine: Breaker,
    served: LatestCallers,
    start: Instant,
    now: Duration,
    rng: fastrand::Rng,
    clients: Vec<Client>,
    upstream: Upstream,
    /// The limit of the layer inside; calls that are cancelled before half of it are not counted.
    first_byte: Duration,
    calls: Vec<Call>,
    recent: VecDeque<usize>,
    streaming: Vec<usize>,
    due: BinaryHeap<Reverse<(Duration, usize)>>,
    steps: Vec<Step>,
    seen: Seen,
}

#[derive(Debug, Default)]
struct Seen {
    /// When clients called, and whether they were refused.
    calls: Vec<(Duration, bool)>,
    /// When the circuit opened.
    opened: Vec<Duration>,
    /// When calls succeeded and left the circuit closed.
    served: Vec<Duration>,
}

impl World {
    fn new(
        seed: u64,
        clients: Vec<Client>,
        upstream: impl FnMut(usize, Duration, &mut fastrand::Rng) -> Fate + 'static,
    ) -> Self {
        let start = Instant::now();
        let mut world = Self {
            machine: Breaker::new(BreakerSettings::default(), seed, start),
            served: LatestCallers::default(),
            start,
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            clients,
            upstream: Box::new(upstream),
            first_byte: 20 * S,
            calls: vec![],
            recent: VecDeque::new(),
            streaming: vec![],
            due: BinaryHeap::new(),
            steps: vec![],
            seen: Seen::default(),
        };
        for client in 0..world.clients.len() {
            world.at(world.clients[client].first_call, Step::Call(client));
        }
        world
    }

    fn at(&mut self, at: Duration, step: Step) {
        self.due.push(Reverse((at, self.steps.len())));
        self.steps.push(step);
    }

    fn run(mut self, until: Duration) -> Seen {
        while let Some(Reverse((at, step))) = self.due.pop() {
            if at > until {
                break;
            }
            self.now = at;
            self.step(self.steps[step]);
        }
        self.seen
    }

    fn step(&mut self, step: Step) {
        let now = self.start + self.now;
        match step {
            Step::Call(client) => {
                let (admission, event) = self.machine.admit(now);
                self.note(event);
                self.seen.calls.push((self.now, matches!(admission, CircuitDecision::Refused { .. })));
                match admission {
                    CircuitDecision::Granted(grant) => self.call(client, grant),
                    CircuitDecision::Refused { .. } => self.call_again(client),
                }
            }
            Step::FirstData(call, length) if !self.calls[call].over => {
                self.calls[call].over = true;
                self.served.note(self.caller(call), now);
                let waiting = self.waiting(self.now);
                let (counted, event) = self.machine.settle(self.calls[call].grant, CallResult::SUCCESS, waiting, now);
                self.note(event);
                self.calls[call].over = false;
                self.calls[call].streams = Some((self.now, counted));
                self.streaming.push(call);
                if self.machine.state() == CircuitState::Closed {
                    self.seen.served.push(self.now);
                }
                self.at(self.now + length, Step::End(call));
            }
            Step::End(call) if !self.calls[call].over => {
                self.machine.note_sign_of_life(now);
                self.end(call);
            }
            Step::Fail(call, result) if !self.calls[call].over => {
                self.end(call);
                let waiting = self.waiting(self.calls[call].began);
                let (grant, caller, served) = (self.calls[call].grant, self.caller(call), self.served);
                let event = match self.calls[call].streams {
                    Some((_, counted)) => self.machine.finish(counted, result, waiting, now),
                    None => {
                        let is_other_served = || served.has_other(caller, SERVED, now);
                        let result = self.machine.attribute(grant, result, caller, is_other_served, now);
                        self.machine.settle(grant, result, waiting, now).1
                    }
                };
                self.note(event);
            }
            Step::GiveUp(call) if !self.calls[call].over && self.calls[call].streams.is_none() => {
                self.end(call);
                let Call { grant, began, .. } = self.calls[call];
                if self.now - began >= self.first_byte / 2 {
                    let caller = self.caller(call);
                    let waiting = self.waiting(began);
                    let event = self.machine.cancel(grant, caller, false, waiting, now);
                    self.note(event);
                } else {
                    self.machine.give_back(grant);
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, client: usize, grant: CallGrant) {
        let call = self.calls.len();
        self.calls.push(Call { client, grant, began: self.now, streams: None, over: false });
        self.recent.push_back(call);
        let fate = (self.upstream)(client, self.now, &mut self.rng);
        let quick = between(&mut self.rng, 5 * MS..50 * MS);
        let (after, step) = match fate {
            Fate::Unavailable => (quick, Step::Fail(call, UNAVAILABLE)),
            Fate::Refused => (quick, Step::Fail(call, CallResult::UNANSWERED)),
            Fate::Stream(first, length) if first < self.first_byte => (first, Step::FirstData(call, length)),
            Fate::Hung | Fate::Stream(..) => (self.first_byte, Step::Fail(call, CallResult::UNANSWERED)),
        };
        self.at(self.now + after, step);
        if let Some(patience) = self.clients[client].patience {
            self.at(self.now + patience, Step::GiveUp(call));
        }
    }

    fn caller(&self, call: usize) -> Caller {
        Caller::Tenant(self.clients[self.calls[call].client].tenant)
    }

    fn end(&mut self, call: usize) {
        self.calls[call].over = true;
        self.streaming.retain(|streaming| *streaming != call);
        self.call_again(self.calls[call].client);
    }

    fn call_again(&mut self, client: usize) {
        let pause = between(&mut self.rng, self.clients[client].pause.clone());
        self.at(self.now + pause, Step::Call(client));
    }

    /// The number of calls that may still succeed when a call fails that began at this time. Data of streams counts until now.
    fn waiting(&mut self, began: Duration) -> u64 {
        // Each stream has data once a second.
        let last = |call: &usize| {
            let first = self.calls[*call].streams.map_or(Duration::ZERO, |(first, _)| first);
            first + S * u32::try_from((self.now - first).as_secs()).unwrap()
        };
        if let Some(last_sign) = self.streaming.iter().map(last).max() {
            self.machine.note_sign_of_life(self.start + last_sign);
        }
        if self.now - began >= QUIET {
            return 0;
        }
        while self.recent.front().is_some_and(|call| self.now - self.calls[*call].began >= QUIET) {
            self.recent.pop_front();
        }
        let waits = |call: &&usize| !self.calls[**call].over && self.calls[**call].streams.is_none();
        self.recent.iter().filter(waits).count() as u64
    }

    fn note(&mut self, event: Option<BreakerEvent>) {
        if let Some(BreakerEvent::Changed(change)) = event {
            if change.to == CircuitState::Open {
                self.seen.opened.push(self.now);
            }
        }
    }
}

fn between(rng: &mut fastrand::Rng, range: Range<Duration>) -> Duration {
    range.start + (range.end - range.start).mul_f64(rng.f64())
}

/// A chat: the first data after 0.3 to 2 s, and then 4 to 12 s.
fn chat(rng: &mut fastrand::Rng) -> Fate {
    Fate::Stream(between(rng, 300 * MS..2 * S), between(rng, 4 * S..12 * S))
}

/// This ratio of calls is answered 503 at once.
fn chat_or_503(rng: &mut fastrand::Rng, ratio: f64) -> Fate {
    if rng.f64() < ratio { Fate::Unavailable } else { chat(rng) }
}

/// Clients that wait forever, each of them a tenant, which begin within this time.
fn clients(count: u64, within: Duration, rng: &mut fastrand::Rng) -> Vec<Client> {
    let mut client = |tenant| {
        let first_call = between(rng, Duration::ZERO..within);
        Client { tenant, patience: None, pause: S / 2..3 * S / 2, first_call }
    };
    (0..count).map(&mut client).collect()
}

/// Runs a simulation for each seed, prints the minimum, the median and the maximum of a figure, and returns the maximum.
fn greatest(figure: &str, mut run: impl FnMut(u64, &mut fastrand::Rng) -> f64) -> f64 {
    let seeds = std::env::var("BREAKER_SEEDS").unwrap_or_else(|_| "1..101".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    let seeds = from.parse().unwrap()..to.parse().unwrap();
    let mut all: Vec<f64> = seeds.map(|seed| run(seed, &mut fastrand::Rng::with_seed(!seed))).collect();
    all.sort_by(f64::total_cmp);
    let (least, median, greatest) = (all[0], all[all.len() / 2], all[all.len() - 1]);
    let nonzero = all.iter().filter(|figure| **figure > 0.0).count();
    println!("{figure}: {least:.2} / {median:.2} / {greatest:.2}, {nonzero} of {} not zero", all.len());
    greatest
}

/// Seconds from `since` to the first of these times, or a day.
fn seconds(times: &[Duration], since: Duration) -> f64 {
    let first = times.iter().find(|at| **at >= since).copied();
    (first.unwrap_or(since + 86_400 * S) - since).as_secs_f64()
}

#[test]
fn ten_percent_of_failures_refuse_at_most_one_percent() {
    for within in [Duration::ZERO, 10 * S] {
        let refused = greatest(&format!("10 % failing, begun within {within:?}: percent refused"), |seed, rng| {
            let seen = World::new(seed, clients(60, within, rng), |_, _, rng| chat_or_503(rng, 0.1)).run(MINUTES);
            let refused = seen.calls.iter().filter(|(_, refused)| *refused).count();
            100.0 * refused as f64 / seen.calls.len() as f64
        });
        assert!(refused <= 1.0);
    }
}

#[test]
fn forty_percent_of_failures_open_nothing() {
    let opened = greatest("40 % failing from the first minute on: times opened", |seed, rng| {
        let upstream = |_, at, rng: &mut _| chat_or_503(rng, if at < 60 * S { 0.0 } else { 0.4 });
        World::new(seed, clients(60, 10 * S, rng), upstream).run(MINUTES).opened.len() as f64
    });
    assert_eq!(opened, 0.0);
    let opened = greatest("40 % failing, all begun at once: times opened", |seed, rng| {
        let upstream = |_, _, rng: &mut _| chat_or_503(rng, 0.4);
        World::new(seed, clients(60, Duration::ZERO, rng), upstream).run(60 * S).opened.len() as f64
    });
    assert_eq!(opened, 0.0);
}

#[test]
fn a_dead_upstream_that_is_called_every_ten_seconds_opens_within_six_calls() {
    let calls = greatest("dead, one call in 10 s: calls until open", |seed, rng| {
        let mut clients = clients(1, 10 * S, rng);
        clients[0].pause = 10 * S..10 * S + MS;
        let upstream = |_, at, rng: &mut _| if at < 120 * S { chat(rng) } else { Fate::Refused };
        let seen = World::new(seed, clients, upstream).run(MINUTES);
        let opened = seconds(&seen.opened, 120 * S);
        seen.calls.iter().filter(|(at, _)| *at >= 120 * S && (*at - 120 * S).as_secs_f64() < opened).count() as f64
    });
    assert!(calls <= 6.0);
}

#[test]
fn when_all_new_calls_fail_it_opens_beside_old_streams_that_flow() {
    let opened = greatest("100 % failing beside 20 old streams: seconds until open", |seed, rng| {
        let upstream = |client, at, rng: &mut _| match client {
            0..20 => Fate::Stream(S, MINUTES),
            _ if at < 60 * S => chat(rng),
            _ => Fate::Unavailable,
        };
        seconds(&World::new(seed, clients(60, 10 * S, rng), upstream).run(120 * S).opened, 60 * S)
    });
    assert!(opened <= 15.0);
}

#[test]
fn a_hung_upstream_opens_though_its_callers_leave() {
    for (tenants, limit) in [(60, 20.0), (2, 40.0), (1, 90.0)] {
        let opened = greatest(&format!("hung, {tenants} tenants leave after 10 s: seconds until open"), |seed, rng| {
            let mut clients = clients(60, 10 * S, rng);
            for client in &mut clients {
                client.patience = Some(10 * S);
                client.tenant %= tenants;
            }
            let upstream = |_, at, rng: &mut _| if at < 60 * S { chat(rng) } else { Fate::Hung };
            seconds(&World::new(seed, clients, upstream).run(180 * S).opened, 60 * S)
        });
        assert!(opened <= limit);
    }
}

#[test]
fn one_tenant_that_leaves_a_hundred_times_opens_nothing() {
    let opened = greatest("one tenant leaves, others are served: times opened", |seed, rng| {
        let mut clients = clients(12, 10 * S, rng);
        // It makes ten calls at a time that take twelve seconds, and cancels them after ten.
        for client in &mut clients[..10] {
            (client.tenant, client.patience, client.pause) = (0, Some(10 * S), MS..2 * MS);
        }
        let upstream = |client, _, rng: &mut _| if client < 10 { Fate::Stream(12 * S, S) } else { chat(rng) };
        let seen = World::new(seed, clients, upstream).run(180 * S);
        assert!(seen.calls.len() > 100);
        seen.opened.len() as f64
    });
    assert_eq!(opened, 0.0);
}

#[test]
fn one_tenant_whose_calls_fail_opens_nothing() {
    for pause in [S, 30 * S] {
        let opened = greatest(&format!("one tenant fails, others call every {pause:?}: times opened"), |seed, rng| {
            let mut clients = clients(12, 5 * S, rng);
            // It makes ten calls at a time, and each fails at once.
            clients[..10].iter_mut().for_each(|client| (client.tenant, client.pause) = (0, S / 5..S / 2));
            clients[10..].iter_mut().for_each(|client| client.pause = pause / 2..pause);
            // The others come first.
            clients[..10].iter_mut().for_each(|client| client.first_call += 10 * S);
            // Others that call often fail now and then.
            let ratio = if pause == S { 0.02 } else { 0.0 };
            let upstream =
                move |client, _, rng: &mut _| if client < 10 { Fate::Unavailable } else { chat_or_503(rng, ratio) };
            World::new(seed, clients, upstream).run(180 * S).opened.len() as f64
        });
        assert_eq!(opened, 0.0);
    }
}

#[test]
fn when_others_fail_too_or_are_gone_the_failures_of_one_tenant_count() {
    for (gone, limit) in [(false, 20.0), (true, 75.0)] {
        let opened = greatest(&format!("503 for two tenants, one gone: {gone}: seconds until open"), |seed, rng| {
            let mut clients = clients(10, 5 * S, rng);
            clients[1..].iter_mut().for_each(|client| client.tenant = 1);
            if gone {
                clients[0].pause = MINUTES..MINUTES + S;
            }
            let upstream = |_, at, rng: &mut _| if at < 60 * S { chat(rng) } else { Fate::Unavailable };
            seconds(&World::new(seed, clients, upstream).run(180 * S).opened, 60 * S)
        });
        assert!(opened <= limit, "{opened}");
    }
}

#[test]
fn a_model_that_thinks_for_longer_than_its_readers_wait_is_not_taken_for_dead() {
    let opened = greatest("a model thinks for 40 s, readers leave: times opened", |seed, rng| {
        let mut clients = clients(30, 40 * S, rng);
        for client in &mut clients[2..] {
            client.patience = Some(between(rng, 5 * S..44 * S));
        }
        let upstream = |_, _, rng: &mut _| Fate::Stream(between(rng, 35 * S..45 * S), 10 * S);
        let mut world = World::new(seed, clients, upstream);
        world.first_byte = 90 * S;
        world.run(MINUTES).opened.len() as f64
    });
    assert_eq!(opened, 0.0);
}

#[test]
fn after_an_outage_the_upstream_is_in_use_again_within_eighteen_seconds() {
    for (outage, fate, patience) in [
        ("connections refused", Fate::Refused, None),
        ("503", Fate::Unavailable, None),
        ("hung, patient callers", Fate::Hung, None),
        ("hung, callers leave after 10 s", Fate::Hung, Some(10 * S)),
    ] {
        for lasts in [20, 60, 90, 300] {
            let (from, to) = (30 * S, (30 + lasts) * S);
            let served = greatest(&format!("outage of {lasts} s, {outage}: seconds until served"), |seed, rng| {
                let mut clients = clients(20, 10 * S, rng);
                clients.iter_mut().for_each(|client| client.patience = patience);
                let upstream = move |_, at, rng: &mut _| if (from..to).contains(&at) { fate } else { chat(rng) };
                // Calls that began before or during the outage do not count.
                seconds(&World::new(seed, clients, upstream).run(to + 60 * S).served, to + 300 * MS)
            });
            assert!(served <= 18.0);
        }
    }
}
