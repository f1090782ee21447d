//! What the breakers of a fleet need of an engine.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tower_buttress::CircuitOrder;

use super::{BackendError, Process, Subscription, Token};
use crate::ids::hex;

/// The engine of a [`FleetBreaker`](crate::FleetBreaker): one method for each script. Times are durations, counted by
/// the engine's clock: those of the processes may differ.
///
/// See the [module](super) for an example.
pub trait CircuitBackend: Clone + Send + Sync + 'static {
    /// What the fleet says of a circuit. This process counts as one that has it, for `active`.
    fn look(
        &self,
        circuit: CircuitId,
        process: Process,
        active: Duration,
    ) -> impl Future<Output = Result<Votes, BackendError>> + Send;

    /// This process finds the upstream failing, for `open_for`. The others hear of it.
    fn vote(
        &self,
        circuit: CircuitId,
        process: Process,
        open_for: Duration,
        active: Duration,
    ) -> impl Future<Output = Result<Votes, BackendError>> + Send;

    /// Asks to be the one that tests the upstream, or to be it for longer.
    fn probe(
        &self,
        circuit: CircuitId,
        token: Token,
        lease: Duration,
    ) -> impl Future<Output = Result<ProbeLease, BackendError>> + Send;

    /// Says what came of it: a failure is a vote. `false`: the test is another's by now.
    fn verdict(
        &self,
        circuit: CircuitId,
        token: Token,
        process: Process,
        verdict: ProbeVerdict,
        active: Duration,
    ) -> impl Future<Output = Result<bool, BackendError>> + Send;

    /// An operator's order, for all processes. Returns the order that holds: this one, unless one that was given later is
    /// known. One that was told before changes nothing. Default: orders are each process's own.
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

    /// An order that the engine may have forgotten. It is taken where no order with a higher number is known. Returns the
    /// order that holds. Default: that one.
    fn order_again(
        &self,
        circuit: CircuitId,
        process: Process,
        order: NumberedOrder,
    ) -> impl Future<Output = Result<HeldOrder, BackendError>> + Send {
        let _ = (circuit, process);
        async move { Ok(HeldOrder { order, age: Duration::ZERO }) }
    }

    /// The order that holds for this circuit. Default: none.
    fn ordered(&self, _circuit: CircuitId) -> impl Future<Output = Result<Option<HeldOrder>, BackendError>> + Send {
        async { Ok(None) }
    }

    /// What is told of the circuits of this group from now on: see [`CircuitNews`] and [`OrderNews`].
    fn news(&self, group: CircuitGroup) -> impl Future<Output = Result<Subscription, BackendError>> + Send;
}

/// The circuits that share a name: those of one layer, in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CircuitGroup([u8; 32]);

/// One circuit of the fleet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CircuitId {
    pub(super) group: CircuitGroup,
    pub(super) id: [u8; 32],
}

/// What the fleet says of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Votes {
    /// How long it is open still.
    pub open_for: Duration,
    /// How many processes find the upstream failing.
    pub votes: u32,
    /// How many processes have the circuit.
    pub active: u32,
}

/// Whether a process may test the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeLease {
    /// It may.
    Granted {
        /// How many probes in a row got no answer.
        unanswered: u32,
    },
    /// Another does, or it is too early.
    Wait(Duration),
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeVerdict {
    /// The upstream is well.
    Well,
    /// It is not.
    Failed {
        /// How long the circuits stay open.
        open_for: Duration,
        /// How many probes in a row got no answer.
        unanswered: u32,
    },
    /// There was no call to make it with.
    GivenBack,
}

/// What is told of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitNews {
    /// The circuit.
    pub circuit: CircuitId,
    /// What the fleet says of it now; `None`: a probe found the upstream well.
    pub votes: Option<Votes>,
    /// Who says so.
    pub process: Process,
}

/// An order to a circuit. Of two, that with the higher number is the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedOrder {
    /// Its number.
    pub number: u64,
    /// What is to be done.
    pub order: CircuitOrder,
}

/// An order that an operator gives.
#[derive(Clone, Copy, Debug)]
pub struct GivenOrder {
    /// What is to be done.
    pub order: CircuitOrder,
    /// When it was given.
    pub given: Instant,
    /// Tells it from all other orders, so that one that is told twice counts once.
    pub id: Token,
    /// The number of the order that its process obeyed when this one was given; 0: none. This one gets a higher number, even
    /// when the clock of the engine has gone back.
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

/// An order that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderNews {
    /// The circuit.
    pub circuit: CircuitId,
    /// The order.
    pub order: NumberedOrder,
    /// How long ago it was given.
    pub age: Duration,
    /// The process that told it.
    pub process: Process,
    /// It was [told again](CircuitBackend::order_again): its age is what the clock of the engine says, which may have jumped.
    pub is_again: bool,
}

/// An order that no process asks for is forgotten after this long.
pub(super) const ORDER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How many orders to a circuit the engine recognises when they are told again.
#[cfg(any(test, feature = "model"))]
pub(super) const MOST_TOLD: usize = 16;

/// An order, or a message of a conversation, that reaches the engine within this time counts from its arrival, so that those
/// that are told at once are in the order in which they come. One that is later counts from when it was given, or came.
pub(super) const AT_ONCE: Duration = Duration::from_millis(100);

/// What is known of a circuit that is closed is forgotten after this long.
pub(super) const KEPT: Duration = Duration::from_secs(600);

// === impl CircuitGroup ===

impl CircuitGroup {
    /// The circuits of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Sha256::digest(name.as_bytes()).into())
    }

    /// The circuit of this key in it, or the one of calls without a key.
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
    /// Reads what was heard in this group; `None`: it is no news.
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

    /// As the scripts write it.
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
    /// Reads what was heard in this group; `None`: it is no order.
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

    /// As the script writes it.
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
