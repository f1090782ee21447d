//! The engine of shared circuit breakers.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tower_buttress::CircuitOrder;

use super::{BackendError, Process, Subscription, Token};
use crate::ids::hex;

/// The engine of a [`FleetBreaker`](crate::FleetBreaker): one method per script. Times are durations by the engine's
/// clock, because the clocks of processes may differ.
///
/// See the [module](super) for an example.
pub trait CircuitBackend: Clone + Send + Sync + 'static {
    /// Reads the state of a circuit. Counts this process as a user of the circuit for `active`.
    fn look(
        &self,
        circuit: CircuitId,
        process: Process,
        active: Duration,
    ) -> impl Future<Output = Result<Votes, BackendError>> + Send;

    /// Votes that the upstream fails, for `open_for`. The other processes learn of it.
    fn vote(
        &self,
        circuit: CircuitId,
        process: Process,
        open_for: Duration,
        active: Duration,
    ) -> impl Future<Output = Result<Votes, BackendError>> + Send;

    /// Requests or renews the lease of the probe.
    fn probe(
        &self,
        circuit: CircuitId,
        token: Token,
        lease: Duration,
    ) -> impl Future<Output = Result<ProbeLease, BackendError>> + Send;

    /// Reports the probe's result; a failure is a vote. `false`: another process holds the lease by now.
    fn verdict(
        &self,
        circuit: CircuitId,
        token: Token,
        process: Process,
        verdict: ProbeVerdict,
        active: Duration,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// Gives an operator's order to all processes. Returns the order that holds: this one, unless a later one is
    /// known. A repeated order changes nothing. Default: each process has its own orders.
    fn order(
        &self,
        circuit: CircuitId,
        process: Process,
        order: GivenOrder,
    ) -> impl Future<Output = Result<HeldOrder, BackendError>> + Send {
        let _ = (circuit, process);
        let held = HeldOrder { order: NumberedOrder { number: 0, order: order.order }, age: order.given.elapsed() };
        async move { Ok(held) }
    }

    /// Repeats an order that the engine may have forgotten, and that is at least as old as its `age`. The engine takes
    /// it unless it knows one with a higher number. Returns the order that holds. Default: the given one.
    fn order_again(
        &self,
        circuit: CircuitId,
        process: Process,
        order: HeldOrder,
    ) -> impl Future<Output = Result<HeldOrder, BackendError>> + Send {
        let _ = (circuit, process);
        async move { Ok(order) }
    }

    /// The order that holds for this circuit. Default: none.
    fn ordered(&self, _circuit: CircuitId) -> impl Future<Output = Result<Option<HeldOrder>, BackendError>> + Send {
        async { Ok(None) }
    }

    /// Identifies this process among those that share circuits: its layers have one vote. Default: a new identifier each
    /// time.
    fn process(&self) -> Process {
        Process::random()
    }

    /// Subscribes to news of this group's circuits: see [`CircuitNews`] and [`OrderNews`].
    fn news(&self, group: CircuitGroup) -> impl Future<Output = Result<Subscription, BackendError>> + Send;
}

/// The circuits with one name: those of one layer, in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CircuitGroup([u8; 32]);

/// One shared circuit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CircuitId {
    pub(super) group: CircuitGroup,
    pub(super) id: [u8; 32],
}

/// The state of a circuit in all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Votes {
    /// How long it stays open.
    pub open_for: Duration,
    /// How many processes find the upstream failing.
    pub votes: u32,
    /// How many processes use the circuit.
    pub active: u32,
}

/// Whether a process may probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeLease {
    /// It may.
    Granted {
        /// How many probes in a row got no answer.
        unanswered: u32,
        /// Whether another process has asked for it since it was granted or last renewed.
        is_wanted: bool,
    },
    /// Another process has the lease, for this time unless it renews it.
    Wait(Duration),
    /// The circuit is open for this time.
    Early(Duration),
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeVerdict {
    /// The upstream has recovered.
    Well,
    /// It has not.
    Failed {
        /// How long the circuits stay open.
        open_for: Duration,
        /// How many probes in a row got no answer.
        unanswered: u32,
    },
    /// No call has probed.
    GivenBack,
}

/// News of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitNews {
    /// The circuit.
    pub circuit: CircuitId,
    /// The new state; `None`: a probe found the upstream recovered.
    pub votes: Option<Votes>,
    /// The process that sent it.
    pub process: Process,
}

/// An order to a circuit. Of two orders the one with the higher number is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedOrder {
    /// Its number.
    pub number: u64,
    /// The order.
    pub order: CircuitOrder,
}

/// An order from an operator.
#[derive(Clone, Copy, Debug)]
pub struct GivenOrder {
    /// The order.
    pub order: CircuitOrder,
    /// When the operator gave it.
    pub given: Instant,
    /// Identifies the order, so that a repeated one counts once.
    pub id: Token,
    /// The number of the order that its process obeyed at that time; 0: none. This order gets a higher number, even if
    /// the engine's clock has gone back.
    pub known: u64,
}

/// The order that holds for a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldOrder {
    /// The order.
    pub order: NumberedOrder,
    /// How long ago it was given.
    pub age: Duration,
}

/// News of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderNews {
    /// The circuit.
    pub circuit: CircuitId,
    /// The order.
    pub order: NumberedOrder,
    /// How long ago it was given.
    pub age: Duration,
    /// The process that sent it.
    pub process: Process,
    /// Whether it was [repeated](CircuitBackend::order_again): then it may be older than `age`.
    pub is_again: bool,
}

/// How long an order is kept that no process reads.
pub(super) const ORDER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How many orders per circuit the engine recognises when they are repeated.
#[cfg(any(test, feature = "model"))]
pub(super) const MAX_SEEN: usize = 16;

/// An order or message that reaches the engine within this time counts from its arrival, so that simultaneous ones
/// keep the order of arrival. A later one counts from when it was given.
pub(super) const AT_ONCE: Duration = Duration::from_millis(100);

/// How long the engine keeps a closed circuit.
pub(super) const KEPT: Duration = Duration::from_secs(600);

// === impl CircuitGroup ===

impl CircuitGroup {
    /// The circuits with this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Sha256::digest(name.as_bytes()).into())
    }

    /// The circuit with this key, or the one for calls without a key.
    #[must_use]
    pub fn circuit(self, key: Option<&str>) -> CircuitId {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update([u8::from(key.is_some())]);
        hash.update(key.unwrap_or_default().as_bytes());
        CircuitId { group: self, id: hash.finalize().into() }
    }

    pub(super) fn hex(self) -> String {
        hex(&self.0)
    }
}

// === impl CircuitId ===

impl CircuitId {
    pub(super) fn hex(self) -> String {
        hex(&self.id)
    }
}

impl fmt::Debug for CircuitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CircuitId({})", self.hex())
    }
}

// === impl CircuitNews ===

impl CircuitNews {
    /// Parses a message; `None`: it is not circuit news.
    #[must_use]
    pub fn decode(group: CircuitGroup, message: &[u8]) -> Option<Self> {
        let words: Vec<&str> = std::str::from_utf8(message).ok()?.split(' ').collect();
        let [circuit, state, open_ms, votes, active, process] = words[..] else { return None };
        let circuit = CircuitId { group, id: unhex(circuit)? };
        let votes = match state {
            "open" => Some(Votes {
                open_for: Duration::from_millis(open_ms.parse().ok()?),
                votes: votes.parse().ok()?,
                active: active.parse().ok()?,
            }),
            "closed" => None,
            _ => return None,
        };
        Some(Self { circuit, votes, process: Process::from_slice(&unhex::<16>(process)?)? })
    }

    /// Encodes it as the scripts do.
    #[cfg(any(test, feature = "model"))]
    pub(super) fn encode(self) -> bytes::Bytes {
        let (circuit, process) = (self.circuit.hex(), hex(self.process.as_bytes()));
        match self.votes {
            Some(Votes { open_for, votes, active }) => {
                format!("{circuit} open {} {votes} {active} {process}", open_for.as_millis()).into()
            }
            None => format!("{circuit} closed 0 0 0 {process}").into(),
        }
    }
}

// === impl OrderNews ===

impl OrderNews {
    /// Parses a message; `None`: it is not an order.
    #[must_use]
    pub fn decode(group: CircuitGroup, message: &[u8]) -> Option<Self> {
        let words: Vec<&str> = std::str::from_utf8(message).ok()?.split(' ').collect();
        let [circuit, kind @ ("order" | "again"), number, order, age_ms, process] = words[..] else { return None };
        let circuit = CircuitId { group, id: unhex(circuit)? };
        let order = NumberedOrder { number: number.parse().ok()?, order: order.parse().ok()? };
        let age = Duration::from_millis(age_ms.parse().ok()?);
        let process = Process::from_slice(&unhex::<16>(process)?)?;
        Some(Self { circuit, order, age, process, is_again: kind == "again" })
    }

    /// Encodes it as the script does.
    #[cfg(any(test, feature = "model"))]
    pub(super) fn encode(self) -> bytes::Bytes {
        let Self { circuit, order: NumberedOrder { number, order }, age, process, is_again } = self;
        let kind = if is_again { "again" } else { "order" };
        format!("{} {kind} {number} {order} {} {}", circuit.hex(), age.as_millis(), hex(process.as_bytes())).into()
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read_as_they_are_written_and_nothing_else_is() {
        let group = CircuitGroup::new("llm");
        let votes = Votes { open_for: Duration::from_millis(1500), votes: 2, active: 3 };
        for votes in [Some(votes), None] {
            let news = CircuitNews { circuit: group.circuit(Some("host")), votes, process: Process::random() };
            assert_eq!(CircuitNews::decode(group, &news.encode()), Some(news));
        }
        let order = NumberedOrder { number: 1_700_000_000_000, order: CircuitOrder::MetricsOnly };
        let age = Duration::from_millis(70);
        let (circuit, process) = (group.circuit(None), Process::random());
        let news = OrderNews { circuit, order, age, process, is_again: false };
        for news in [news, OrderNews { is_again: true, ..news }] {
            assert_eq!(OrderNews::decode(group, &news.encode()), Some(news));
        }
        assert_eq!(CircuitNews::decode(group, &news.encode()), None);
        for none in ["", "a open 1 1 1 b", "\u{fe} open 1 1 1 b", "open", "a b c d e f g"] {
            assert_eq!(CircuitNews::decode(group, none.as_bytes()), None);
        }
    }

    #[test]
    fn circuits_differ_by_name_and_key() {
        let (one, two) = (CircuitGroup::new("one"), CircuitGroup::new("two"));
        assert_ne!(one.circuit(None), one.circuit(Some("")));
        assert_ne!(one.circuit(Some("a")), one.circuit(Some("b")));
        assert_ne!(one.circuit(Some("a")).hex(), two.circuit(Some("a")).hex());
        assert_eq!(one.circuit(Some("a")), CircuitGroup::new("one").circuit(Some("a")));
    }
}
