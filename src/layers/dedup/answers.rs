//! The answers that callers come back to, each by the tokens that were given out for it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use super::resumable::Resumable;
use crate::call::{Reservation, TenantHash};
use crate::event::{Emitter, Event};
use crate::policy::unattended::{Limits, Unattended};
use crate::proto::event_stream::EventStream;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::sse::EventIds;
use crate::rt::clock;
use crate::rt::entropy::Secrets;
use crate::store::{AnswerOffer, AnswerOffers, OfferedAnswer, ResponseLog};

/// All of them, with the settings of those that are given out from here on.
pub(super) struct Answers {
    settings: Resumable,
    held: Arc<Held>,
}

/// What layers with different settings share.
struct Held {
    secrets: Secrets,
    table: Mutex<Table>,
}

struct Table {
    /// By the hash of the token: who reads this memory cannot come back to anything.
    tokens: HashMap<Fingerprint, u64>,
    answers: HashMap<u64, Kept>,
    expiring: BTreeSet<(Instant, u64)>,
    tenants: HashMap<Fingerprint, usize>,
    unattended: Unattended<Fingerprint>,
}

/// One answer, in flight or ended.
struct Kept {
    log: ResponseLog,
    tenant: Fingerprint,
    owner: Option<TenantHash>,
    bears_ids: bool,
    /// It is an event stream: callers are told where.
    is_offered: bool,
    tokens: Vec<Fingerprint>,
    /// Tells other processes where it is.
    offers: Option<Arc<dyn AnswerOffers>>,
    /// A place among the calls that nobody listens to is held for it.
    has_place: bool,
    ended: Option<Ended>,
}

struct Ended {
    expires: Instant,
    /// Counts what is held.
    _reservation: Option<Reservation>,
}

/// What is known of an answer before it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResumableRequest {
    /// Events may have ids.
    pub(super) bears_ids: bool,
    /// The caller would rather be told where the answer will be than wait for longer than this.
    pub(super) wait: Option<Duration>,
}

/// The answer to a call in flight, as its recorder has it. Dropped, the answer has ended.
pub(super) struct AnswerInFlight {
    answers: Arc<Answers>,
    number: u64,
    log: ResponseLog,
    tenant: Fingerprint,
    owner: Option<TenantHash>,
    request: ResumableRequest,
    offers: Option<Arc<dyn AnswerOffers>>,
    is_over: bool,
}

/// A place among the calls that nobody listens to.
pub(super) struct UnattendedPlace {
    answers: Arc<Answers>,
    tenant: Fingerprint,
}

/// Where an answer is.
pub(super) struct Issued {
    pub(super) location: HeaderValue,
    /// Writes the ids of its events, where they bear them.
    pub(super) ids: Option<EventIds>,
}

/// An answer that a token leads to.
pub(super) struct Found {
    pub(super) number: u64,
    pub(super) log: ResponseLog,
    pub(super) tenant: Fingerprint,
    pub(super) bears_ids: bool,
}

/// So many answers are held, whatever their size: small ones are not counted in the memory.
const MAX_ANSWERS: usize = 16 * 1024;
/// The part of them that one tenant may have.
const TENANT_SHARE: usize = 8;
/// So many callers of one answer are given a token.
const MAX_TOKENS: usize = 16;
/// 128 bits, in hexadecimal digits.
const TOKEN_LENGTH: usize = 32;

// === impl Answers ===

impl Answers {
    pub(super) fn new(settings: Resumable) -> Self {
        let table = Table {
            tokens: HashMap::new(),
            answers: HashMap::new(),
            expiring: BTreeSet::new(),
            tenants: HashMap::new(),
            unattended: Unattended::new(limits(&settings)),
        };
        let held = Held { secrets: Secrets::default(), table: Mutex::new(table) };
        Self { settings, held: Arc::new(held) }
    }

    /// The same answers with other settings. The limits are those of the last ones.
    pub(super) fn configured(&self, settings: Resumable) -> Self {
        self.table().unattended.set_limits(limits(&settings));
        Self { settings, held: self.held.clone() }
    }

    pub(super) fn settings(&self) -> &Resumable {
        &self.settings
    }

    /// The token in the path of a request, where it has the form of one.
    pub(super) fn token<'a>(&self, uri: &'a Uri) -> Option<&'a str> {
        let token = uri.path().strip_prefix(self.settings.prefix())?.strip_prefix('/')?;
        let is_token =
            token.len() == TOKEN_LENGTH && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_token.then_some(token)
    }

    /// A call is made whose answer may be come back to.
    pub(super) fn open(
        self: &Arc<Self>,
        log: &ResponseLog,
        (tenant, owner): (Fingerprint, Option<TenantHash>),
        request: ResumableRequest,
        offers: Option<Arc<dyn AnswerOffers>>,
    ) -> AnswerInFlight {
        let number = self.held.secrets.number();
        log.set_number(number);
        let (answers, log) = (self.clone(), log.clone());
        let answer = AnswerInFlight { answers, number, log, tenant, owner, request, offers, is_over: false };
        if request.wait.is_some() {
            // Its caller may be sent away before there is a head.
            answer.register(false);
        }
        answer
    }

    /// Gives out a token for an answer: `None` where it cannot be come back to.
    fn issue(self: &Arc<Self>, number: u64, emitter: &Emitter) -> Option<Issued> {
        let token = self.held.secrets.token();
        let mut table = self.table();
        let Table { tokens, answers, .. } = &mut *table;
        let kept = answers.get_mut(&number).filter(|kept| kept.tokens.len() < MAX_TOKENS)?;
        let hash = hash(&token);
        kept.tokens.push(hash);
        tokens.insert(hash, number);
        let ids = kept.ids(number);
        let offered =
            kept.offers.clone().map(|offers| (offers, OfferedAnswer::new(number, kept.tenant, kept.bears_ids)));
        drop(table);
        if let Some((offers, answer)) = offered {
            let (held, emitter) = (Arc::downgrade(&self.held), emitter.clone());
            let on_stop = move || {
                if let Some(held) = held.upgrade() {
                    held.stop(number, &emitter);
                }
            };
            let window = self.settings.window.min(LONGEST);
            offers.offer(AnswerOffer::new(hash, answer, window, Arc::new(on_stop)));
        }
        let mut location = HeaderValue::from_str(&format!("{}/{token}", self.settings.prefix())).ok()?;
        location.set_sensitive(true);
        Some(Issued { location, ids })
    }

    /// The same, once there is a head: for event streams.
    pub(super) fn issue_for_head(self: &Arc<Self>, number: u64, emitter: &Emitter) -> Option<Issued> {
        let is_offered = self.table().answers.get(&number).is_some_and(|kept| kept.is_offered);
        is_offered.then(|| self.issue(number, emitter)).flatten()
    }

    /// The same, where the caller is to be sent away: the call goes on when it leaves.
    pub(super) fn issue_and_go_on(self: &Arc<Self>, number: u64, emitter: &Emitter) -> Option<Issued> {
        let mut table = self.table();
        let Table { answers, unattended, .. } = &mut *table;
        let kept = answers.get_mut(&number).filter(|kept| kept.ended.is_none())?;
        if !kept.has_place {
            kept.has_place = unattended.enter(kept.tenant);
        }
        let has_place = kept.has_place;
        drop(table);
        has_place.then(|| self.issue(number, emitter)).flatten()
    }

    /// The answer that this token was given out for.
    pub(super) fn find(&self, token: &str, now: Instant) -> Option<Found> {
        let (mut table, mut expired) = (self.table(), Vec::new());
        table.remove_expired(now, &mut expired);
        let number = *table.tokens.get(&hash(token))?;
        let kept = table.answers.get(&number)?;
        let (log, tenant, bears_ids) = (kept.log.clone(), kept.tenant, kept.bears_ids);
        drop(table);
        Some(Found { number, log, tenant, bears_ids })
    }

    /// Ends the call, if it has not ended. No caller can come back to this answer any more.
    pub(super) fn stop(&self, number: u64, emitter: &Emitter) {
        self.held.stop(number, emitter);
    }

    /// Forgets the answers of this tenant that have ended, or of all. Returns how many there were.
    pub(super) fn forget(&self, owner: Option<TenantHash>) -> usize {
        let mut table = self.table();
        let is_theirs = |kept: &Kept| kept.ended.is_some() && owner.is_none_or(|owner| kept.owner == Some(owner));
        let numbers: Vec<_> = table.answers.iter().filter(|(_, kept)| is_theirs(kept)).map(|(nth, _)| *nth).collect();
        let forgotten: Vec<_> = numbers.into_iter().filter_map(|number| table.remove(number)).collect();
        drop(table);
        forgotten.iter().for_each(Kept::withdraw);
        forgotten.len()
    }

    /// The last listener has left a call: a place, if it may go on without one.
    pub(super) fn leave_unattended(self: &Arc<Self>, number: u64) -> Option<UnattendedPlace> {
        let mut table = self.table();
        let Table { answers, unattended, .. } = &mut *table;
        let kept = answers.get_mut(&number).filter(|kept| kept.ended.is_none() && !kept.tokens.is_empty())?;
        let has_place = std::mem::take(&mut kept.has_place) || unattended.enter(kept.tenant);
        has_place.then(|| UnattendedPlace { answers: self.clone(), tenant: kept.tenant })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.held.table()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("held", &self.table().answers.len()).finish_non_exhaustive()
    }
}

// === impl Held ===

impl Held {
    fn stop(&self, number: u64, emitter: &Emitter) {
        let Some(removed) = self.table().remove(number) else { return };
        removed.withdraw();
        if removed.log.stop() {
            emitter.emit(&Event::FlightStopped);
        }
    }

    /// Nothing panics under this lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn limits(settings: &Resumable) -> Limits {
    Limits { per_tenant: settings.per_tenant, total: settings.total }
}

/// What is held of a token, here and elsewhere.
pub(super) fn hash(token: &str) -> Fingerprint {
    let mut hash = Fingerprinter::new("tower-buttress answer");
    hash.field(token.as_bytes());
    hash.finish(0)
}

// === impl Table ===

impl Table {
    fn remove_expired(&mut self, now: Instant, removed: &mut Vec<Kept>) {
        while let Some((_, number)) = self.expiring.first().copied().filter(|(expires, _)| *expires <= now) {
            removed.extend(self.remove(number));
        }
    }

    fn remove(&mut self, number: u64) -> Option<Kept> {
        let kept = self.answers.remove(&number)?;
        for token in &kept.tokens {
            self.tokens.remove(token);
        }
        if kept.has_place {
            self.unattended.leave(&kept.tenant);
        }
        if let Some(ended) = &kept.ended {
            self.expiring.remove(&(ended.expires, number));
        }
        if let Some(count) = self.tenants.get_mut(&kept.tenant) {
            *count -= 1;
            if *count == 0 {
                self.tenants.remove(&kept.tenant);
            }
        }
        Some(kept)
    }
}

// === impl Kept ===

impl Kept {
    fn ids(&self, number: u64) -> Option<EventIds> {
        (self.bears_ids && self.is_offered).then(|| EventIds::new(number))
    }

    fn withdraw(&self) {
        if let Some(offers) = &self.offers {
            offers.withdraw();
        }
    }
}

/// Whether a caller of an answer with this head is told where it is.
pub(super) fn is_offered(status: StatusCode, headers: &HeaderMap) -> bool {
    status.is_success() && EventStream::of(headers) == EventStream::Plain
}

// === impl AnswerInFlight ===

impl AnswerInFlight {
    /// There is a head. Returns whether the answer is held for those who come back, whatever it says.
    pub(super) fn on_head(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let is_offered = is_offered(status, headers);
        (is_offered || self.request.wait.is_some()) && self.register(is_offered)
    }

    fn register(&self, is_offered: bool) -> bool {
        let mut expired = Vec::new();
        let mut table = self.answers.table();
        table.remove_expired(clock::now(), &mut expired);
        if let Some(kept) = table.answers.get_mut(&self.number) {
            kept.is_offered |= is_offered;
            return true;
        }
        let of_tenant = table.tenants.get(&self.tenant).copied().unwrap_or(0);
        if table.answers.len() >= MAX_ANSWERS || of_tenant >= MAX_ANSWERS / TENANT_SHARE {
            return false;
        }
        table.tenants.insert(self.tenant, of_tenant + 1);
        let kept = Kept {
            log: self.log.clone(),
            tenant: self.tenant,
            owner: self.owner,
            bears_ids: self.request.bears_ids,
            is_offered,
            tokens: Vec::new(),
            offers: self.offers.clone(),
            has_place: false,
            ended: None,
        };
        table.answers.insert(self.number, kept);
        drop(table);
        self.log.hold_when_failed();
        true
    }

    /// The answer has ended. Returns `reservation` where it is not held any longer.
    pub(super) fn finish(mut self, reservation: Reservation) -> Option<Reservation> {
        self.end(Some(reservation))
    }

    fn end(&mut self, reservation: Option<Reservation>) -> Option<Reservation> {
        if std::mem::replace(&mut self.is_over, true) {
            return reservation;
        }
        let now = clock::now();
        let expires = now.checked_add(self.answers.settings.window.min(LONGEST))?;
        let is_recorded = self.log.is_recording();
        let mut table = self.answers.table();
        let Table { answers, unattended, expiring, .. } = &mut *table;
        let Some(kept) = answers.get_mut(&self.number) else { return reservation };
        if std::mem::take(&mut kept.has_place) {
            unattended.leave(&kept.tenant);
        }
        // Nobody knows of it, or it has outgrown what is held.
        if (!kept.is_offered && kept.tokens.is_empty()) || !is_recorded {
            let removed = table.remove(self.number);
            drop(table);
            if let Some(removed) = removed {
                removed.withdraw();
            }
            return reservation;
        }
        kept.ended = Some(Ended { expires, _reservation: reservation });
        expiring.insert((expires, self.number));
        if let Some(offers) = &kept.offers {
            offers.ended();
        }
        None
    }
}

impl Drop for AnswerInFlight {
    // Also when the upstream panics, or the call is given up.
    fn drop(&mut self) {
        let reservation = self.end(None);
        drop(reservation);
    }
}

/// A window that is longer means for ever, which no clock can count to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// === impl UnattendedPlace ===

impl Drop for UnattendedPlace {
    fn drop(&mut self) {
        self.answers.table().unattended.leave(&self.tenant);
    }
}
