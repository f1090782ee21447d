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
use super::watched::{LOOK_CLOSED, LOOK_OPEN, LOOK_OWED, Meaning, Probe, Watched, jittered};
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

pub(super) struct Circuits<B> {
    backend: B,
    group: CircuitGroup,
    process: Process,
    circuits: HashMap<CircuitId, Watched>,
    /// Orders of operators in this process that the task has not taken yet.
    given: Arc<GivenOrders>,
}

/// A process that first reads a circuit whose open time is over, without a successful probe, keeps it open this long:
/// a probe is imminent.
const ABOUT_TO_TEST: Duration = Duration::from_secs(1);

/// Limits the circuits that this process reports or reads at the same time.
const MOST_ASKED: usize = 64;

// === impl Circuits ===

impl<B: CircuitBackend> Driver for Circuits<B> {
    type Update = Update;

    fn subscribe(&self) -> Subscribing {
        let (backend, group) = (self.backend.clone(), self.group);
        Box::pin(async move { backend.news(group).await })
    }

    async fn on_update(&mut self, update: Update) {
        match update {
            Update::New(circuit) => self.on_new(circuit).await,
            Update::Changed(circuit, change) => self.on_changed(circuit, &change).await,
            Update::Given => self.on_given().await,
        }
    }

    fn on_news(&mut self, news: Bytes, heard: Instant) {
        if let Some(news) = CircuitNews::decode(self.group, &news) {
            self.on_circuit_news(news);
        } else if let Some(news) = OrderNews::decode(self.group, &news) {
            self.on_order_news(news, heard);
        }
    }

    async fn on_gap(&mut self) {
        let now = Instant::now();
        self.circuits.values_mut().for_each(|watched| watched.look_at = now);
    }

    fn due(&self) -> Option<Instant> {
        let given = (!self.given.is_empty()).then(Instant::now);
        self.circuits.values().map(Watched::due).chain(given).min()
    }

    async fn on_due(&mut self) {
        self.on_given().await;
        let now = Instant::now();
        let due = |due: &dyn Fn(&Watched) -> Instant| -> Vec<CircuitId> {
            self.circuits.iter().filter(|(_, watched)| due(watched) <= now).map(|(id, _)| *id).collect()
        };
        let (all, to_look_at) = (due(&Watched::due), due(&|watched| watched.look_at));
        self.look(&to_look_at).await;
        self.probe(&all, now).await;
    }
}

impl<B: CircuitBackend> Circuits<B> {
    pub(super) fn new(backend: B, group: CircuitGroup, process: Process, given: Arc<GivenOrders>) -> Self {
        Self { backend, group, process, circuits: HashMap::new(), given }
    }

    fn watch(&mut self, circuit: PeerCircuit) -> CircuitId {
        let id = self.group.circuit(circuit.key());
        self.circuits.retain(|_, watched| watched.circuit.handle().is_some());
        let look_at = Instant::now() + LOOK_CLOSED;
        self.circuits.entry(id).or_insert_with(|| Watched {
            circuit,
            probe: Probe::None,
            look_at,
            owes_vote: false,
            owes_verdict: None,
            opened: None,
            order: None,
            order_given: None,
            obeyed_since: Instant::now(),
            owes_order: None,
        });
        id
    }

    async fn on_new(&mut self, circuit: PeerCircuit) {
        let id = self.watch(circuit);
        self.look(&[id]).await;
    }

    async fn on_changed(&mut self, circuit: PeerCircuit, change: &CircuitChange) {
        let id = self.watch(circuit);
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        watched.look_at = watched.look_at.min(Instant::now() + LOOK_OPEN);
        match Meaning::of(change) {
            Meaning::Opened(open_for) => {
                watched.note_opened();
                // A verdict that Redis did not take is outdated: later calls found the upstream failing.
                if let Some((_, owed)) = &mut watched.owes_verdict {
                    *owed = ProbeVerdict::GivenBack;
                }
                let unanswered = watched.circuit.unanswered();
                let lease = watched.lease();
                watched.hold(open_for);
                let failed = ProbeVerdict::Failed { open_for, unanswered };
                let told = match lease {
                    Some(lease) => self.report_verdict(id, lease, failed).await,
                    None => false,
                };
                if !told {
                    self.vote(id, open_for).await;
                }
            }
            Meaning::Followed(open_for) => {
                watched.note_opened();
                let lease = watched.lease();
                watched.hold(open_for);
                self.give_back(id, lease).await;
            }
            Meaning::Probes => {}
            Meaning::Closed => {
                let lease = watched.lease();
                watched.probe = Probe::None;
                if let Some(lease) = lease {
                    self.report_verdict(id, lease, ProbeVerdict::Well).await;
                }
            }
            Meaning::Ours => {
                let lease = watched.lease();
                watched.probe = Probe::None;
                self.give_back(id, lease).await;
            }
        }
    }

    fn on_circuit_news(&mut self, news: CircuitNews) {
        let Some(watched) = self.circuits.get_mut(&news.circuit).filter(|_| news.process != self.process) else {
            return;
        };
        match news.votes {
            Some(votes) => watched.hear(votes),
            None => watched.circuit.close(),
        }
    }

    async fn on_given(&mut self) {
        let mut ids = Vec::new();
        for Given { circuit, order, at: given } in self.given.take() {
            let id = self.watch(circuit);
            if let Some(watched) = self.circuits.get_mut(&id) {
                let known = watched.order.map_or(0, |order| order.number);
                watched.owes_order = Some(GivenOrder { order, given, id: Token::random(), known });
                ids.push(id);
            }
        }
        self.tell_owed(&ids).await;
    }

    /// Also if this process gave the order: an earlier one may have reached Redis after it.
    fn on_order_news(&mut self, news: OrderNews, heard: Instant) {
        if let Some(watched) = self.circuits.get_mut(&news.circuit) {
            watched.hear_order(&OrderNews { age: news.age + heard.elapsed(), ..news });
        }
    }

    /// Obeys the order that Redis holds, or repeats the one that this process obeys.
    async fn on_held_order(&mut self, id: CircuitId, held: Option<HeldOrder>) {
        let Some(own) = self.circuits.get_mut(&id).and_then(|watched| watched.obey_held(held)) else { return };
        let told = self.backend.order_again(id, self.process, own).await;
        if let (Ok(held), Some(watched)) = (told, self.circuits.get_mut(&id)) {
            watched.obey(held.order, held.age);
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

    /// Lets another process probe.
    async fn give_back(&mut self, id: CircuitId, lease: Option<Token>) {
        if let Some(lease) = lease {
            self.report_verdict(id, lease, ProbeVerdict::GivenBack).await;
        }
    }

    /// Reports the result of a probe, and repeats it later if Redis does not take it. Returns whether Redis knows, and
    /// whether the result counts.
    async fn report_verdict(&mut self, id: CircuitId, lease: Token, verdict: ProbeVerdict) -> bool {
        let taken = self.backend.verdict(id, lease, self.process, verdict, ACTIVE).await;
        self.circuits.get_mut(&id).is_some_and(|watched| watched.verdict_reported(lease, verdict, &taken))
    }

    async fn vote(&mut self, id: CircuitId, open_for: Duration) {
        let is_lost = self.backend.vote(id, self.process, open_for, ACTIVE).await.is_err();
        if let Some(watched) = self.circuits.get_mut(&id) {
            watched.owes_vote = is_lost;
        }
    }

    /// Reads these circuits, after reporting what Redis does not know yet.
    async fn look(&mut self, circuits: &[CircuitId]) {
        self.tell_owed(circuits).await;
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
            while let Some(answer) = asked.join_next().await {
                let Ok((id, votes, held)) = answer else { continue };
                self.on_votes(id, votes.ok());
                if let Ok(held) = held {
                    self.on_held_order(id, held).await;
                }
            }
        }
    }

    /// Reports what Redis does not know of these circuits, in parallel: one by one on a slow Redis would block this
    /// task for seconds, in which it would hear nothing and send no order.
    async fn tell_owed(&mut self, circuits: &[CircuitId]) {
        for circuits in circuits.chunks(MOST_ASKED) {
            let mut telling = JoinSet::new();
            for id in circuits.iter().copied() {
                let Some(owed) = self.circuits.get_mut(&id).and_then(Watched::owed) else { continue };
                let (backend, process) = (self.backend.clone(), self.process);
                telling.spawn(async move { (id, owed.tell(backend, id, process).await) });
            }
            while let Some(told) = telling.join_next().await {
                let Ok((id, told)) = told else { continue };
                if let Some(watched) = self.circuits.get_mut(&id) {
                    watched.reported(told);
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
            Some(votes) if !votes.open_for.is_zero() => watched.hear(votes),
            Some(votes) if votes.votes > 0 && watched.is_closed() => {
                watched.hear(Votes { open_for: ABOUT_TO_TEST, ..votes });
            }
            // No process finds the upstream failing: this one missed the recovery, or may probe itself.
            Some(votes) if votes.votes == 0 => watched.ask_now(),
            _ => {}
        }
    }
}
