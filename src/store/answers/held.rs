//! The answers that are held for callers that come back, and their expiry.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::{AnswerOffers, ResponseLog};
use crate::call::{Reservation, TenantHash};
use crate::event::{Emitter, Event};
use crate::policy::unattended::{Unattended, UnattendedLimits};
use crate::proto::fingerprint::Fingerprint;
use crate::proto::sse::EventIds;
use crate::rt::cancellation::Cancellation;
use crate::rt::entropy::Secrets;

/// Shared by layers with different settings.
pub(super) struct HeldAnswers {
    pub(super) secrets: Secrets,
    table: Mutex<Table>,
}

pub(super) struct Table {
    /// By the hash of the token: reading this memory reveals no token.
    pub(super) tokens: HashMap<Fingerprint, TokenTarget>,
    pub(super) answers: HashMap<u64, HeldAnswer>,
    pub(super) unattended: Unattended<Fingerprint>,
    expiring: BTreeSet<(Instant, u64)>,
    /// The number of held answers, by share.
    shares: HashMap<Fingerprint, usize>,
    known: KnownTenants,
    /// A task drops expired answers.
    is_swept: bool,
}

/// The tenants with a 2xx.
#[derive(Default)]
struct KnownTenants {
    recent: HashSet<Fingerprint>,
    older: HashSet<Fingerprint>,
}

/// The target of a token.
pub(super) struct TokenTarget {
    /// The number of the answer.
    pub(super) number: u64,
    /// Tells whether a newer message has replaced its caller's message.
    pub(super) cancellation: Option<Cancellation>,
}

/// One answer, in flight or ended.
pub(super) struct HeldAnswer {
    pub(super) log: ResponseLog,
    pub(super) tenant: Fingerprint,
    /// The share that it counts for: its tenant's, or that of all strangers together.
    pub(super) share: Fingerprint,
    pub(super) owner: Option<TenantHash>,
    pub(super) bears_ids: bool,
    /// It is an event stream: callers get its URL.
    pub(super) is_offered: bool,
    pub(super) tokens: Vec<Fingerprint>,
    /// Offers it to other processes.
    pub(super) offers: Option<Arc<dyn AnswerOffers>>,
    /// A caller got a 202 for this answer: the call keeps a place among the calls without a listener to its end, also
    /// while callers listen and leave.
    pub(super) is_promised: bool,
    ended: Option<Expiry>,
}

struct Expiry {
    expires: Instant,
    /// Counts the held data.
    reservation: Option<Reservation>,
}

/// What happens to a complete answer.
pub(super) enum AfterEnd {
    /// It is held. `sweep_from`: no sweeper runs, and one is needed from then on.
    Held { sweep_from: Option<Instant> },
    /// It is no longer held or counted.
    Dropped(Option<HeldAnswer>, Option<Reservation>),
}

/// The most callers of one answer with a token, as documented in `DedupLayer::resumable`.
pub(super) const MAX_TOKENS: usize = 16;
/// The most answers that are held, of any size: small ones do not count in the memory.
const MAX_ANSWERS: usize = 16 * 1024;
/// One tenant may have one of this number of equal parts.
const TENANT_SHARE: usize = 8;
/// Stands for all unauthenticated tenants without a 2xx together: they may all be one caller with invented credentials.
const STRANGERS: Fingerprint = Fingerprint::from_bytes([0; 32]);
/// The number of known tenants: beyond that, the least recently seen become strangers again.
const MAX_KNOWN: usize = 32 * 1024;
/// The most answers that are dropped under one lock.
const SWEPT_AT_ONCE: usize = 64;
/// How often expired answers are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The longest sleep of the sweeper: an answer that ends meanwhile may have a shorter window.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(60);

// === impl HeldAnswers ===

impl HeldAnswers {
    pub(super) fn new() -> Self {
        let table = Table {
            tokens: HashMap::new(),
            answers: HashMap::new(),
            unattended: Unattended::default(),
            expiring: BTreeSet::new(),
            shares: HashMap::new(),
            known: KnownTenants::default(),
            is_swept: false,
        };
        Self { secrets: Secrets::default(), table: Mutex::new(table) }
    }

    /// No code panics under this lock.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the call, if it has not ended. Callers can no longer come back to this answer.
    pub(super) fn stop(&self, number: u64, emitter: &Emitter) {
        let Some(removed) = self.table().remove(number) else { return };
        removed.withdraw();
        if removed.log.stop() {
            emitter.emit(&Event::FlightStopped);
        }
    }

    /// Drops a limited number of expired answers. Returns when to do so again; `None`: no answer is left to expire.
    pub(super) fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut table = self.table();
        let expired = table.remove_expired(now);
        let next = match table.expiring.first() {
            Some((expires, _)) if *expires <= now => Some(now),
            Some((expires, _)) => {
                let soonest = now.checked_add(SWEEP_EVERY).unwrap_or(now);
                let latest = now.checked_add(LONGEST_REST).unwrap_or(soonest);
                Some((*expires).max(soonest).min(latest))
            }
            None => None,
        };
        table.is_swept = next.is_some();
        drop(table);
        drop(expired);
        next
    }
}

// === impl Table ===

impl Table {
    /// Returns the target of a token, unless it has expired, or a newer message has ended its call in flight for this
    /// caller.
    pub(super) fn get(&self, token: &Fingerprint, now: Instant) -> Option<(&TokenTarget, &HeldAnswer)> {
        let token = self.tokens.get(token)?;
        let kept = self.answers.get(&token.number)?;
        let is_there = match &kept.ended {
            Some(ended) => now < ended.expires,
            None => !token.cancellation.as_ref().is_some_and(Cancellation::is_cancelled),
        };
        is_there.then_some((token, kept))
    }

    /// A caller that may come back to a call in flight, and whose message was not superseded: its cancellation, or
    /// `Some(None)` if it has none. `None`: there is no such caller.
    pub(super) fn awaited(&self, number: u64) -> Option<Option<Cancellation>> {
        let kept = self.answers.get(&number).filter(|kept| kept.ended.is_none())?;
        let cancellations =
            kept.tokens.iter().filter_map(|token| self.tokens.get(token)).map(|token| &token.cancellation);
        let is_awaited = |by: &&Option<Cancellation>| !by.as_ref().is_some_and(Cancellation::is_cancelled);
        let mut cancellations = cancellations.filter(is_awaited);
        cancellations.next().cloned()
    }

    /// Holds an answer. Returns `false` if there are too many.
    pub(super) fn insert(&mut self, number: u64, mut kept: HeldAnswer) -> bool {
        let is_known = kept.owner.is_some() || self.known.contains(&kept.tenant);
        kept.share = if is_known { kept.tenant } else { STRANGERS };
        let of_share = self.shares.get(&kept.share).copied().unwrap_or(0);
        if self.answers.len() >= MAX_ANSWERS || of_share >= MAX_ANSWERS / TENANT_SHARE {
            return false;
        }
        self.shares.insert(kept.share, of_share + 1);
        self.answers.insert(number, kept);
        true
    }

    /// Notes that a tenant has had a 2xx.
    pub(super) fn know(&mut self, tenant: Fingerprint) {
        self.known.insert(tenant);
    }

    /// The same, for this answer: it counts for its tenant's share from now on.
    pub(super) fn accepted(&mut self, number: u64) {
        let Some(kept) = self.answers.get_mut(&number).filter(|kept| kept.share == STRANGERS) else { return };
        kept.share = kept.tenant;
        if kept.is_promised && kept.ended.is_none() {
            self.unattended.move_to(&STRANGERS, kept.tenant);
        }
        *self.shares.entry(kept.tenant).or_default() += 1;
        self.leave_share(&STRANGERS);
    }

    fn leave_share(&mut self, share: &Fingerprint) {
        if let Some(count) = self.shares.get_mut(share) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(share);
            }
        }
    }

    /// Removes a limited number of expired answers, to be dropped outside the lock.
    #[must_use = "they are dropped without the lock"]
    pub(super) fn remove_expired(&mut self, now: Instant) -> Vec<HeldAnswer> {
        let mut removed = Vec::new();
        while removed.len() < SWEPT_AT_ONCE {
            let Some((_, number)) = self.expiring.first().copied().filter(|(expires, _)| *expires <= now) else {
                break;
            };
            match self.remove(number) {
                Some(kept) => removed.push(kept),
                None => drop(self.expiring.pop_first()),
            }
        }
        removed
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<HeldAnswer> {
        let kept = self.answers.remove(&number)?;
        for token in &kept.tokens {
            self.tokens.remove(token);
        }
        if kept.is_promised && kept.ended.is_none() {
            self.unattended.leave(&kept.share);
        }
        if let Some(ended) = &kept.ended {
            self.expiring.remove(&(ended.expires, number));
        }
        self.leave_share(&kept.share);
        Some(kept)
    }

    /// Promises the answer to a caller with a 202: the call continues whenever a caller leaves. Returns whether it may.
    pub(super) fn promise(&mut self, number: u64, limits: UnattendedLimits) -> bool {
        let Self { answers, unattended, .. } = self;
        // Without a further token, no further 202 is possible.
        let may_be_told = |kept: &&mut HeldAnswer| kept.ended.is_none() && kept.tokens.len() < MAX_TOKENS;
        let Some(kept) = answers.get_mut(&number).filter(may_be_told) else { return false };
        kept.is_promised = kept.is_promised || unattended.enter(kept.share, limits);
        kept.is_promised
    }

    /// Ends the answer. It is held until `expires` if callers know its URL. `None`: it was not recorded.
    pub(super) fn end(&mut self, number: u64, expires: Option<Instant>, reservation: Option<Reservation>) -> AfterEnd {
        let Self { answers, unattended, expiring, .. } = self;
        let Some(kept) = answers.get_mut(&number) else { return AfterEnd::Dropped(None, reservation) };
        let is_known = kept.is_offered || !kept.tokens.is_empty();
        let Some(expires) = expires.filter(|_| is_known) else {
            return AfterEnd::Dropped(self.remove(number), reservation);
        };
        if kept.is_promised {
            unattended.leave(&kept.share);
        }
        kept.ended = Some(Expiry { expires, reservation });
        expiring.insert((expires, number));
        if let Some(offers) = &kept.offers {
            offers.ended();
        }
        AfterEnd::Held { sweep_from: (!std::mem::replace(&mut self.is_swept, true)).then_some(expires) }
    }

    /// No task drops expired answers any more.
    pub(super) fn lost_sweeper(&mut self) {
        self.is_swept = false;
    }
}

// === impl KnownTenants ===

impl KnownTenants {
    fn insert(&mut self, tenant: Fingerprint) {
        if self.recent.len() >= MAX_KNOWN / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(tenant);
    }

    fn contains(&self, tenant: &Fingerprint) -> bool {
        self.recent.contains(tenant) || self.older.contains(tenant)
    }
}

// === impl HeldAnswer ===

impl HeldAnswer {
    pub(super) fn new(log: ResponseLog, tenant: Fingerprint, owner: Option<TenantHash>) -> Self {
        Self {
            log,
            tenant,
            share: tenant,
            owner,
            bears_ids: false,
            is_offered: false,
            tokens: Vec::new(),
            offers: None,
            is_promised: false,
            ended: None,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    pub(super) fn ids(&self, number: u64) -> Option<EventIds> {
        (self.bears_ids && self.is_offered).then(|| EventIds::new(number))
    }

    pub(super) fn withdraw(&self) {
        if let Some(offers) = &self.offers {
            offers.withdraw();
        }
    }
}

impl Drop for HeldAnswer {
    /// The data that slow readers hold is counted until the last of them has left.
    fn drop(&mut self) {
        if let Some(reservation) = self.ended.take().and_then(|ended| ended.reservation) {
            self.log.leave_charge(reservation);
        }
    }
}
