//! The answers that callers can come back to, and their tokens.

mod held;
mod resumable;
mod sweeper;

use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use tokio::runtime::Handle;

use self::held::{AfterEnd, HeldAnswer, HeldAnswers, LONGEST_REST, MAX_TOKENS, Table, TokenTarget};
pub use self::resumable::Resumable;
use self::sweeper::Sweeper;
use super::{AnswerOffer, AnswerOffers, OfferedAnswer, ResponseLog};
use crate::call::{Reservation, TenantHash};
use crate::event::Emitter;
use crate::proto::event_stream::EventStream;
use crate::proto::fingerprint::{Fingerprint, Fingerprinter};
use crate::proto::sse::EventIds;
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;

/// All such answers, with the settings for new ones.
pub(crate) struct ResumableAnswers {
    settings: Resumable,
    held: Arc<HeldAnswers>,
}

/// The facts about an answer before it arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResumableRequest {
    /// Events may have ids.
    pub(crate) bears_ids: bool,
    /// The caller prefers a URL to waiting longer than this.
    pub(crate) wait: Option<Duration>,
}

/// The answer of a call in flight, held by its recorder. Dropping it ends the answer.
pub(crate) struct AnswerInFlight {
    answers: Arc<ResumableAnswers>,
    number: u64,
    log: ResponseLog,
    tenant: Fingerprint,
    owner: Option<TenantHash>,
    request: ResumableRequest,
    offers: Option<Arc<dyn AnswerOffers>>,
    is_over: bool,
}

/// A place among the calls without a listener, while there is none.
pub(crate) struct UnattendedPlace {
    answers: Arc<ResumableAnswers>,
    /// `None`: the call keeps the place to its end.
    of: Option<Fingerprint>,
}

/// The URL of an answer.
pub(crate) struct Issued {
    pub(crate) location: HeaderValue,
    /// Writes the ids of its events, if its dialect allows ids.
    pub(crate) ids: Option<EventIds>,
}

/// The answer of a token.
pub(crate) struct FoundAnswer {
    pub(crate) number: u64,
    pub(crate) log: ResponseLog,
    pub(crate) tenant: Fingerprint,
    pub(crate) bears_ids: bool,
    /// Tells whether a newer message has replaced its caller's message.
    pub(crate) cancellation: Option<Cancellation>,
}

/// A caller that gets a token.
pub(crate) struct TokenCaller {
    pub(crate) cancellation: Option<Cancellation>,
    pub(crate) emitter: Emitter,
}

/// 128 bits, in hexadecimal digits.
const TOKEN_LENGTH: usize = 32;

// === impl ResumableAnswers ===

impl ResumableAnswers {
    pub(crate) fn new(settings: Resumable) -> Self {
        Self { settings, held: Arc::new(HeldAnswers::new()) }
    }

    /// Returns the same answers with other settings.
    pub(crate) fn configured(&self, settings: Resumable) -> Self {
        Self { settings, held: self.held.clone() }
    }

    pub(crate) fn settings(&self) -> &Resumable {
        &self.settings
    }

    /// The token in the path of a request, if it has the right form.
    pub(crate) fn token<'a>(&self, uri: &'a Uri) -> Option<&'a str> {
        let token = uri.path().strip_prefix(self.settings.prefix())?.strip_prefix('/')?;
        let is_token =
            token.len() == TOKEN_LENGTH && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_token.then_some(token)
    }

    /// Registers a call whose answer callers may come back to.
    pub(crate) fn open(
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
            // Its caller may get a 202 before there is a head.
            answer.register(false);
        }
        answer
    }

    /// Issues a token for an answer: `None` if callers cannot come back to it.
    fn issue(self: &Arc<Self>, number: u64, caller: &TokenCaller) -> Option<Issued> {
        let token = self.held.secrets.token();
        let mut table = self.table();
        let Table { tokens, answers, .. } = &mut *table;
        let kept = answers.get_mut(&number).filter(|kept| kept.tokens.len() < MAX_TOKENS)?;
        let hash = hash(&token);
        kept.tokens.push(hash);
        tokens.insert(hash, TokenTarget { number, cancellation: caller.cancellation.clone() });
        let ids = kept.ids(number);
        let offered =
            kept.offers.clone().map(|offers| (offers, OfferedAnswer::new(number, kept.tenant, kept.bears_ids)));
        drop(table);
        if let Some((offers, answer)) = offered {
            let (held, emitter) = (Arc::downgrade(&self.held), caller.emitter.clone());
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

    /// The same, once there is a head: only for event streams.
    pub(crate) fn issue_for_head(self: &Arc<Self>, number: u64, caller: &TokenCaller) -> Option<Issued> {
        let is_offered = self.table().answers.get(&number).is_some_and(|kept| kept.is_offered);
        is_offered.then(|| self.issue(number, caller)).flatten()
    }

    /// The same for a 202: the call continues when its caller leaves.
    pub(crate) fn promise(self: &Arc<Self>, number: u64, caller: &TokenCaller) -> Option<Issued> {
        let limits = self.settings.unattended_limits();
        let may_go_on = self.table().promise(number, limits);
        may_go_on.then(|| self.issue(number, caller)).flatten()
    }

    /// Returns the answer of this token.
    pub(crate) fn find(&self, token: &str, now: Instant) -> Option<FoundAnswer> {
        let table = self.table();
        let (token, kept) = table.get(&hash(token), now)?;
        let (number, cancellation) = (token.number, token.cancellation.clone());
        Some(FoundAnswer {
            number,
            log: kept.log.clone(),
            tenant: kept.tenant,
            bears_ids: kept.bears_ids,
            cancellation,
        })
    }

    /// Ends the call, if it has not ended. Callers can no longer come back to this answer.
    pub(crate) fn stop(&self, number: u64, emitter: &Emitter) {
        self.held.stop(number, emitter);
    }

    /// Removes the complete answers of this tenant, or of all. Returns their number.
    pub(crate) fn forget(&self, owner: Option<TenantHash>) -> usize {
        let mut table = self.table();
        let is_theirs = |kept: &HeldAnswer| kept.has_ended() && owner.is_none_or(|owner| kept.owner == Some(owner));
        let numbers: Vec<_> = table.answers.iter().filter(|(_, kept)| is_theirs(kept)).map(|(nth, _)| *nth).collect();
        let forgotten: Vec<_> = numbers.into_iter().filter_map(|number| table.remove(number)).collect();
        drop(table);
        forgotten.iter().for_each(HeldAnswer::withdraw);
        forgotten.len()
    }

    /// A tenant has had a 2xx: it gets its own shares.
    pub(crate) fn know(&self, tenant: Fingerprint) {
        self.table().know(tenant);
    }

    /// The last listener has left a call: returns a place, if the call may continue without one.
    pub(crate) fn leave_unattended(self: &Arc<Self>, number: u64) -> Option<UnattendedPlace> {
        let limits = self.settings.unattended_limits();
        let mut table = self.table();
        let Table { answers, unattended, .. } = &mut *table;
        let kept = answers.get(&number).filter(|kept| !kept.has_ended() && !kept.tokens.is_empty())?;
        let (share, has_own) = (kept.share, kept.is_promised);
        let may_go_on = has_own || unattended.enter(share, limits);
        may_go_on.then(|| UnattendedPlace { answers: self.clone(), of: (!has_own).then_some(share) })
    }

    /// See [`Table::awaited`].
    pub(crate) fn awaited(&self, number: u64) -> Option<Option<Cancellation>> {
        self.table().awaited(number)
    }

    /// Starts the sweeper; the first answer expires then.
    fn sweep_from(&self, expires: Instant) {
        let now = clock::now();
        // Answers that end meanwhile may have a shorter window.
        let latest = now.checked_add(LONGEST_REST).unwrap_or(now);
        let sweeper = Sweeper::new(&self.held, expires.min(latest));
        // Without a runtime, expired answers are dropped when new ones come.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(sweeper);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.held.table()
    }
}

impl fmt::Debug for ResumableAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumableAnswers").field("held", &self.table().answers.len()).finish_non_exhaustive()
    }
}

/// The stored hash of a token, in every process.
pub(crate) fn hash(token: &str) -> Fingerprint {
    let mut hash = Fingerprinter::new("tower-buttress answer");
    hash.field(token.as_bytes());
    hash.finish(0)
}

/// Whether a caller of an answer with this head gets its URL.
pub(crate) fn is_offered(status: StatusCode, headers: &HeaderMap) -> bool {
    status.is_success() && EventStream::of(headers) == EventStream::Plain
}

// === impl AnswerInFlight ===

impl AnswerInFlight {
    /// Notes the head. Returns whether the answer is held for callers that come back, whatever its status.
    pub(crate) fn on_head(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let is_offered = is_offered(status, headers);
        (is_offered || self.request.wait.is_some()) && self.register(is_offered)
    }

    /// Notes a 2xx of the upstream: its tenant is not a stranger.
    pub(crate) fn accepted(&self) {
        let mut table = self.answers.table();
        table.know(self.tenant);
        table.accepted(self.number);
    }

    fn register(&self, is_offered: bool) -> bool {
        let mut table = self.answers.table();
        if let Some(kept) = table.answers.get_mut(&self.number) {
            kept.is_offered |= is_offered;
            return true;
        }
        let expired = table.remove_expired(clock::now());
        let mut kept = HeldAnswer::new(self.log.clone(), self.tenant, self.owner);
        (kept.bears_ids, kept.is_offered) = (self.request.bears_ids, is_offered);
        kept.offers.clone_from(&self.offers);
        let is_held = table.insert(self.number, kept);
        drop(table);
        drop(expired);
        if is_held {
            self.log.hold_when_failed();
        }
        is_held
    }

    /// Ends the answer. Returns `reservation` if it is no longer held.
    pub(crate) fn finish(mut self, reservation: Reservation) -> Option<Reservation> {
        self.end(Some(reservation))
    }

    fn end(&mut self, reservation: Option<Reservation>) -> Option<Reservation> {
        if std::mem::replace(&mut self.is_over, true) {
            return reservation;
        }
        let expires = clock::now().checked_add(self.answers.settings.window.min(LONGEST));
        let expires = expires.filter(|_| self.log.is_recording());
        let after = self.answers.table().end(self.number, expires, reservation);
        match after {
            AfterEnd::Held { sweep_from } => {
                sweep_from.into_iter().for_each(|expires| self.answers.sweep_from(expires));
                None
            }
            AfterEnd::Dropped(removed, reservation) => {
                removed.iter().for_each(HeldAnswer::withdraw);
                reservation
            }
        }
    }
}

impl Drop for AnswerInFlight {
    // Also if the upstream panics, or the call is cancelled.
    fn drop(&mut self) {
        let reservation = self.end(None);
        drop(reservation);
    }
}

/// A longer window means forever.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// === impl UnattendedPlace ===

impl Drop for UnattendedPlace {
    fn drop(&mut self) {
        if let Some(share) = &self.of {
            self.answers.table().unattended.leave(share);
        }
    }
}
