//! The task that reports this process's circuits to Redis and applies what Redis reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_buttress::{CircuitChange, PeerCircuit};

use super::given::{Given, GivenOrders};
use super::owed::ACTIVE;
use super::watched::{LOOK_CLOSED, LOOK_OPEN, LOOK_OWED, Meaning, ProbeHolder, WatchedCircuit, jittered};
use crate::backend::{
    CircuitBackend, CircuitGroup, CircuitId, CircuitNews, GivenOrder, HeldOrder, OrderNews, ProbeVerdict, Process,
    Token, Votes,
};
use crate::driver::{Driver, Subscribing};

/// A message from the layer to the task.
pub(super) enum Update {
    New(PeerCircuit),
    Changed(PeerCircuit, CircuitChange),
    /// An operator gave an order for all processes: it is among the [given ones](GivenOrders).
    Given,
}

pub(super) struct CircuitDriver<B> {
    backend: B,
    group: CircuitGroup,
    process: Process,
    circuits: HashMap<CircuitId, WatchedCircuit>,
    /// Orders of operators in this process that the task has not taken yet.
    given: Arc<GivenOrders>,
}

/// A process that first reads a circuit whose open time is over, without a successful probe, keeps it open this long:
/// a probe is imminent.
const ABOUT_TO_TEST: Duration = Duration::from_secs(1);

/// Limits the circuits that this process reports or reads at the same time.
const MOST_ASKED: usize = 64;

// === impl Circuits ===

impl<B: CircuitBackend> Driver for CircuitDriver<B> {
    type Update = Update;

    fn subscribe(&self) -> Subscribing {
        let (backend, group) = (self.backend.clone(), self.group);
        Box::pin(async move { backend.news(group).await })
    }

    fn on_update(&mut self, update: Update) {
        match update {
            Update::New(circuit) => self.on_new(circuit),
            Update::Changed(circuit, change) => self.on_changed(circuit, &change),
            Update::Given => self.on_given(),
        }
    }

    fn on_news(&mut self, news: Bytes, received: Instant) {
        if let Some(news) = CircuitNews::decode(self.group, &news) {
            self.on_circuit_news(news);
        } else if let Some(news) = OrderNews::decode(self.group, &news) {
            self.on_order_news(news, received);
        }
    }

    async fn on_gap(&mut self) {
        let now = Instant::now();
        self.circuits.values_mut().for_each(|watched| watched.look_at = now);
    }

    fn due(&self) -> Option<Instant> {
        let is_any = !self.given.is_empty() || self.circuits.values().any(|watched| watched.is_unsent);
        self.circuits.values().map(WatchedCircuit::due).chain(is_any.then(Instant::now)).min()
    }

    async fn on_due(&mut self) {
        self.on_given();
        let now = Instant::now();
        let due = |due: &dyn Fn(&WatchedCircuit) -> Instant| -> Vec<CircuitId> {
            self.circuits.iter().filter(|(_, watched)| due(watched) <= now).map(|(id, _)| *id).collect()
        };
        let (all, to_look_at) = (due(&WatchedCircuit::due), due(&|watched| watched.look_at));
        let unsent = self.circuits.iter().filter(|(_, watched)| watched.is_unsent);
        let unsent: Vec<_> = unsent.map(|(id, _)| *id).collect();
        self.send_owed(&unsent).await;
        self.look(&to_look_at).await;
        self.probe(&all, now).await;
    }
}

impl<B: CircuitBackend> CircuitDriver<B> {
    pub(super) fn new(backend: B, group: CircuitGroup, process: Process, given: Arc<GivenOrders>) -> Self {
        Self { backend, group, process, circuits: HashMap::new(), given }
    }

    fn watch(&mut self, circuit: PeerCircuit) -> CircuitId {
        let id = self.group.circuit(circuit.key());
        self.circuits.retain(|_, watched| watched.circuit.handle().is_some());
        self.circuits.entry(id).or_insert_with(|| WatchedCircuit::new(circuit));
        id
    }

    fn on_new(&mut self, circuit: PeerCircuit) {
        let id = self.watch(circuit);
        if let Some(watched) = self.circuits.get_mut(&id) {
            watched.look_at = Instant::now();
        }
    }

    fn on_changed(&mut self, circuit: PeerCircuit, change: &CircuitChange) {
        let id = self.watch(circuit);
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        watched.look_at = watched.look_at.min(Instant::now() + LOOK_OPEN);
        let lease = watched.lease();
        match Meaning::of(change) {
            Meaning::Opened(open_for) => {
                watched.note_opened();
                // A verdict that Redis does not know is outdated: later calls found the upstream failing.
                if let Some((_, owed)) = &mut watched.owes_verdict {
                    *owed = ProbeVerdict::GivenBack;
                }
                let unanswered = watched.circuit.unanswered();
                watched.hold(open_for);
                watched.end_probe(lease, ProbeVerdict::Failed { open_for, unanswered });
                (watched.owes_vote, watched.is_unsent) = (true, true);
            }
            Meaning::Followed(open_for) => {
                watched.note_opened();
                watched.hold(open_for);
                watched.end_probe(lease, ProbeVerdict::GivenBack);
            }
            // Its lease is short until it is renewed for a probe.
            Meaning::Probes => watched.look_at = Instant::now(),
            Meaning::Closed => {
                watched.probe = ProbeHolder::None;
                watched.end_probe(lease, ProbeVerdict::Well);
            }
            Meaning::Ours => {
                watched.probe = ProbeHolder::None;
                watched.end_probe(lease, ProbeVerdict::GivenBack);
            }
        }
    }

    fn on_circuit_news(&mut self, news: CircuitNews) {
        let Some(watched) = self.circuits.get_mut(&news.circuit).filter(|_| news.process != self.process) else {
            return;
        };
        match news.votes {
            Some(votes) => watched.receive(votes),
            None => watched.circuit.close(),
        }
    }

    fn on_given(&mut self) {
        for Given { circuit, order, at: given } in self.given.take() {
            let id = self.watch(circuit);
            if let Some(watched) = self.circuits.get_mut(&id) {
                let known = watched.order.map_or(0, |order| order.number);
                watched.owes_order = Some(GivenOrder { order, given, id: Token::random(), known });
                watched.is_unsent = true;
            }
        }
    }

    /// Also if this process gave the order: an earlier one may have reached Redis after it.
    fn on_order_news(&mut self, news: OrderNews, received: Instant) {
        if let Some(watched) = self.circuits.get_mut(&news.circuit) {
            watched.on_order(&OrderNews { age: news.age + received.elapsed(), ..news });
        }
    }

    /// Repeats the orders that this process obeys, and Redis has lost.
    async fn send_again(&mut self, orders: Vec<(CircuitId, HeldOrder)>) {
        let mut sending = JoinSet::new();
        for (id, own) in orders {
            let (backend, process) = (self.backend.clone(), self.process);
            sending.spawn(async move { (id, backend.order_again(id, process, own).await) });
        }
        while let Some(sent) = sending.join_next().await {
            let Ok((id, Ok(held))) = sent else { continue };
            if let Some(watched) = self.circuits.get_mut(&id) {
                watched.obey(held.order, held.age);
            }
        }
    }

    /// Requests the leases of due probes, and returns unusable ones.
    async fn probe(&mut self, circuits: &[CircuitId], now: Instant) {
        for circuits in circuits.chunks(MOST_ASKED) {
            let mut asked = JoinSet::new();
            for id in circuits.iter().copied() {
                let Some(step) = self.circuits.get_mut(&id).and_then(|watched| watched.next_step(now)) else {
                    continue;
                };
                let (backend, process) = (self.backend.clone(), self.process);
                asked.spawn(async move { (id, step.take(backend, id, process).await) });
            }
            while let Some(answer) = asked.join_next().await {
                let Ok((id, taken)) = answer else { continue };
                if let Some(watched) = self.circuits.get_mut(&id) {
                    watched.on_step(taken);
                }
            }
        }
    }

    /// Reads these circuits, after reporting what Redis does not know yet.
    async fn look(&mut self, circuits: &[CircuitId]) {
        self.send_owed(circuits).await;
        for circuits in circuits.chunks(MOST_ASKED) {
            let mut asked = JoinSet::new();
            for id in circuits.iter().copied() {
                let (backend, process) = (self.backend.clone(), self.process);
                // In parallel, so that this process knows after one round trip which circuits are open.
                asked.spawn(async move {
                    let (votes, held) = tokio::join!(backend.look(id, process, ACTIVE), backend.ordered(id));
                    (id, votes, held)
                });
            }
            let mut lost = Vec::new();
            while let Some(answer) = asked.join_next().await {
                let Ok((id, votes, held)) = answer else { continue };
                self.on_votes(id, votes.ok());
                if let (Ok(held), Some(watched)) = (held, self.circuits.get_mut(&id)) {
                    lost.extend(watched.obey_held(held).map(|own| (id, own)));
                }
            }
            self.send_again(lost).await;
        }
    }

    /// Reports what Redis does not know of these circuits, in parallel: one by one on a slow Redis would block this
    /// task for seconds, in which it would receive nothing and send no order.
    async fn send_owed(&mut self, circuits: &[CircuitId]) {
        for circuits in circuits.chunks(MOST_ASKED) {
            let mut sending = JoinSet::new();
            for id in circuits.iter().copied() {
                let Some(owed) = self.circuits.get_mut(&id).and_then(WatchedCircuit::owed) else { continue };
                let (backend, process) = (self.backend.clone(), self.process);
                sending.spawn(async move { (id, owed.send(backend, id, process).await) });
            }
            while let Some(replies) = sending.join_next().await {
                let Ok((id, replies)) = replies else { continue };
                if let Some(watched) = self.circuits.get_mut(&id) {
                    watched.reported(replies);
                }
            }
        }
    }

    fn on_votes(&mut self, id: CircuitId, votes: Option<Votes>) {
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        let every = if watched.is_closed() && watched.owes_order.is_none() { LOOK_CLOSED } else { LOOK_OPEN };
        let wait = if watched.owes_verdict.is_some() { LOOK_OWED } else { jittered(every) };
        watched.look_at = Instant::now() + wait;
        match votes {
            Some(votes) if !votes.open_for.is_zero() => watched.receive(votes),
            Some(votes) if votes.votes > 0 && watched.is_closed() => {
                watched.receive(Votes { open_for: ABOUT_TO_TEST, ..votes });
            }
            // No process finds the upstream failing: this one missed the recovery, or may probe itself.
            Some(votes) if votes.votes == 0 => watched.ask_now(),
            _ => {}
        }
    }
}
