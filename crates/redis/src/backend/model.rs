//! The engine in memory, with the arithmetic of the scripts.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tower_buttress::store::{Fingerprint, TenantHash};

use super::circuits::{CircuitGroup, CircuitId};
use super::conversations::MOST_REMEMBERED;
use super::conversations::model::Shares;
use super::held_circuit::HeldCircuit;
use super::redis::whole_millis;
use super::{BackendError, Flight, FlightState, Offered, Process, Subscription, Token};
use crate::client::subscriptions::{Delivery, Publisher};

/// Redis in memory, on tokio's clock, for tests of a fleet within one process. Clones are the same engine and share
/// one connection to it.
///
/// A property test compares it with the scripts on a real Redis.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use tower_buttress::store::suite;
/// use tower_buttress_redis::{RedisModel, RedisStore};
///
/// suite::run_shared(|| {
///     let model = RedisModel::new();
///     (RedisStore::new(model.clone()), RedisStore::new(model))
/// })
/// .await;
/// # }
/// ```
#[derive(Clone, Default)]
pub struct RedisModel {
    state: Arc<Mutex<State>>,
    connection: Arc<Connection>,
}

/// The content of a [`RedisModel`] at a moment, such as that of a replica that lags behind.
#[derive(Clone)]
pub struct Checkpoint(State);

/// What counts in one tenant's quota of answers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counted {
    /// The tenant.
    pub tenant: Fingerprint,
    /// What counts for kept answers.
    pub kept: u64,
    /// What those answers take. After the clock has gone back some may expire earlier than they are counted.
    pub taken: u64,
    /// What counts for the logs of calls in flight.
    pub in_flight: u64,
}

#[derive(Debug, Default)]
struct Connection {
    is_cut: AtomicBool,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) flights: HashMap<Fingerprint, Expiring<Meta>>,
    pub(super) logs: HashMap<Flight, Expiring<BytesMut>>,
    /// The bytes of kept answers per tenant, by expiry.
    pub(super) kept: HashMap<Fingerprint, Vec<(u64, Instant)>>,
    /// The bytes of logs in flight per tenant, and their expiry.
    pub(super) shared: HashMap<Fingerprint, HashMap<Token, (u64, Instant)>>,
    pub(super) offers: HashMap<Fingerprint, Expiring<Offer>>,
    /// Last good answers, the latest per normal form, and their bytes per tenant by expiry.
    pub(super) answers: HashMap<Fingerprint, Expiring<StaleAnswer>>,
    pub(super) normal: HashMap<Fingerprint, Expiring<Fingerprint>>,
    pub(super) answered: HashMap<Fingerprint, Vec<(u64, Instant)>>,
    pub(super) circuits: HashMap<CircuitId, HeldCircuit>,
    /// The end of each limit's pause, and whether one call probes then.
    pub(super) pauses: HashMap<Fingerprint, (Lasting, bool)>,
    pub(super) rates: HashMap<(Fingerprint, String), Lasting>,
    /// The wait that was granted to a request, with the expiry of that record.
    pub(super) requests: HashMap<Token, (Lasting, Instant)>,
    pub(super) processes: HashMap<Process, Instant>,
    pub(super) conversations: HashMap<Fingerprint, Conversation>,
    /// The conversations of each tenant.
    pub(super) spoken: Shares,
    channels: HashMap<Channel, Vec<(Publisher, Arc<Connection>)>>,
    is_unreachable: bool,
    operations: u64,
    /// How far its clock is ahead of the processes', and how far it has gone back.
    ahead: Duration,
    behind: Duration,
    /// The start of its millisecond count.
    epoch: Epoch,
}

#[derive(Clone, Copy)]
struct Epoch(Instant);

#[derive(Clone)]
pub(super) struct Expiring<T> {
    pub(super) value: T,
    pub(super) until: Instant,
}

#[derive(Clone)]
pub(super) struct Offer {
    pub(super) offered: Offered,
    pub(super) offered_at: Instant,
    pub(super) owner: Option<TenantHash>,
}

/// A last good answer.
#[derive(Clone)]
pub(super) struct StaleAnswer {
    pub(super) bytes: Bytes,
    /// Its age, and when it had that age.
    pub(super) age: Duration,
    pub(super) since: Instant,
    pub(super) owner: Option<TenantHash>,
    pub(super) quota: Quota,
}

/// What an answer takes of its tenant's quota beside its bytes: Redis's memory for its keys.
pub(super) const ENTRY_BYTES: u64 = 512;

/// What an answer takes of its tenant's quota.
#[derive(Clone, Copy)]
pub(super) struct Quota {
    pub(super) tenant: Fingerprint,
    pub(super) bytes: u64,
    pub(super) until: Instant,
}

#[derive(Clone, Copy)]
pub(super) struct Meta {
    pub(super) payload: Fingerprint,
    pub(super) token: Token,
    pub(super) state: FlightState,
    pub(super) owner: Process,
    pub(super) begun: Instant,
    /// Set for kept answers.
    pub(super) tenant: Option<TenantHash>,
    pub(super) quota: Option<Quota>,
    /// How long it is held.
    pub(super) lasts: Duration,
}

/// A time that comes no later than planned, even if the clock has gone back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting {
    pub(super) at: Instant,
    noted: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Channel {
    Flight(Flight),
    Inbox(Process),
    Circuits(CircuitGroup),
    Pauses,
    Conversations,
    Forgotten,
}

/// The newest message of a conversation, and the superseded ones.
#[derive(Clone)]
pub(super) struct Conversation {
    pub(super) number: u64,
    pub(super) newest: Option<Fingerprint>,
    /// Whether the newest was answered; then the next does not supersede it.
    pub(super) is_answered: bool,
    /// When the newest came.
    pub(super) came: Option<Instant>,
    pub(super) superseded: Vec<(Fingerprint, Instant)>,
    pub(super) until: Instant,
}

/// What its clock shows at `epoch`: ten days, so that orders and messages may be older than the model.
const EPOCH_MILLIS: u64 = 10 * 24 * 60 * 60 * 1000;

// === impl Conversation ===

impl Conversation {
    pub(super) fn new(now: Instant) -> Self {
        Self { number: 0, newest: None, is_answered: false, came: None, superseded: Vec::new(), until: now }
    }

    pub(super) fn supersede(&mut self, payload: Fingerprint, now: Instant) {
        self.superseded.push((payload, now));
        let first = self.superseded.len().saturating_sub(MOST_REMEMBERED);
        self.superseded.drain(..first);
    }

    pub(super) fn payloads(&self) -> Vec<Fingerprint> {
        self.superseded.iter().map(|(payload, _)| *payload).collect()
    }
}

// === impl Quota ===

impl Quota {
    pub(super) fn give_back(&self, used: &mut HashMap<Fingerprint, Vec<(u64, Instant)>>) {
        let Some(used) = used.get_mut(&self.tenant) else { return };
        if let Some(at) = used.iter().position(|entry| *entry == (self.bytes, self.until)) {
            used.swap_remove(at);
        }
    }
}

// === impl Lasting ===

impl Lasting {
    pub(super) fn until(at: Instant, now: Instant) -> Self {
        Self { at, noted: now }
    }

    /// The time left until then.
    pub(super) fn left(&mut self, now: Instant) -> Duration {
        let back = self.noted.saturating_duration_since(now);
        if !back.is_zero() {
            (self.at, self.noted) = (now + (self.at - self.noted), now);
        }
        self.at.saturating_duration_since(now)
    }
}

// === impl RedisModel ===

impl RedisModel {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the engine is reachable. While it is not, operations have no effect and nothing is received; later
    /// messages begin with a gap.
    pub fn set_reachable(&self, reachable: bool) {
        let mut state = self.lock();
        if state.is_unreachable == reachable {
            state.is_unreachable = !reachable;
            state.publish_gap();
        }
    }

    /// Another connection to the same engine, as of another process: see [`set_connected`](Self::set_connected).
    #[must_use]
    pub fn connection(&self) -> Self {
        Self { state: self.state.clone(), connection: Arc::default() }
    }

    /// Sets whether this connection reaches the engine. While it does not, operations have no effect, nothing is
    /// received, and senders do not count this process as a receiver; later messages begin with a gap.
    pub fn set_connected(&self, connected: bool) {
        let state = self.lock();
        if self.connection.is_cut.swap(!connected, Relaxed) == connected {
            let publishers = state.channels.values().flatten();
            publishers.filter(|(_, connection)| Arc::ptr_eq(connection, &self.connection)).for_each(
                |(publisher, _)| {
                    publisher.send(Delivery::Gap);
                },
            );
        }
    }

    /// The current content.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint(self.lock().clone())
    }

    /// Loses everything written since `replica`, as a failover to a lagging replica. Subscribers receive a gap.
    pub fn fail_over(&self, replica: Checkpoint) {
        let mut state = self.lock();
        let State { channels, is_unreachable, operations, ahead, behind, .. } = std::mem::take(&mut *state);
        *state = State { channels, is_unreachable, operations, ahead, behind, ..replica.0 };
        state.publish_gap();
    }

    /// Sets its clock forward: everything it holds for a time expires earlier.
    pub fn jump(&self, forward: Duration) {
        self.lock().ahead += forward;
    }

    /// Sets its clock back, as a failover to a machine whose clock is behind: everything it holds for a time would
    /// last longer.
    pub fn jump_back(&self, back: Duration) {
        let mut state = self.lock();
        state.expire();
        state.behind += back;
    }

    /// The number of flights, logs and last good answers.
    #[must_use]
    pub fn held(&self) -> usize {
        let state = self.lock();
        let now = state.now();
        let flights = state.flights.values().filter(|meta| meta.until > now).count();
        let answers = state.answers.values().filter(|answer| answer.until > now).count();
        flights + answers + state.logs.values().filter(|log| log.until > now).count()
    }

    /// What counts for each tenant whose answers are kept or in flight.
    #[must_use]
    pub fn counted(&self) -> Vec<Counted> {
        let mut state = self.lock();
        state.expire();
        let (now, State { flights, logs, kept, shared, .. }) = (state.now(), &*state);
        let mut tenants: Vec<Fingerprint> = kept.keys().chain(shared.keys()).copied().collect();
        let quotas = flights.iter().filter_map(|(key, meta)| Some((*key, meta.value.token, meta.value.quota?.tenant)));
        tenants.extend(quotas.clone().map(|(_, _, tenant)| tenant));
        tenants.sort_by_key(|tenant| *tenant.as_bytes());
        tenants.dedup();
        let sum = |tenant: Fingerprint| {
            let log = |key, token| logs.get(&Flight { key, token }).map_or(0, |log| log.value.len()) as u64;
            let theirs = quotas.clone().filter(|(_, _, of)| *of == tenant);
            let counts = kept.get(&tenant).into_iter().flatten().filter(|(_, until)| *until > now);
            Counted {
                tenant,
                kept: counts.map(|(bytes, _)| bytes).sum(),
                taken: theirs.map(|(key, token, _)| log(key, token) + ENTRY_BYTES).sum(),
                in_flight: shared.get(&tenant).into_iter().flatten().map(|(_, (bytes, _))| bytes).sum(),
            }
        };
        tenants.into_iter().map(sum).collect()
    }

    /// Loses everything, as a restarted Redis. Subscribers receive a gap.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.flights.clear();
        state.logs.clear();
        state.kept.clear();
        state.shared.clear();
        state.offers.clear();
        state.answers.clear();
        state.normal.clear();
        state.answered.clear();
        state.circuits.clear();
        state.pauses.clear();
        state.rates.clear();
        state.requests.clear();
        state.processes.clear();
        state.conversations.clear();
        state.spoken.clear();
        state.publish_gap();
    }

    /// The number of operations so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reach(&self) -> Result<MutexGuard<'_, State>, BackendError> {
        let mut state = self.lock();
        if state.is_unreachable || self.connection.is_cut.load(Relaxed) {
            return Err(BackendError::Unreachable);
        }
        state.operations += 1;
        state.expire();
        Ok(state)
    }

    pub(super) fn subscribe(&self, channel: Channel) -> Result<Subscription, BackendError> {
        let (publisher, subscription) = Subscription::new();
        self.reach()?.channels.entry(channel).or_default().push((publisher, self.connection.clone()));
        Ok(subscription)
    }
}

impl fmt::Debug for RedisModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("RedisModel")
            .field("flights", &state.flights.len())
            .field("logs", &state.logs.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").finish_non_exhaustive()
    }
}

// === impl Epoch ===

impl Default for Epoch {
    fn default() -> Self {
        Self(Instant::now())
    }
}

// === impl State ===

impl State {
    pub(super) fn now(&self) -> Instant {
        let ahead = Instant::now() + self.ahead;
        ahead.checked_sub(self.behind).unwrap_or(ahead)
    }

    /// Drops expired keys.
    fn expire(&mut self) {
        let now = self.now();
        self.flights.retain(|_, meta| meta.until > now);
        self.logs.retain(|_, log| log.until > now);
        self.shared.values_mut().for_each(|logs| logs.retain(|_, (_, until)| *until > now));
        self.shared.retain(|_, logs| !logs.is_empty());
        self.offers.retain(|_, offer| offer.until > now);
        self.answers.retain(|_, answer| answer.until > now);
        self.normal.retain(|_, exact| exact.until > now);
        self.pauses.retain(|_, (paused, _)| paused.at > now);
        self.rates.retain(|_, taken| taken.at > now);
        self.requests.retain(|_, (_, until)| *until > now);
        if self.processes.values().all(|until| *until <= now) {
            self.processes.clear();
        }
        for of_tenants in [&mut self.kept, &mut self.answered] {
            of_tenants.retain(|_, bytes| bytes.iter().any(|(_, until)| *until > now));
        }
        for fleet in self.circuits.values_mut() {
            fleet.forget(now);
            fleet.expire_sets(now);
        }
    }

    /// The time on its clock, in milliseconds.
    pub(super) fn millis(&self) -> u64 {
        let (now, epoch) = (self.now(), self.epoch.0);
        let before = whole_millis(epoch.saturating_duration_since(now));
        (whole_millis(now.saturating_duration_since(epoch)) + EPOCH_MILLIS).saturating_sub(before)
    }

    /// Deletes the data of an owner, or of all. Returns the number of keys.
    pub(super) fn forget(&mut self, owner: Option<TenantHash>) -> u64 {
        let is_theirs = |theirs: Option<TenantHash>| owner.is_none() || theirs == owner;
        let before = self.flights.len() + self.answers.len() + self.offers.len();
        let State { flights, logs, answers, offers, kept, answered, .. } = self;
        flights.retain(|key, Expiring { value, .. }| {
            let stays = value.state != FlightState::Kept || !is_theirs(value.tenant);
            if !stays {
                value.quota.iter().for_each(|quota| quota.give_back(kept));
                logs.remove(&Flight { key: *key, token: value.token });
            }
            stays
        });
        answers.retain(|_, answer| {
            let stays = !is_theirs(answer.value.owner);
            if !stays {
                answer.value.quota.give_back(answered);
            }
            stays
        });
        offers.retain(|_, offer| !offer.value.offered.has_ended || !is_theirs(offer.value.owner));
        (before - self.flights.len() - self.answers.len() - self.offers.len()) as u64
    }

    /// Whether any process listens to a channel.
    pub(super) fn has_subscriber(&self, channel: Channel) -> bool {
        let mut publishers = self.channels.get(&channel).into_iter().flatten();
        publishers.any(|(publisher, connection)| publisher.has_subscriber() && !connection.is_cut.load(Relaxed))
    }

    fn publish_gap(&self) {
        self.channels.values().flatten().for_each(|(publisher, _)| {
            publisher.send(Delivery::Gap);
        });
    }

    pub(super) fn publish(&mut self, channel: Channel, message: &Bytes) -> u64 {
        let Some(publishers) = self.channels.get_mut(&channel) else { return 0 };
        publishers.retain(|(publisher, _)| publisher.has_subscriber());
        let reached = publishers.iter().filter(|(_, connection)| !connection.is_cut.load(Relaxed));
        reached.filter(|(publisher, _)| publisher.send(Delivery::Message(message.clone()))).count() as u64
    }
}
