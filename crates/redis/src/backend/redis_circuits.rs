//! The circuits of a fleet, on a Redis.

use std::time::Duration;

use redis::Value;

use super::circuits::{
    AT_ONCE, CircuitBackend, CircuitGroup, CircuitId, GivenOrder, HeldOrder, KEPT, NumberedOrder, ORDER_KEPT,
    ProbeLease, ProbeVerdict, Votes,
};
use super::redis::{millis, number, unexpected, unsigned, whole_millis};
use super::{BackendError, Process, Subscription, Token};
use crate::client::Redis;
use crate::client::script::{Command, LuaScript};
use crate::ids::hex;

static LOOK: LuaScript =
    LuaScript::new("look", concat!(include_str!("../scripts/circuit.lua"), include_str!("../scripts/look.lua")));
static VOTE: LuaScript =
    LuaScript::new("vote", concat!(include_str!("../scripts/circuit.lua"), include_str!("../scripts/vote.lua")));
static PROBE: LuaScript =
    LuaScript::new("probe", concat!(include_str!("../scripts/circuit.lua"), include_str!("../scripts/probe.lua")));
static ORDER: LuaScript = LuaScript::new("order", include_str!("../scripts/order.lua"));
static ORDERED: LuaScript = LuaScript::new("ordered", include_str!("../scripts/ordered.lua"));
static VERDICT: LuaScript =
    LuaScript::new("verdict", concat!(include_str!("../scripts/circuit.lua"), include_str!("../scripts/verdict.lua")));

impl CircuitBackend for Redis {
    async fn look(&self, circuit: CircuitId, process: Process, active: Duration) -> Result<Votes, BackendError> {
        let names = self.names();
        let keys = [names.circuit(circuit, 'v'), names.circuit(circuit, 'a'), names.circuit(circuit, 'b')];
        let command = LOOK.keys(&[&keys[0], &keys[1], &keys[2]]).arg(hex(process.as_bytes())).arg(millis(active));
        votes(&self.call(&command).await?)
    }

    async fn vote(
        &self,
        circuit: CircuitId,
        process: Process,
        open_for: Duration,
        active: Duration,
    ) -> Result<Votes, BackendError> {
        let names = self.names();
        let keys = [names.circuit(circuit, 'v'), names.circuit(circuit, 'a'), names.circuit(circuit, 'b')];
        let command = VOTE
            .keys(&[&keys[0], &keys[1], &keys[2], &names.group(circuit.group)])
            .arg(hex(process.as_bytes()))
            .arg(millis(open_for))
            .arg(millis(active))
            .arg(circuit.hex());
        votes(&self.call(&command).await?)
    }

    async fn probe(&self, circuit: CircuitId, token: Token, lease: Duration) -> Result<ProbeLease, BackendError> {
        let names = self.names();
        let command = PROBE
            .keys(&[&names.circuit(circuit, 'b'), &names.circuit(circuit, 'l')])
            .arg(token.as_bytes().as_slice())
            .arg(millis(lease));
        match self.call(&command).await? {
            Value::Array(reply) => match reply.as_slice() {
                [Value::Int(1), Value::Int(unanswered), Value::Int(wanted)] => Ok(ProbeLease::Granted {
                    unanswered: u32::try_from(*unanswered).unwrap_or(0),
                    is_wanted: *wanted == 1,
                }),
                [Value::Int(0), Value::Int(wait)] => Ok(ProbeLease::Wait(Duration::from_millis(unsigned(*wait)))),
                [Value::Int(-1), Value::Int(wait)] => Ok(ProbeLease::Early(Duration::from_millis(unsigned(*wait)))),
                _ => Err(unexpected()),
            },
            _ => Err(unexpected()),
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
        let names = self.names();
        let (verdict, open_for, unanswered) = match verdict {
            ProbeVerdict::Well => (1, Duration::ZERO, 0),
            ProbeVerdict::Failed { open_for, unanswered } => (0, open_for, unanswered),
            ProbeVerdict::GivenBack => (-1, Duration::ZERO, 0),
        };
        let keys = ['b', 'l', 'v', 'a'].map(|what| names.circuit(circuit, what));
        let command = VERDICT
            .keys(&[&keys[0], &keys[1], &keys[2], &keys[3], &names.group(circuit.group)])
            .arg(token.as_bytes().as_slice())
            .arg(verdict)
            .arg(millis(open_for))
            .arg(unanswered)
            .arg(millis(KEPT))
            .arg(circuit.hex())
            .arg(hex(process.as_bytes()))
            .arg(millis(active));
        Ok(number(&self.call(&command).await?)? == 1)
    }

    async fn order(&self, circuit: CircuitId, process: Process, order: GivenOrder) -> Result<HeldOrder, BackendError> {
        let GivenOrder { order, given, id, known } = order;
        let command = self
            .order_command(circuit, process, NumberedOrder { number: 0, order })
            .arg(whole_millis(given.elapsed()))
            .arg(whole_millis(AT_ONCE))
            .arg(known)
            .arg(id.as_bytes().as_slice());
        held(&self.call(&command).await?)?.ok_or_else(unexpected)
    }

    async fn order_again(
        &self,
        circuit: CircuitId,
        process: Process,
        HeldOrder { order, age }: HeldOrder,
    ) -> Result<HeldOrder, BackendError> {
        let command = self.order_command(circuit, process, order).arg(whole_millis(age));
        held(&self.call(&command).await?)?.ok_or_else(unexpected)
    }

    async fn ordered(&self, circuit: CircuitId) -> Result<Option<HeldOrder>, BackendError> {
        let command = ORDERED.keys(&[&self.names().circuit(circuit, 'o')]).arg(millis(ORDER_KEPT));
        held(&self.call(&command).await?)
    }

    fn process(&self) -> Process {
        Redis::process(self)
    }

    async fn news(&self, group: CircuitGroup) -> Result<Subscription, BackendError> {
        self.subscribe(&self.names().group(group)).await
    }
}

impl Redis {
    fn order_command(&self, circuit: CircuitId, process: Process, order: NumberedOrder) -> Command {
        let names = self.names();
        ORDER
            .keys(&[&names.circuit(circuit, 'o'), &names.group(circuit.group)])
            .arg(order.order.as_str())
            .arg(order.number)
            .arg(millis(ORDER_KEPT))
            .arg(circuit.hex())
            .arg(hex(process.as_bytes()))
    }
}

fn held(reply: &Value) -> Result<Option<HeldOrder>, BackendError> {
    let Value::Array(reply) = reply else { return Err(unexpected()) };
    match reply.as_slice() {
        [] => Ok(None),
        [Value::Int(number), Value::BulkString(order), Value::Int(age)] => {
            let order = std::str::from_utf8(order).ok().and_then(|order| order.parse().ok()).ok_or_else(unexpected)?;
            let order = NumberedOrder { number: unsigned(*number), order };
            Ok(Some(HeldOrder { order, age: Duration::from_millis(unsigned(*age)) }))
        }
        _ => Err(unexpected()),
    }
}

fn votes(reply: &Value) -> Result<Votes, BackendError> {
    let Value::Array(reply) = reply else { return Err(unexpected()) };
    let [Value::Int(open), Value::Int(votes), Value::Int(active)] = reply.as_slice() else { return Err(unexpected()) };
    let count = |number: &i64| u32::try_from(*number).unwrap_or(0);
    Ok(Votes { open_for: Duration::from_millis(unsigned(*open)), votes: count(votes), active: count(active) })
}
