//! The events that a fleet meets, in order.

use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join, try_join_all};
use tower_buttress::error::BoxError;

use super::member::{Answer, Became, Fleet, MEMBERS, OPEN};
use super::report::{Figures, Outage, Outages, Times};
use super::server::Server;
use super::stage::{LIMIT, Mood, Stage};

/// The numbers of calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    /// Double clicks.
    clicks: u32,
    /// How long the network of one machine is bad.
    bad: Duration,
    /// How often open circuits are probed while the provider is dead.
    rounds: u32,
    /// Calls whose duration is measured.
    timed: u32,
}

/// An answer of 400 ms.
const ANSWER: &str = "gap=20ms; chunks=20";
const SHORT_ANSWER: &str = "gap=1ms; chunks=1";

/// The delay of the second click.
const SECOND_CLICK: Duration = Duration::from_millis(100);
const CLICK_GAP: Duration = Duration::from_millis(100);

/// The time between two calls of the fleet, each to a random machine.
const GAP: Duration = Duration::from_millis(20);

/// The time between two rounds of one call per machine while the network of one is bad.
const BAD_GAP: Duration = Duration::from_millis(50);

/// A success counts as a sign of life for 5 s: before that, consecutive failures open no circuit.
const QUIET: Duration = Duration::from_millis(5_500);

/// The calls in which all circuits open: about ten per machine.
const OPENING: u32 = 80;

/// Calls after the loss of Redis: the first may wait for it.
const FIRST_CALLS: u32 = 10;

/// A call this much slower than usual has waited for Redis.
const WAITED: Duration = Duration::from_millis(50);

/// The time in which gateways detect that Redis is back.
const FOUND_AGAIN: Duration = Duration::from_secs(3);

const BACK_WITHIN: Duration = Duration::from_secs(20);

// === impl Lengths ===

impl Lengths {
    pub(crate) const WHOLE: Self = Self { clicks: 80, bad: Duration::from_secs(9), rounds: 3, timed: 400 };
    pub(crate) const SHORT: Self = Self { clicks: 20, bad: Duration::from_secs(7), rounds: 1, timed: 100 };

    /// About the number of calls of each fleet.
    pub(crate) fn calls(&self) -> u64 {
        let members = MEMBERS as u64;
        let bad = self.bad.as_millis() / BAD_GAP.as_millis();
        let dead = u64::from(OPENING) + of(OPEN * self.rounds);
        let each =
            u64::from(self.timed) + u64::from(2 * self.clicks) + u64::try_from(bad).unwrap_or_default() * members;
        members + each + of(LIMIT * 3 / 2) + dead + of(OPEN)
    }

    /// The number of calls during the outage of Redis.
    pub(crate) fn outage_calls(&self) -> u64 {
        u64::from(2 * (FIRST_CALLS + self.timed))
    }
}

/// Makes calls one by one, without faults.
pub(crate) async fn one_by_one(fleet: &Fleet, lengths: &Lengths) -> Result<Times, BoxError> {
    // Each gateway learns the model.
    for member in 0..MEMBERS {
        fleet.ask(member, fleet.message(), SHORT_ANSWER).await?;
    }
    fleet.bar.set_message("one call after the other");
    Ok(times(&calls(fleet, lengths.timed).await?))
}

pub(crate) async fn play(fleet: &Fleet, stage: &Stage, lengths: &Lengths) -> Result<Figures, BoxError> {
    fleet.bar.set_message("double clicks");
    let per_click = double_clicks(fleet, stage, lengths.clicks).await?;
    fleet.bar.set_message("the network of one machine is bad");
    let (refused, asked, opened) = bad_network(fleet, stage, lengths.bad).await?;
    fleet.bar.set_message("a rate limit");
    let limited = rate_limit(fleet, stage).await?;
    fleet.bar.set_message("nothing for a while");
    tokio::time::sleep(QUIET).await;
    fleet.bar.set_message("the provider is dead");
    let (dead, probes) = death(fleet, stage, lengths.rounds).await?;
    fleet.bar.set_message("the provider is back");
    let (recovery_probes, recovered) = recovery(fleet, stage).await?;
    Ok(Figures { per_click, refused, asked, opened, limited, dead, probes, recovery_probes, recovered })
}

/// Upstream calls per double click, whose second click goes to another machine.
async fn double_clicks(fleet: &Fleet, stage: &Stage, clicks: u32) -> Result<f64, BoxError> {
    stage.set(Mood::Well);
    let click = |click: u32| async move {
        tokio::time::sleep(CLICK_GAP * click).await;
        let (message, one) = (fleet.message(), fleet.any_member());
        // Spreads the clicks over the seven other machines.
        let other = one + 1 + click as usize % (MEMBERS - 1);
        let second = async {
            tokio::time::sleep(SECOND_CLICK).await;
            fleet.ask(other, message, ANSWER).await
        };
        try_join(fleet.ask(one, message, ANSWER), second).await
    };
    for answers in join_all((0..clicks).map(click)).await {
        answers?;
    }
    Ok(f64::from(stage.arrivals()) / f64::from(clicks.max(1)))
}

/// Resets the connections of the first machine. Returns the calls that the other seven refused, the number of their
/// calls, and how often their circuits opened.
async fn bad_network(fleet: &Fleet, stage: &Stage, length: Duration) -> Result<(u32, u32, u32), BoxError> {
    stage.set(Mood::Well);
    let opened_before = fleet.became(0..1, Became::Open).await?;
    let others_before = fleet.became(1..MEMBERS, Became::Open).await?;
    let (mut refused, mut asked) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < length {
        let call = |member| fleet.ask(member, fleet.message(), if member == 0 { "reset" } else { SHORT_ANSWER });
        let answers = try_join_all((0..MEMBERS).map(call)).await?;
        let well = answers.iter().skip(1).filter(|answer| answer.status.is_success()).count();
        asked += u32::try_from(MEMBERS - 1)?;
        refused += u32::try_from(MEMBERS - 1 - well)?;
        tokio::time::sleep(BAD_GAP).await;
    }
    if fleet.became(0..1, Became::Open).await? == opened_before {
        return Err("the machine with the bad network has not found anything wrong".into());
    }
    let others = fleet.became(1..MEMBERS, Became::Open).await? - others_before;
    // The network of the first machine is repaired, and its circuit closes.
    until_closed(fleet, |member| fleet.ask(member, fleet.message(), SHORT_ANSWER)).await?;
    Ok((refused, asked, others))
}

/// 429s after the first.
async fn rate_limit(fleet: &Fleet, stage: &Stage) -> Result<u32, BoxError> {
    stage.set(Mood::Limited);
    spread(fleet, of(LIMIT * 3 / 2)).await?;
    let refusals = stage.refusals();
    stage.set(Mood::Well);
    Ok(refusals.saturating_sub(1))
}

/// The calls that reach a dead provider until the circuits are open, and afterwards.
async fn death(fleet: &Fleet, stage: &Stage, rounds: u32) -> Result<(u32, u32), BoxError> {
    stage.set(Mood::Dead);
    spread(fleet, OPENING.into()).await?;
    let dead = stage.arrivals();
    spread(fleet, of(OPEN * rounds)).await?;
    Ok((dead, stage.arrivals() - dead))
}

/// The probes until all circuits are closed, and how long that takes.
async fn recovery(fleet: &Fleet, stage: &Stage) -> Result<(u32, Duration), BoxError> {
    let before = fleet.became(0..MEMBERS, Became::HalfOpen).await?;
    stage.set(Mood::Well);
    let took = until_closed(fleet, |member| fleet.ask(member, fleet.message(), SHORT_ANSWER)).await?;
    Ok((fleet.became(0..MEMBERS, Became::HalfOpen).await? - before, took))
}

/// Calls random machines until all circuits are closed.
async fn until_closed<F>(fleet: &Fleet, ask: impl Fn(usize) -> F) -> Result<Duration, BoxError>
where
    F: Future<Output = Result<Answer, BoxError>>,
{
    let began = Instant::now();
    while !fleet.are_closed().await? {
        if began.elapsed() > BACK_WITHIN {
            return Err("a gateway does not come back".into());
        }
        ask(fleet.any_member()).await?;
        tokio::time::sleep(GAP).await;
    }
    Ok(began.elapsed())
}

/// Calls random machines, and waits for the last answer.
async fn spread(fleet: &Fleet, calls: u64) -> Result<(), BoxError> {
    let call = |call: u64| async move {
        tokio::time::sleep(GAP * u32::try_from(call)?).await;
        fleet.ask(fleet.any_member(), fleet.message(), SHORT_ANSWER).await
    };
    try_join_all((0..calls).map(call)).await.map(drop)
}

/// Calls during outages of Redis.
pub(crate) async fn outages(fleet: &Fleet, redis: &mut Server, lengths: &Lengths) -> Result<Outages, BoxError> {
    fleet.bar.set_message("Redis is suspended");
    redis.freeze()?;
    let frozen = outage(fleet, lengths.timed).await?;
    redis.thaw()?;
    tokio::time::sleep(FOUND_AGAIN).await;
    fleet.bar.set_message("Redis is killed");
    redis.kill()?;
    let dead = outage(fleet, lengths.timed).await?;
    Ok(Outages { frozen, dead })
}

async fn outage(fleet: &Fleet, timed: u32) -> Result<Outage, BoxError> {
    let first = calls(fleet, FIRST_CALLS).await?;
    let slowest = first.iter().map(|answer| answer.took).max().unwrap_or_default();
    let waited = first.iter().filter(|answer| answer.took > WAITED).count();
    Ok(Outage { slowest, waited, later: times(&calls(fleet, timed).await?) })
}

/// Calls one gateway, one call at a time.
async fn calls(fleet: &Fleet, count: u32) -> Result<Vec<Answer>, BoxError> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let answer = fleet.ask(1, fleet.message(), SHORT_ANSWER).await?;
        if !answer.status.is_success() {
            return Err(format!("a call was answered {}", answer.status).into());
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// How many calls of the fleet start in this time.
fn of(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / GAP.as_millis()).unwrap_or_default()
}

fn times(answers: &[Answer]) -> Times {
    let mut took: Vec<_> = answers.iter().map(|answer| answer.took).collect();
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    Times { median: at(50), p99: at(99) }
}
