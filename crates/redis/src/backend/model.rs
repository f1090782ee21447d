//! The engine in memory: the same arithmetic as that of the scripts.

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
use super::fleet::Fleet;
use super::names::{Want, encode_want};
use super::redis::whole_millis;
use super::{
    Appended, Ask, Backend, BackendError, ClaimArgs, Claimed, FORSAKEN, Flight, FlightState, Offered, Outcome, Piece,
    Process, Settled, Subscription, Token,
};
use crate::client::subscriptions::{Heard, Hearer};

/// What Redis does, in memory and by tokio's clock: for tests of a fleet within one process. Clones are the same engine, and
/// one connection to it.
///
/// A property test holds it equal to the scripts on a real Redis.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use tower_buttress::store::suite;
/// use tower_buttress_redis::{Model, RedisStore};
///
/// suite::run_shared(|| {
///     let model = Model::new();
///     (RedisStore::new(model.clone()), RedisStore::new(model))
/// })
/// .await;
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Model {
    state: Arc<Mutex<State>>,
    connection: Arc<Connection>,
}

/// What a [`Model`] held at a moment: what a replica holds that is behind.
#[derive(Clone)]
pub struct Checkpoint(State);

#[derive(Debug, Default)]
struct Connection {
    is_cut: AtomicBool,
}

#[derive(Clone, Default)]
pub(super) struct State {
    flights: HashMap<Fingerprint, Expiring<Meta>>,
    logs: HashMap<Flight, Expiring<BytesMut>>,
    /// How many bytes of kept answers each tenant has, and until when.
    kept: HashMap<Fingerprint, Vec<(u64, Instant)>>,
    offers: HashMap<Fingerprint, Expiring<Offer>>,
    /// Last good answers, those of a normal form, and how many bytes of them each tenant has, and until when.
    pub(super) answers: HashMap<Fingerprint, Expiring<StaleAnswer>>,
    pub(super) normal: HashMap<Fingerprint, Expiring<Fingerprint>>,
    pub(super) answered: HashMap<Fingerprint, Vec<(u64, Instant)>>,
    pub(super) circuits: HashMap<CircuitId, Fleet>,
    pub(super) pauses: HashMap<Fingerprint, Instant>,
    pub(super) rates: HashMap<(Fingerprint, String), Instant>,
    /// Until when a call was to wait that took its turn, and until when that is known.
    pub(super) requests: HashMap<Token, (Instant, Instant)>,
    pub(super) processes: HashMap<Process, Instant>,
    pub(super) conversations: HashMap<Fingerprint, Conversation>,
    channels: HashMap<Channel, Vec<(Hearer, Arc<Connection>)>>,
    is_unreachable: bool,
    operations: u64,
    /// How far its clock is ahead of those of the processes.
    ahead: Duration,
    /// From when on it counts the milliseconds.
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
struct Offer {
    offered: Offered,
    told: Instant,
    owner: Option<TenantHash>,
}

/// A last good answer.
#[derive(Clone)]
pub(super) struct StaleAnswer {
    pub(super) bytes: Bytes,
    /// How old it was, and as of when.
    pub(super) age: Duration,
    pub(super) since: Instant,
    pub(super) owner: Option<TenantHash>,
}

#[derive(Clone, Copy)]
struct Meta {
    payload: Fingerprint,
    token: Token,
    state: FlightState,
    owner: Process,
    begun: Instant,
    /// Of a kept one.
    tenant: Option<TenantHash>,
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

/// The newest message of a conversation, and those that were superseded.
#[derive(Clone)]
pub(super) struct Conversation {
    pub(super) number: u64,
    pub(super) newest: Option<Fingerprint>,
    /// The newest was, and is not superseded by the next one.
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

// === impl Model ===

impl Model {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it can be reached. While it cannot, no operation has an effect, and nothing is heard; what is heard later
    /// begins with a gap.
    pub fn set_reachable(&self, reachable: bool) {
        let mut state = self.lock();
        if state.is_unreachable == reachable {
            state.is_unreachable = !reachable;
            state.tell_gap();
        }
    }

    /// Another connection to the same engine, for a process of its own: see [`set_connected`](Self::set_connected).
    #[must_use]
    pub fn connection(&self) -> Self {
        Self { state: self.state.clone(), connection: Arc::default() }
    }

    /// Whether the engine can be reached over this connection. While it cannot, no operation has an effect, nothing is
    /// heard, and those who are told something do not count this process; what is heard later begins with a gap.
    pub fn set_connected(&self, connected: bool) {
        let state = self.lock();
        if self.connection.is_cut.swap(!connected, Relaxed) == connected {
            let hearers = state.channels.values().flatten();
            hearers.filter(|(_, connection)| Arc::ptr_eq(connection, &self.connection)).for_each(|(hearer, _)| {
                hearer.tell(Heard::Gap);
            });
        }
    }

    /// What it holds now.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint(self.lock().clone())
    }

    /// Loses what was written since, as a failover to a replica that was behind. Those who listen hear a gap.
    pub fn fail_over(&self, replica: Checkpoint) {
        let mut state = self.lock();
        let State { channels, is_unreachable, operations, ahead, .. } = std::mem::take(&mut *state);
        *state = State { channels, is_unreachable, operations, ahead, ..replica.0 };
        state.tell_gap();
    }

    /// Sets its clock forward: what it holds for a time is held for less.
    pub fn jump(&self, forward: Duration) {
        self.lock().ahead += forward;
    }

    /// How many flights, logs and last good answers it holds.
    #[must_use]
    pub fn held(&self) -> usize {
        let state = self.lock();
        let now = state.now();
        let flights = state.flights.values().filter(|meta| meta.until > now).count();
        let answers = state.answers.values().filter(|answer| answer.until > now).count();
        flights + answers + state.logs.values().filter(|log| log.until > now).count()
    }

    /// Forgets everything, as a Redis that was restarted. Those who listen hear a gap.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.flights.clear();
        state.logs.clear();
        state.kept.clear();
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
        state.tell_gap();
    }

    /// How many operations there have been.
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
        let now = state.now();
        state.flights.retain(|_, meta| meta.until > now);
        state.logs.retain(|_, log| log.until > now);
        state.offers.retain(|_, offer| offer.until > now);
        state.answers.retain(|_, answer| answer.until > now);
        state.normal.retain(|_, exact| exact.until > now);
        Ok(state)
    }

    pub(super) fn subscribe(&self, channel: Channel) -> Result<Subscription, BackendError> {
        let (hearer, subscription) = Subscription::new();
        self.reach()?.channels.entry(channel).or_default().push((hearer, self.connection.clone()));
        Ok(subscription)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Model")
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

impl Backend for Model {
    async fn claim(&self, claim: ClaimArgs) -> Result<Claimed, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let Some(Expiring { value: meta, until }) = state.flights.get(&claim.key) else {
            let ClaimArgs { key, payload, token, owner, lease } = claim;
            let meta = Meta { payload, token, state: FlightState::InFlight, owner, begun: now, tenant: None };
            state.flights.insert(key, Expiring { value: meta, until: now + lease });
            return Ok(Claimed::Lead);
        };
        let same_payload = meta.payload == claim.payload;
        if same_payload && meta.token == claim.token && meta.state != FlightState::Kept {
            return Ok(Claimed::Lead);
        }
        // As the script, which does not say what became of a flight with another payload but whether it is kept.
        let state = if same_payload || meta.state == FlightState::Kept { meta.state } else { FlightState::InFlight };
        Ok(Claimed::Taken {
            state,
            same_payload,
            token: meta.token,
            owner: meta.owner,
            age: now.saturating_duration_since(meta.begun),
            ttl: until.saturating_duration_since(now),
        })
    }

    async fn renew(&self, flight: Flight, lease: Duration) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let until = state.now() + lease;
        let Some(meta) = state.open(&flight) else { return Ok(false) };
        meta.until = until;
        Ok(true)
    }

    async fn outgrow(&self, flight: Flight) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let Some(meta) = state.open(&flight) else { return Ok(false) };
        meta.value.state = FlightState::Outgrown;
        Ok(true)
    }

    async fn append(&self, flight: Flight, offset: u64, bytes: Bytes, ttl: Duration) -> Result<Appended, BackendError> {
        let mut state = self.reach()?;
        let length = state.logs.get(&flight).map_or(0, |log| log.value.len());
        let Some(at) = usize::try_from(offset).ok().filter(|at| *at <= length) else {
            return Ok(Appended::Rewind { length: length as u64 });
        };
        let until = state.now() + ttl;
        if !bytes.is_empty() {
            let log = state.logs.entry(flight).or_insert_with(|| Expiring { value: BytesMut::new(), until });
            let end = at + bytes.len();
            if log.value.len() < end {
                log.value.resize(end, 0);
            }
            log.value[at..end].copy_from_slice(&bytes);
        }
        if let Some(log) = state.logs.get_mut(&flight) {
            log.until = log.until.max(until);
        }
        let message = [&Piece::header(offset)[..], &bytes].concat().into();
        Ok(Appended::Written { receivers: state.publish(Channel::Flight(flight), &message) })
    }

    async fn settle(&self, flight: Flight, outcome: Outcome) -> Result<Settled, BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        let State { flights, logs, kept, .. } = &mut *state;
        let length = logs.get(&flight).map_or(0, |log| log.value.len()) as u64;
        let Some(meta) = flights.get_mut(&flight.key).filter(|meta| meta.value.token == flight.token) else {
            return Ok(Settled::Lost);
        };
        match outcome {
            Outcome::Free if meta.value.state == FlightState::Kept => return Ok(Settled::Lost),
            Outcome::Keep { .. } if meta.value.state == FlightState::Kept => return Ok(Settled::Done),
            Outcome::Free => {
                flights.remove(&flight.key);
            }
            Outcome::Keep { length: whole, .. } if whole != length => return Ok(Settled::NotWhole),
            Outcome::Keep { window, tenant, tenant_bytes, owner, .. } => {
                let kept = kept.entry(tenant).or_default();
                kept.retain(|(_, until)| *until > now);
                if kept.iter().map(|(bytes, _)| bytes).sum::<u64>() + length > tenant_bytes {
                    return Ok(Settled::NoRoom);
                }
                kept.push((length, now + window));
                meta.value.state = FlightState::Kept;
                meta.value.tenant = owner;
                meta.until = now + window;
                if let Some(log) = logs.get_mut(&flight) {
                    log.until = now + window;
                }
            }
        }
        Ok(Settled::Done)
    }

    async fn discard(&self, flight: Flight) -> Result<bool, BackendError> {
        let mut state = self.reach()?;
        let is_kept = |meta: &Expiring<Meta>| meta.value.token == flight.token && meta.value.state == FlightState::Kept;
        let found = state.flights.get(&flight.key).is_some_and(is_kept);
        if found {
            state.flights.remove(&flight.key);
            state.logs.remove(&flight);
        }
        Ok(found)
    }

    async fn read(&self, flight: Flight, offset: u64, max: usize) -> Result<Bytes, BackendError> {
        let state = self.reach()?;
        let Some(log) = state.logs.get(&flight) else { return Ok(Bytes::new()) };
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(log.value.len());
        let end = begin.saturating_add(max).min(log.value.len());
        Ok(Bytes::copy_from_slice(&log.value[begin..end]))
    }

    async fn holder(&self, key: Fingerprint) -> Result<Option<Token>, BackendError> {
        Ok(self.reach()?.flights.get(&key).map(|meta| meta.value.token))
    }

    async fn want(&self, process: Process, want: Want) -> Result<u64, BackendError> {
        Ok(self.reach()?.publish(Channel::Inbox(process), &encode_want(want)))
    }

    async fn forsake(&self, flight: Flight) -> Result<u64, BackendError> {
        let message = Bytes::copy_from_slice(&Piece::header(FORSAKEN));
        Ok(self.reach()?.publish(Channel::Flight(flight), &message))
    }

    async fn mark(&self, flight: Flight, length: u64) -> Result<u64, BackendError> {
        Ok(self.reach()?.publish(Channel::Flight(flight), &Piece::caught_up(length)))
    }

    async fn offer(
        &self,
        token: Fingerprint,
        offered: Offered,
        owner: Option<TenantHash>,
        ttl: Duration,
    ) -> Result<(), BackendError> {
        let mut state = self.reach()?;
        let now = state.now();
        state.offers.insert(token, Expiring { value: Offer { offered, told: now, owner }, until: now + ttl });
        Ok(())
    }

    async fn offered(&self, token: Fingerprint) -> Result<Option<Offered>, BackendError> {
        let state = self.reach()?;
        Ok(state.offers.get(&token).map(|offer| {
            let Offer { offered, told, .. } = offer.value;
            Offered { age: offered.age + state.now().saturating_duration_since(told), ..offered }
        }))
    }

    async fn withdraw(&self, token: Fingerprint) -> Result<(), BackendError> {
        self.reach()?.offers.remove(&token);
        Ok(())
    }

    async fn ask(&self, process: Process, ask: Ask) -> Result<u64, BackendError> {
        Ok(self.reach()?.publish(Channel::Inbox(process), &ask.encode()))
    }

    async fn listen(&self, flight: Flight) -> Result<Subscription, BackendError> {
        self.subscribe(Channel::Flight(flight))
    }

    async fn inbox(&self, process: Process) -> Result<Subscription, BackendError> {
        self.subscribe(Channel::Inbox(process))
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
        Instant::now() + self.ahead
    }

    /// What its clock shows, in milliseconds.
    pub(super) fn millis(&self) -> u64 {
        whole_millis(self.now().saturating_duration_since(self.epoch.0)) + EPOCH_MILLIS
    }

    /// Forgets what is kept of an owner, or of all. Returns how many keys those were.
    pub(super) fn forget(&mut self, owner: Option<TenantHash>) -> u64 {
        let is_theirs = |theirs: Option<TenantHash>| owner.is_none() || theirs == owner;
        let before = self.flights.len() + self.answers.len() + self.offers.len();
        let State { flights, logs, answers, offers, .. } = self;
        flights.retain(|key, Expiring { value, .. }| {
            let stays = value.state != FlightState::Kept || !is_theirs(value.tenant);
            if !stays {
                logs.remove(&Flight { key: *key, token: value.token });
            }
            stays
        });
        answers.retain(|_, answer| !is_theirs(answer.value.owner));
        offers.retain(|_, offer| !offer.value.offered.has_ended || !is_theirs(offer.value.owner));
        (before - self.flights.len() - self.answers.len() - self.offers.len()) as u64
    }

    fn tell_gap(&self) {
        self.channels.values().flatten().for_each(|(hearer, _)| {
            hearer.tell(Heard::Gap);
        });
    }

    /// The flight, while its lease holds and its answer is not kept.
    fn open(&mut self, flight: &Flight) -> Option<&mut Expiring<Meta>> {
        let meta = self.flights.get_mut(&flight.key)?;
        (meta.value.token == flight.token && meta.value.state != FlightState::Kept).then_some(meta)
    }

    pub(super) fn publish(&mut self, channel: Channel, message: &Bytes) -> u64 {
        let Some(hearers) = self.channels.get_mut(&channel) else { return 0 };
        hearers.retain(|(hearer, _)| hearer.is_heard());
        let reached = hearers.iter().filter(|(_, connection)| !connection.is_cut.load(Relaxed));
        reached.filter(|(hearer, _)| hearer.tell(Heard::Message(message.clone()))).count() as u64
    }
}
