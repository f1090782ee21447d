//! The task that tells the fleet of the circuits here, and the circuits of the fleet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower_buttress::{CircuitChange, PeerCircuit};

use super::given::{Given, GivenOrders};
use super::watched::{LOOK_OWED, Meaning, Probe, Watched, jittered};
use crate::backend::{
    CircuitBackend, CircuitGroup, CircuitId, CircuitNews, GivenOrder, HeldOrder, OrderNews, ProbeLease, ProbeVerdict,
    Process, Token, Votes,
};
use crate::driver::{Driver, Subscribing};

/// What the layer says.
pub(super) enum Order {
    New(PeerCircuit),
    Changed(PeerCircuit, CircuitChange),
    /// An operator has given orders for all processes.
    Given,
}

pub(super) struct Circuits<B> {
    backend: B,
    group: CircuitGroup,
    process: Process,
    circuits: HashMap<CircuitId, Watched>,
    /// What operators have said here.
    given: Arc<GivenOrders>,
}

/// A process that is not heard of for this long has no say.
const ACTIVE: Duration = Duration::from_secs(60);

/// What was missed is asked for this often.
const LOOK_CLOSED: Duration = Duration::from_secs(20);
const LOOK_OPEN: Duration = Duration::from_secs(5);

/// A probe that ends in nothing is another's after this long.
const PROBE_LEASE: Duration = Duration::from_secs(60);

/// A process without calls cannot probe: another may.
const NO_CALL: Duration = Duration::from_secs(2);

/// While another process tests the upstream, or there is no call to test it with.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A circuit whose open time is over, and that no probe has closed, is open for this long where it was not known.
const ABOUT_TO_TEST: Duration = Duration::from_secs(1);

/// The most circuits that the fleet is asked for at the same time.
const MOST_ASKED: usize = 64;

/// Nothing is due for a moment at least: a clock of Redis may be a little behind.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

// === impl Circuits ===

impl<B: CircuitBackend> Driver for Circuits<B> {
    type Order = Order;

    fn subscribe(&self) -> Subscribing {
        let (backend, group) = (self.backend.clone(), self.group);
        Box::pin(async move { backend.news(group).await })
    }

    async fn on_order(&mut self, order: Order) {
        match order {
            Order::New(circuit) => self.on_new(circuit).await,
            Order::Changed(circuit, change) => self.on_changed(circuit, &change).await,
            Order::Given => self.on_given().await,
        }
    }

    fn on_message(&mut self, message: Bytes) {
        if let Some(news) = CircuitNews::decode(self.group, &message) {
            self.on_news(news);
        } else if let Some(news) = OrderNews::decode(self.group, &message) {
            self.on_order_news(news);
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
        for id in all {
            self.probe(id, now).await;
        }
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
                // Calls have found since then that the upstream is not well.
                if let Some((_, owed)) = &mut watched.owes_verdict {
                    *owed = ProbeVerdict::GivenBack;
                }
                let unanswered = watched.circuit.unanswered();
                let lease = watched.lease();
                watched.hold(open_for);
                let failed = ProbeVerdict::Failed { open_for, unanswered };
                let told = match lease {
                    Some(lease) => self.tell_verdict(id, lease, failed).await,
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
            Meaning::Probes => {
                if let Probe::Ours { give_back_at, .. } = &mut watched.probe {
                    *give_back_at = None;
                }
            }
            Meaning::Closed => {
                let lease = watched.lease();
                watched.probe = Probe::None;
                if let Some(lease) = lease {
                    self.tell_verdict(id, lease, ProbeVerdict::Well).await;
                }
            }
            Meaning::Ours => {
                let lease = watched.lease();
                watched.probe = Probe::None;
                self.give_back(id, lease).await;
            }
        }
    }

    fn on_news(&mut self, news: CircuitNews) {
        let Some(watched) = self.circuits.get_mut(&news.circuit).filter(|_| news.process != self.process) else {
            return;
        };
        match news.votes {
            Some(votes) => watched.hear(votes),
            None => watched.circuit.close(),
        }
    }

    async fn on_given(&mut self) {
        for Given { circuit, order, at: given } in self.given.take() {
            let id = self.watch(circuit);
            if let Some(watched) = self.circuits.get_mut(&id) {
                let known = watched.order.map_or(0, |order| order.number);
                watched.owes_order = Some(GivenOrder { order, given, id: Token::random(), known });
            }
            self.tell_order(id).await;
        }
    }

    /// Also of those that this process has given: another may have been given before it came to Redis.
    fn on_order_news(&mut self, news: OrderNews) {
        if let Some(watched) = self.circuits.get_mut(&news.circuit) {
            watched.hear_order(&news);
        }
    }

    async fn tell_order(&mut self, id: CircuitId) {
        let Some(order) = self.circuits.get(&id).and_then(|watched| watched.owes_order) else { return };
        let told = self.backend.order(id, self.process, order).await;
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        match told {
            Ok(held) => {
                watched.owes_order = None;
                watched.obey(held.order, held.age);
            }
            Err(_) => watched.look_at = watched.look_at.min(Instant::now() + LOOK_OPEN),
        }
    }

    /// Obeys the order that holds. One that Redis has forgotten is told again.
    async fn on_held_order(&mut self, id: CircuitId, held: Option<HeldOrder>) {
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        if held.is_some_and(|held| watched.obey(held.order, held.age)) {
            return;
        }
        let Some(own) = watched.order else { return };
        if held.is_none_or(|held| held.order.number < own.number) {
            let told = self.backend.order_again(id, self.process, own).await;
            if let (Ok(held), Some(watched)) = (told, self.circuits.get_mut(&id)) {
                watched.obey(held.order, held.age);
            }
        }
    }

    /// Asks for the lease of a probe that is due, or gives one back that is of no use.
    async fn probe(&mut self, id: CircuitId, now: Instant) {
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        match &watched.probe {
            Probe::Held { ask_at, refused, .. } if *ask_at <= now => {
                if refused.is_some_and(|refused| watched.refused() <= refused) {
                    watched.ask_in(jittered(ASK_EVERY));
                    return;
                }
            }
            Probe::Ours { lease, is_sure, give_back_at: Some(at) } if *at <= now => {
                let lease = *lease;
                if *is_sure {
                    watched.hold_until_called(jittered(NO_CALL));
                } else {
                    watched.probe = Probe::None;
                }
                self.give_back(id, Some(lease)).await;
                return;
            }
            _ => return,
        }
        let lease = watched.lease_to_ask_for();
        let asked = self.backend.probe(id, lease, PROBE_LEASE).await;
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        // The hold ends: the next call is the probe.
        let ours = |is_sure| Probe::Ours { lease, is_sure, give_back_at: Some(now + NO_CALL) };
        match asked {
            Ok(ProbeLease::Granted { unanswered }) => {
                watched.circuit.note_unanswered(unanswered);
                watched.probe = ours(true);
            }
            Ok(ProbeLease::Wait(wait)) => {
                // Another tests it, or gives that up.
                watched.ask_in(jittered(wait.clamp(SHORTEST_WAIT, ASK_EVERY)));
            }
            // Each goes on by itself. It may have the lease all the same.
            Err(_) => watched.probe = ours(false),
        }
    }

    /// Another process may test the upstream.
    async fn give_back(&mut self, id: CircuitId, lease: Option<Token>) {
        if let Some(lease) = lease {
            self.tell_verdict(id, lease, ProbeVerdict::GivenBack).await;
        }
    }

    /// Says what came of a probe; where that is lost, again later. Returns whether it is known, and counts.
    async fn tell_verdict(&mut self, id: CircuitId, lease: Token, verdict: ProbeVerdict) -> bool {
        let told = self.backend.verdict(id, lease, self.process, verdict, ACTIVE).await;
        let Some(watched) = self.circuits.get_mut(&id) else { return false };
        match told {
            // The lease has ended, with this or before it.
            Ok(counts) => {
                watched.owes_verdict = None;
                counts
            }
            Err(_) => {
                watched.owe_verdict(lease, verdict);
                false
            }
        }
    }

    async fn vote(&mut self, id: CircuitId, open_for: Duration) {
        let is_lost = self.backend.vote(id, self.process, open_for, ACTIVE).await.is_err();
        if let Some(watched) = self.circuits.get_mut(&id) {
            watched.owes_vote = is_lost;
        }
    }

    /// Votes again where the vote was lost, while it holds.
    async fn make_up_for_vote(&mut self, id: CircuitId) {
        let Some(watched) = self.circuits.get_mut(&id).filter(|watched| watched.owes_vote) else { return };
        let left = watched.circuit.handle().and_then(|handle| handle.snapshot().open_for);
        match left.filter(|left| !left.is_zero()) {
            Some(left) => self.vote(id, left).await,
            None => watched.owes_vote = false,
        }
    }

    /// Asks what the fleet says of these circuits.
    async fn look(&mut self, circuits: &[CircuitId]) {
        for id in circuits {
            self.make_up(*id).await;
        }
        for circuits in circuits.chunks(MOST_ASKED) {
            let mut asked = JoinSet::new();
            for id in circuits.iter().copied() {
                let (backend, process) = (self.backend.clone(), self.process);
                // At once: what is open is known after one round trip.
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

    /// Tells the fleet what could not be told.
    async fn make_up(&mut self, id: CircuitId) {
        if let Some((lease, verdict)) = self.circuits.get(&id).and_then(|watched| watched.owes_verdict) {
            self.tell_verdict(id, lease, verdict).await;
        }
        self.make_up_for_vote(id).await;
        self.tell_order(id).await;
    }

    fn on_votes(&mut self, id: CircuitId, votes: Option<Votes>) {
        let Some(watched) = self.circuits.get_mut(&id) else { return };
        let every = if watched.is_closed() { LOOK_CLOSED } else { LOOK_OPEN };
        let wait = if watched.owes_verdict.is_some() { LOOK_OWED } else { jittered(every) };
        watched.look_at = Instant::now() + wait;
        match votes {
            Some(votes) if !votes.open_for.is_zero() => watched.hear(votes),
            // The fleet is about to test it.
            Some(votes) if votes.votes > 0 && watched.is_closed() => {
                watched.hear(Votes { open_for: ABOUT_TO_TEST, ..votes });
            }
            // No process finds it failing any more: this one has missed that it is well, or may test it itself.
            Some(votes) if votes.votes == 0 => watched.ask_now(),
            _ => {}
        }
    }
}
