//! The circuits of a fleet, in memory.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::CircuitOrder;

use super::circuits::{
    CircuitBackend, CircuitGroup, CircuitId, CircuitNews, KEPT, NumberedOrder, ORDER_KEPT, OrderNews, ProbeLease,
    ProbeVerdict, Votes,
};
use super::fleet::Open;
use super::model::{Channel, Model};
use super::{BackendError, Process, Subscription, Token};

impl CircuitBackend for Model {
    async fn look(&self, circuit: CircuitId, process: Process, active: Duration) -> Result<Votes, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
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
        prolong(&mut fleet.votes, process, now + open_for.max(active));
        prolong(&mut fleet.active, process, now + active);
        let until = fleet.open.map_or(now, |open| open.until).max(now + open_for);
        let forgotten = now + ((until - now) * 2).max(active);
        let unanswered = fleet.open.map_or(0, |open| open.unanswered);
        fleet.open = Some(Open { until, unanswered, forgotten });
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
        if let Some(open) = fleet.open.filter(|open| open.until > now) {
            return Ok(ProbeLease::Wait(open.until - now));
        }
        match fleet.probe {
            Some((other, until)) if other != token => Ok(ProbeLease::Wait(until - now)),
            held => {
                fleet.probe = held.or(Some((token, now + lease)));
                Ok(ProbeLease::Granted { unanswered: fleet.open.map_or(0, |open| open.unanswered) })
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
        if fleet.probe.is_none_or(|(other, _)| other != token) {
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
                fleet.open = Some(Open { until: now + open_for, unanswered, forgotten });
                let stands = now + open_for.max(active);
                prolong(&mut fleet.votes, process, stands);
                fleet.votes.values_mut().for_each(|until| *until = stands.max(*until));
                prolong(&mut fleet.active, process, now + active);
                Some(fleet.votes(now))
            }
        };
        let news = CircuitNews { circuit, votes, process };
        state.publish(Channel::Circuits(circuit.group), &news.encode());
        Ok(true)
    }

    async fn order(
        &self,
        circuit: CircuitId,
        process: Process,
        order: CircuitOrder,
        number: Option<u64>,
    ) -> Result<NumberedOrder, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let next = state.last_order + 1;
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
        let number = match (number, fleet.order) {
            (Some(number), Some((held, _))) if number <= held.number => return Ok(held),
            (Some(number), _) => number,
            (None, held) => held.map_or(0, |(held, _)| held.number + 1).max(next),
        };
        let order = NumberedOrder { number, order };
        fleet.order = Some((order, now + ORDER_KEPT));
        state.last_order = number.max(state.last_order);
        state.publish(Channel::Circuits(circuit.group), &OrderNews { circuit, order, process }.encode());
        Ok(order)
    }

    async fn ordered(&self, circuit: CircuitId) -> Result<Option<NumberedOrder>, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let fleet = state.circuits.entry(circuit).or_default();
        fleet.forget(now);
        Ok(fleet.order.as_mut().map(|(order, until)| {
            *until = now + ORDER_KEPT;
            *order
        }))
    }

    async fn news(&self, group: CircuitGroup) -> Result<Subscription, BackendError> {
        self.subscribe(Channel::Circuits(group))
    }
}

/// Counts a process until then, if it is not counted for longer.
fn prolong(voices: &mut HashMap<Process, Instant>, process: Process, until: Instant) {
    let counted = voices.entry(process).or_insert(until);
    *counted = until.max(*counted);
}
