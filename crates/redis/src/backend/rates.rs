//! The engine of shared rates.

use std::future::Future;
use std::time::Duration;

use redis::Value;
use tower_buttress::store::Fingerprint;

use super::redis::{millis, number, unexpected, unsigned};
use super::{BackendError, Process, Token};
use crate::client::Redis;
use crate::client::script::LuaScript;
use crate::ids::hex;

static RESERVE: LuaScript = LuaScript::new(
    "reserve",
    concat!(
        include_str!("../scripts/paused.lua"),
        include_str!("../scripts/taken.lua"),
        include_str!("../scripts/reserve.lua")
    ),
);
static REFUND: LuaScript =
    LuaScript::new("refund", concat!(include_str!("../scripts/taken.lua"), include_str!("../scripts/refund.lua")));
static BEAT: LuaScript = LuaScript::new("beat", include_str!("../scripts/beat.lua"));

/// The engine of [`FleetPace`](crate::FleetPace).
///
/// A rate is stored as one number, the time when it is free again. A call adds its cost to it, in microseconds.
///
/// See the [module](super) for an example.
pub trait RateBackend: Clone + Send + Sync + 'static {
    /// Takes `costs` from all rates of a limit, or from none, for a call that can wait for `max_wait`. Calls take
    /// turns in the order of their requests, from the end of the limit's pause on, and not before `pause` has passed,
    /// which is the pause known to the process. A repeated `request` takes nothing again.
    fn reserve(
        &self,
        limit: Fingerprint,
        request: Token,
        costs: Vec<TakenRate>,
        pause: Duration,
        max_wait: Duration,
    ) -> impl Future<Output = Result<RateTurn, BackendError>> + Send;

    /// Corrects what was taken, in microseconds per rate; once per `request`.
    fn refund(
        &self,
        limit: Fingerprint,
        request: Token,
        changes: Vec<(String, i64)>,
    ) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Identifies this process among those that share rates. Default: a new identifier each time.
    fn process(&self) -> Process {
        Process::random()
    }

    /// Registers this process for the next `ttl`. Returns the number of processes.
    fn beat(&self, process: Process, ttl: Duration) -> impl Future<Output = Result<u32, BackendError>> + Send;
}

/// A call's use of one rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenRate {
    /// Names the rate within its limit.
    pub name: String,
    /// The time in which the rate allows this use.
    pub cost: Duration,
    /// The time in which the rate allows what may be used at once.
    pub burst: Duration,
    /// The time in which the rate allows the use that this process knows of, which is a lower bound.
    pub level: Duration,
}

/// When a call may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateTurn {
    /// After this time; the costs are taken.
    Taken(Duration),
    /// After this time, which is longer than the call can wait; nothing is taken.
    TooLong(Duration),
}

impl RateBackend for Redis {
    async fn reserve(
        &self,
        limit: Fingerprint,
        request: Token,
        costs: Vec<TakenRate>,
        pause: Duration,
        max_wait: Duration,
    ) -> Result<RateTurn, BackendError> {
        let names = self.names();
        let mut keys: Vec<Vec<u8>> = costs.iter().map(|cost| names.rate(&limit, &cost.name)).collect();
        keys.extend([names.pause(&limit), names.request(&limit, request)]);
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut command = RESERVE.keys(&keys).arg(micros(max_wait)).arg(micros(pause)).arg(millis(self.remembered()));
        for TakenRate { cost, burst, level, .. } in &costs {
            command = command.arg(micros(*cost)).arg(micros(*burst)).arg(micros(*level));
        }
        let reply = self.call(&command).await?;
        let Value::Array(reply) = &reply else { return Err(unexpected()) };
        let [Value::Int(taken), Value::Int(wait)] = reply.as_slice() else { return Err(unexpected()) };
        let wait = Duration::from_micros(unsigned(*wait));
        Ok(if *taken == 1 { RateTurn::Taken(wait) } else { RateTurn::TooLong(wait) })
    }

    async fn refund(
        &self,
        limit: Fingerprint,
        request: Token,
        changes: Vec<(String, i64)>,
    ) -> Result<(), BackendError> {
        let names = self.names();
        let mut keys: Vec<Vec<u8>> = changes.iter().map(|(name, _)| names.rate(&limit, name)).collect();
        keys.push(names.request(&limit, request));
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut command = REFUND.keys(&keys).arg(millis(self.remembered()));
        for (_, change) in &changes {
            command = command.arg(*change);
        }
        self.call(&command).await.map(|_| ())
    }

    fn process(&self) -> Process {
        Self::process(self)
    }

    async fn beat(&self, process: Process, ttl: Duration) -> Result<u32, BackendError> {
        let command = BEAT.keys(&[&self.names().processes()]).arg(hex(process.as_bytes())).arg(millis(ttl));
        number(&self.call(&command).await?).map(|count| u32::try_from(count).unwrap_or(1))
    }
}

impl Redis {
    /// How long a request is known to be done: it may be repeated within the patience of one operation.
    fn remembered(&self) -> Duration {
        self.patience().saturating_add(DONE_FOR)
    }
}

const DONE_FOR: Duration = Duration::from_secs(1);

/// The largest number that Lua stores exactly together with the time of day.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(LONGEST_MICROS)
}

const LONGEST_MICROS: u64 = 365 * 24 * 60 * 60 * 1_000_000;

#[cfg(any(test, feature = "model"))]
mod model {
    use super::super::held_circuit::retain_until;
    use super::super::model::{Lasting, RedisModel};
    use super::*;
    use crate::options::PATIENCE;

    const REMEMBERED: Duration = PATIENCE.saturating_add(DONE_FOR);

    impl RateBackend for RedisModel {
        async fn reserve(
            &self,
            limit: Fingerprint,
            request: Token,
            costs: Vec<TakenRate>,
            pause: Duration,
            max_wait: Duration,
        ) -> Result<RateTurn, BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            if let Some((at, _)) = state.requests.get_mut(&request) {
                return Ok(RateTurn::Taken(at.left(now)));
            }
            let stop = state.pauses.get_mut(&limit).map_or(Duration::ZERO, |(paused, _)| paused.left(now)).max(pause);
            let (mut tats, mut worst) = (Vec::new(), stop);
            for TakenRate { name, cost, burst, level } in &costs {
                let room = burst.saturating_sub(*cost);
                let taken = state.rates.get_mut(&(limit, name.clone())).map(|taken| now + taken.left(now));
                let mut tat = taken.unwrap_or(now).max(now + *level);
                if !stop.is_zero() {
                    tat = tat.max(now + stop + room);
                }
                if !cost.is_zero() {
                    worst = worst.max(tat.saturating_duration_since(now).saturating_sub(room));
                }
                tats.push(tat);
            }
            if worst > max_wait {
                return Ok(RateTurn::TooLong(worst));
            }
            for (TakenRate { name, cost, .. }, tat) in costs.into_iter().zip(tats) {
                if !cost.is_zero() {
                    let tat = tat.max(now + worst) + cost;
                    state.rates.insert((limit, name), Lasting::until(tat, now));
                }
            }
            state.requests.insert(request, (Lasting::until(now + worst, now), now + REMEMBERED));
            Ok(RateTurn::Taken(worst))
        }

        async fn refund(
            &self,
            limit: Fingerprint,
            request: Token,
            changes: Vec<(String, i64)>,
        ) -> Result<(), BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            if state.requests.insert(request, (Lasting::until(now, now), now + REMEMBERED)).is_some() {
                return Ok(());
            }
            for (name, change) in changes {
                let taken = state.rates.entry((limit, name)).or_insert(Lasting::until(now, now));
                let (left, by) = (taken.left(now), Duration::from_micros(change.unsigned_abs()));
                let left = if change < 0 { left.saturating_sub(by) } else { left + by };
                *taken = Lasting::until(now + left, now);
            }
            Ok(())
        }

        async fn beat(&self, process: Process, ttl: Duration) -> Result<u32, BackendError> {
            let mut state = self.reach()?;
            let now = state.now();
            retain_until(&mut state.processes, now, now + ttl);
            state.processes.insert(process, now + ttl);
            Ok(u32::try_from(state.processes.len()).unwrap_or(u32::MAX))
        }
    }
}
