//! Circuits, in memory.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::circuits::{
    AT_ONCE, CircuitBackend, CircuitGroup, CircuitId, CircuitNews, GivenOrder, HeldOrder, KEPT, MAX_SEEN,
    NumberedOrder, ORDER_KEPT, OrderNews, ProbeLease, ProbeVerdict, Votes,
};
use super::held_circuit::{HeldLease, HeldOpen};
use super::model::{Channel, Lasting, RedisModel, State};
use super::redis::whole_millis;
use super::{BackendError, Process, Subscription, Token};

impl CircuitBackend for RedisModel {
    async fn look(&self, circuit: CircuitId, process: Process, active: Duration) -> Result<Votes, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
        let open_for = fleet.open_for(now);
        fleet.expire(now, open_for, active);
        prolong(&mut fleet.active, process, now + active);
        Ok(fleet.votes(now))
    }

    async fn vote(
        &self,
        circuit: CircuitId,
        process: Process,
        open_for: Duration,
        active: Duration,
    ) -> Result<Votes, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
        let open = fleet.open_for(now).max(open_for);
        fleet.expire(now, open, active);
        prolong(&mut fleet.votes, process, now + open_for.max(active));
        prolong(&mut fleet.active, process, now + active);
        let forgotten = now + (open * 2).max(active);
        let unanswered = fleet.open.map_or(0, |open| open.unanswered);
        fleet.open = Some(HeldOpen { until: Lasting::until(now + open, now), unanswered, forgotten });
        let votes = fleet.votes(now);
        let news = CircuitNews { circuit, votes: Some(votes), process };
        state.publish(Channel::Circuits(circuit.group), &news.encode());
        Ok(votes)
    }

    async fn probe(&self, circuit: CircuitId, token: Token, lease: Duration) -> Result<ProbeLease, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
        let open_for = fleet.open_for(now);
        match &mut fleet.probe {
            held if !open_for.is_zero() && held.is_none_or(|held| held.token != token) => {
                Ok(ProbeLease::Early(open_for))
            }
            Some(held) if held.token != token => {
                held.is_wanted = true;
                Ok(ProbeLease::Wait(held.until.left(now)))
            }
            held => {
                let is_wanted = held.is_some_and(|held| held.is_wanted);
                *held = Some(HeldLease { token, until: Lasting::until(now + lease, now), is_wanted: false });
                Ok(ProbeLease::Granted { unanswered: fleet.open.map_or(0, |open| open.unanswered), is_wanted })
            }
        }
    }

    async fn verdict(
        &self,
        circuit: CircuitId,
        token: Token,
        process: Process,
        verdict: ProbeVerdict,
        active: Duration,
    ) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
        if fleet.probe.is_none_or(|held| held.token != token) {
            return Ok(false);
        }
        fleet.probe = None;
        let votes = match verdict {
            ProbeVerdict::GivenBack => return Ok(true),
            ProbeVerdict::Well => {
                fleet.open = None;
                fleet.votes.clear();
                None
            }
            ProbeVerdict::Failed { open_for, unanswered } => {
                let forgotten = now + (open_for * 2).max(KEPT);
                fleet.open = Some(HeldOpen { until: Lasting::until(now + open_for, now), unanswered, forgotten });
                fleet.expire(now, open_for, active);
                let stands = now + open_for.max(active);
                fleet.votes.insert(process, stands);
                prolong(&mut fleet.active, process, now + active);
                let voters = fleet.votes.iter_mut().filter(|(process, _)| fleet.active.contains_key(process));
                voters.for_each(|(_, until)| *until = stands);
                Some(fleet.votes(now))
            }
        };
        let news = CircuitNews { circuit, votes, process };
        state.publish(Channel::Circuits(circuit.group), &news.encode());
        Ok(true)
    }

    async fn order(&self, circuit: CircuitId, process: Process, order: GivenOrder) -> Result<HeldOrder, BackendError> {
        let GivenOrder { order, given, id, known } = order;
        let mut state = self.reach()?;
        let (now, age) = (state.millis(), whole_millis(given.elapsed()));
        let held = state.order(circuit).map(|(held, _)| *held);
        let seen = &mut state.circuits.entry(circuit).or_default().seen;
        if let Some(held) = held.filter(|_| seen.contains(&id)) {
            return Ok(state.hold(circuit, process, HeldOrder { order: held, age: Duration::ZERO }, true));
        }
        seen.push(id);
        seen.drain(..seen.len().saturating_sub(MAX_SEEN));
        let mut number = now.saturating_sub(age).max(known + 1);
        if age <= whole_millis(AT_ONCE) || held.is_some_and(|held| held.number > now + age) {
            number = number.max(now).max(held.map_or(0, |held| held.number) + 1);
        }
        let (order, age) = (NumberedOrder { number, order }, Duration::from_millis(age));
        Ok(state.hold(circuit, process, HeldOrder { order, age }, false))
    }

    async fn order_again(
        &self,
        circuit: CircuitId,
        process: Process,
        order: HeldOrder,
    ) -> Result<HeldOrder, BackendError> {
        Ok(self.reach()?.hold(circuit, process, order, true))
    }

    async fn ordered(&self, circuit: CircuitId) -> Result<Option<HeldOrder>, BackendError> {
        let mut state = self.reach()?;
        let (now, millis) = (state.now(), state.millis());
        Ok(state.order(circuit).map(|(order, until)| {
            *until = now + ORDER_KEPT;
            HeldOrder { order: *order, age: Duration::from_millis(millis.saturating_sub(order.number)) }
        }))
    }

    async fn news(&self, group: CircuitGroup) -> Result<Subscription, BackendError> {
        self.subscribe(Channel::Circuits(group))
    }
}

impl State {
    /// The order that holds, with its expiry.
    fn order(&mut self, circuit: CircuitId) -> Option<&mut (NumberedOrder, Instant)> {
        let now = self.now();
        let fleet = self.circuits.entry(circuit).or_default();
        fleet.forget(now);
        fleet.order.as_mut()
    }

    /// Takes an order, unless there is one with a higher number. Returns the one that holds.
    fn hold(&mut self, circuit: CircuitId, process: Process, held: HeldOrder, is_again: bool) -> HeldOrder {
        let (until, millis, HeldOrder { order, age }) = (self.now() + ORDER_KEPT, self.millis(), held);
        if let Some((held, _)) = self.order(circuit).filter(|(held, _)| order.number <= held.number) {
            return HeldOrder { order: *held, age: Duration::from_millis(millis.saturating_sub(held.number)) };
        }
        self.circuits.entry(circuit).or_default().order = Some((order, until));
        self.publish(Channel::Circuits(circuit.group), &OrderNews { circuit, order, age, process, is_again }.encode());
        HeldOrder { order, age }
    }
}

/// Counts a process until then, or longer if it already is.
fn prolong(voices: &mut HashMap<Process, Instant>, process: Process, until: Instant) {
    let counted = voices.entry(process).or_insert(until);
    *counted = until.max(*counted);
}
