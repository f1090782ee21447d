//! The answers that callers come back to, each by the tokens that were given out for it.

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

/// All of them, with the settings of those that are given out from here on.
pub(crate) struct ResumableAnswers {
    settings: Resumable,
    held: Arc<HeldAnswers>,
}

/// What is known of an answer before it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResumableRequest {
    /// Events may have ids.
    pub(crate) bears_ids: bool,
    /// The caller would rather be told where the answer will be than wait for longer than this.
    pub(crate) wait: Option<Duration>,
}

/// The answer to a call in flight, as its recorder has it. Dropped, the answer has ended.
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

/// A place among the calls that go on without a listener, for as long as none listens.
pub(crate) struct UnattendedPlace {
    answers: Arc<ResumableAnswers>,
    /// `None`: the place is the call's own, to its end.
    of: Option<Fingerprint>,
}

/// Where an answer is.
pub(crate) struct Issued {
    pub(crate) location: HeaderValue,
    /// Writes the ids of its events, where they bear them.
    pub(crate) ids: Option<EventIds>,
}

/// An answer that a token leads to.
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) log: ResponseLog,
    pub(crate) tenant: Fingerprint,
    pub(crate) bears_ids: bool,
    /// Says whether a newer message has taken the place of its caller's.
    pub(crate) cancellation: Option<Cancellation>,
}

/// A caller that is told where its answer is.
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

    /// The same answers with other settings.
    pub(crate) fn configured(&self, settings: Resumable) -> Self {
        Self { settings, held: self.held.clone() }
    }

    pub(crate) fn settings(&self) -> &Resumable {
        &self.settings
    }

    /// The token in the path of a request, where it has the form of one.
    pub(crate) fn token<'a>(&self, uri: &'a Uri) -> Option<&'a str> {
        let token = uri.path().strip_prefix(self.settings.prefix())?.strip_prefix('/')?;
        let is_token =
            token.len() == TOKEN_LENGTH && token.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_token.then_some(token)
    }

    /// A call is made whose answer may be come back to.
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
            // Its caller may be sent away before there is a head.
            answer.register(false);
        }
        answer
    }

    /// Gives out a token for an answer: `None` where it cannot be come back to.
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

    /// The same, once there is a head: for event streams.
    pub(crate) fn issue_for_head(self: &Arc<Self>, number: u64, caller: &TokenCaller) -> Option<Issued> {
        let is_offered = self.table().answers.get(&number).is_some_and(|kept| kept.is_offered);
        is_offered.then(|| self.issue(number, caller)).flatten()
    }

    /// The same, where the caller is to be sent away: the call goes on when it leaves.
    pub(crate) fn promise(self: &Arc<Self>, number: u64, caller: &TokenCaller) -> Option<Issued> {
        let limits = self.settings.unattended_limits();
        let may_go_on = self.table().promise(number, limits);
        may_go_on.then(|| self.issue(number, caller)).flatten()
    }

    /// The answer that this token was given out for.
    pub(crate) fn find(&self, token: &str, now: Instant) -> Option<Found> {
        let table = self.table();
        let (token, kept) = table.get(&hash(token), now)?;
        let (number, cancellation) = (token.number, token.cancellation.clone());
        Some(Found { number, log: kept.log.clone(), tenant: kept.tenant, bears_ids: kept.bears_ids, cancellation })
    }

    /// Ends the call, if it has not ended. No caller can come back to this answer any more.
    pub(crate) fn stop(&self, number: u64, emitter: &Emitter) {
        self.held.stop(number, emitter);
    }

    /// Forgets the answers of this tenant that have ended, or of all. Returns how many there were.
    pub(crate) fn forget(&self, owner: Option<TenantHash>) -> usize {
        let mut table = self.table();
        let is_theirs = |kept: &HeldAnswer| kept.has_ended() && owner.is_none_or(|owner| kept.owner == Some(owner));
        let numbers: Vec<_> = table.answers.iter().filter(|(_, kept)| is_theirs(kept)).map(|(nth, _)| *nth).collect();
        let forgotten: Vec<_> = numbers.into_iter().filter_map(|number| table.remove(number)).collect();
        drop(table);
        forgotten.iter().for_each(HeldAnswer::withdraw);
        forgotten.len()
    }

    /// A tenant has had a 2xx: from now on it has shares of its own.
    pub(crate) fn know(&self, tenant: Fingerprint) {
        self.table().know(tenant);
    }

    /// The last listener has left a call: a place, if it may go on without one.
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

    /// The first of them expires then.
    fn sweep_from(&self, expires: Instant) {
        let now = clock::now();
        // The window of those that end meanwhile may be shorter.
        let latest = now.checked_add(LONGEST_REST).unwrap_or(now);
        let sweeper = Sweeper::new(&self.held, expires.min(latest));
        // Without a runtime, what has expired is dropped when others come.
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

/// What is held of a token, here and elsewhere.
pub(crate) fn hash(token: &str) -> Fingerprint {
    let mut hash = Fingerprinter::new("tower-buttress answer");
    hash.field(token.as_bytes());
    hash.finish(0)
}

/// Whether a caller of an answer with this head is told where it is.
pub(crate) fn is_offered(status: StatusCode, headers: &HeaderMap) -> bool {
    status.is_success() && EventStream::of(headers) == EventStream::Plain
}

// === impl AnswerInFlight ===

impl AnswerInFlight {
    /// There is a head. Returns whether the answer is held for those who come back, whatever it says.
    pub(crate) fn on_head(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let is_offered = is_offered(status, headers);
        (is_offered || self.request.wait.is_some()) && self.register(is_offered)
    }

    /// The upstream has answered with a 2xx: its tenant is no stranger.
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

    /// The answer has ended. Returns `reservation` where it is not held any longer.
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
    // Also when the upstream panics, or the call is given up.
    fn drop(&mut self) {
        let reservation = self.end(None);
        drop(reservation);
    }
}

/// A window that is longer means forever, which no clock can count to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

// === impl UnattendedPlace ===

impl Drop for UnattendedPlace {
    fn drop(&mut self) {
        if let Some(share) = &self.of {
            self.answers.table().unattended.leave(share);
        }
    }
}
