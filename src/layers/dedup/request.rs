//! A request that was read, and the store's decision on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::answer::{CallAnswer, Following, KeyIgnored, OnAccepted};
use super::config::{Config, InFlightPolicy};
use super::driver::SharedCall;
use super::key::RequestKey;
use super::offer::Offer;
use super::recorder::ResponseRecorder;
use super::role::DedupRole;
use crate::body::request::{CallBody, share_of};
use crate::call::{RetryReport, TenantHash};
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::broadcast::LogLimits;
use crate::policy::storable::KeySource;
use crate::proto::prefer::Preferences;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::deadline::{Deadline, PropagatedHeaders};
use crate::rt::ready::ReadyCall;
use crate::store::answers::{ResumableAnswers, ResumableRequest, TokenCaller};
use crate::store::{Claim, ClaimRequest, Lease, Recorder, ResponseLog, Store};

/// A request that was read, and the state to send it.
pub(super) struct ReadRequest<S, St> {
    pub(super) service: S,
    pub(super) store: St,
    pub(super) config: Arc<Config>,
    pub(super) key: RequestKey,
    pub(super) format: RejectionFormat,
    /// The authenticated tenant.
    pub(super) owner: Option<TenantHash>,
    pub(super) limits: LogLimits,
    pub(super) source: KeySource,
    /// How long its answer is stored.
    pub(super) window: Duration,
    /// Whether callers may come back to its answer.
    pub(super) resumable: Option<ResumableRequest>,
    pub(super) request: Request<CallBody>,
    /// The number of its claims.
    pub(super) claims: u32,
}

/// How a request that was read gets its answer.
pub(super) type AnswerOf<S, St, ResB> = CallAnswer<
    ReadyCall<S, Request<CallBody>>,
    ResB,
    <S as Service<Request<CallBody>>>::Error,
    <St as Store>::Lease,
    ReadRequest<S, St>,
>;

/// When to retry if nothing is known: a call may end, and free its room, at any moment.
const SOON: Duration = Duration::from_secs(1);

/// How often a request is claimed again when the process of its call is gone.
const MAX_CLAIMS: u32 = 3;

/// A caller with more than twice the upstream's time, plus this, does not join.
const PATIENCE: Duration = Duration::from_secs(10);

fn config_answers(
    config: &Config,
    resumable: Option<ResumableRequest>,
) -> Option<(&Arc<ResumableAnswers>, ResumableRequest)> {
    config.answers.as_ref().zip(resumable)
}

// === impl ReadRequest ===

impl<S, St: Store> ReadRequest<S, St> {
    /// Asks the store.
    pub(super) fn claim(&mut self) -> St::Claim {
        self.claims += 1;
        let RequestKey { key, payload, tenant } = self.key;
        let (owner, has_client_key, limits) = (self.owner, self.source == KeySource::ByKey, self.limits);
        self.store.claim(ClaimRequest { key, payload, tenant, owner, has_client_key, now: clock::now(), limits })
    }
}

impl<S, St, ResB> ReadRequest<S, St>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Future: Send + 'static> + Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
{
    pub(super) fn settle(self: Box<Self>, claim: Result<Claim<St::Lease>, BoxError>) -> AnswerOf<S, St, ResB> {
        match claim {
            Ok(Claim::Lead { lease, recorder }) => self.lead(lease, recorder),
            Ok(Claim::Follow(_)) if self.has_key() && self.config.in_flight == InFlightPolicy::Reject => {
                self.refuse(Rejection::new(RejectionKind::IdempotencyKeyInFlight).with_retry_after(SOON))
            }
            Ok(Claim::Follow(log)) => self.follow(&log, DedupRole::Joined),
            Ok(Claim::Replay(log)) => self.follow(&log, DedupRole::Replayed),
            Ok(Claim::Mismatch) => self.refuse(Rejection::new(RejectionKind::IdempotencyKeyReused)),
            Ok(Claim::Full { retry_after }) if self.has_key() && self.config.strict_keys => {
                self.refuse(Rejection::new(RejectionKind::DedupStoreFull).with_retry_after(retry_after.unwrap_or(SOON)))
            }
            Err(why) if self.has_key() && self.config.strict_keys => {
                let rejection = Rejection::new(RejectionKind::DedupStoreUnreachable);
                self.refuse(rejection.with_retry_after(SOON).with_source(why))
            }
            Ok(Claim::Full { .. }) => self.on_full(),
            Err(_) => self.bypass("the store failed"),
        }
    }

    fn has_key(&self) -> bool {
        self.source == KeySource::ByKey
    }

    fn lead(mut self, lease: St::Lease, recorder: Recorder) -> AnswerOf<S, St, ResB> {
        let reader = recorder.log().reader().map(|reader| reader.cancelled_by(self.cancellation()));
        let deadline = self.deadline();
        let own = self.request.extensions().get::<RetryReport>().cloned();
        let (shared, report) = recorder.log().begin(deadline, own.clone());
        if own.is_none_or(|own| !own.is(&report)) {
            self.request.extensions_mut().insert(report.clone());
        }
        if let (Some(deadline), Some(shared)) = (deadline, &shared) {
            if let Some(PropagatedHeaders { reserve, .. }) = self.request.extensions().get() {
                shared.note_first_propagated(deadline.remaining().saturating_sub(*reserve));
            }
            self.request.extensions_mut().insert(shared.clone());
        }
        let answer = config_answers(&self.config, self.resumable).map(|(answers, resumable)| {
            answers.open(&recorder.log(), (self.key.tenant, self.owner), resumable, lease.offers())
        });
        let offer = self.offer(&recorder.log());
        if self.config.answers.as_ref().is_some_and(|answers| answers.settings().respond_async) {
            Preferences::remove(self.request.headers_mut());
        }
        let Self { service, request, config, source, window, key, format, .. } = self;
        let reservation = share_of(&config.memory, request.headers(), request.extensions());
        let recorder =
            ResponseRecorder::new(recorder, lease, reservation, source, window, (key.tenant, answer), config.clone());
        let call = ReadyCall::new(service, request);
        let call = SharedCall::launch(call, recorder, shared, report, config.clone());
        CallAnswer::Leading { reader, call, offer, format, config }
    }

    fn follow(self: Box<Self>, log: &ResponseLog, role: DedupRole) -> AnswerOf<S, St, ResB> {
        if role == DedupRole::Joined && !self.has_key() && self.has_far_more_time(log) {
            return self.bypass("the same request is in flight with a much shorter deadline");
        }
        // A layer outside may refuse this request before the shared call ends.
        let report = self.request.extensions().get().filter(|_| role == DedupRole::Joined);
        let Some(reader) = log.join(self.deadline(), report) else {
            return if self.has_key() {
                self.refuse(Rejection::new(RejectionKind::IdempotencyKeyInFlight).with_retry_after(SOON))
            } else {
                self.bypass("the same request is in flight, and its answer is too long to join")
            };
        };
        let reader = reader.cancelled_by(self.cancellation());
        if role == DedupRole::Joined {
            self.config.emitter.emit(&Event::FlightJoined);
        }
        let (format, config, offer) = (self.format, self.config.clone(), self.offer(log));
        let may_hand_over = St::HANDS_OVER && role == DedupRole::Joined && self.claims < MAX_CLAIMS;
        let request = may_hand_over.then_some(self);
        CallAnswer::Following { following: Following { reader: Some(reader), role, format, config, offer, request } }
    }

    /// Whether this caller has far more time than the upstream of the call in flight, by its deadline header: the
    /// upstream may end the call while this caller would still wait.
    fn has_far_more_time(&self, log: &ResponseLog) -> bool {
        let Some(propagated) = log.deadline().and_then(|shared| shared.propagated()) else { return false };
        let limit = propagated.saturating_mul(2).saturating_add(PATIENCE);
        self.deadline().is_none_or(|deadline| deadline.remaining() > limit)
    }

    /// The call passes. If the upstream accepts its tenant, that tenant gets its own share: otherwise tenants that fill
    /// the strangers' share would keep all new ones out.
    fn on_full(self) -> AnswerOf<S, St, ResB> {
        let (store, tenant, answers) = (self.store.clone(), self.key.tenant, self.config.answers.clone());
        let on_accepted: OnAccepted = Box::new(move || {
            store.accepted(&tenant);
            if let Some(answers) = answers {
                answers.know(tenant);
            }
        });
        self.pass("the store has no room for another request of this tenant", Some(on_accepted))
    }

    /// The offer of the answer's URL: none if another process makes the call.
    fn offer(&self, log: &ResponseLog) -> Option<Box<Offer>> {
        let (answers, resumable) = config_answers(&self.config, self.resumable)?;
        let caller = TokenCaller { cancellation: self.cancellation(), emitter: self.config.emitter.clone() };
        Some(Box::new(Offer::new(answers.clone(), log.number()?, resumable.wait, caller)))
    }

    fn bypass(self, reason: &'static str) -> AnswerOf<S, St, ResB> {
        self.pass(reason, None)
    }

    fn pass(self, reason: &'static str, on_accepted: Option<OnAccepted>) -> AnswerOf<S, St, ResB> {
        self.config.bypassed(reason);
        let key_ignored = self.has_key().then_some(KeyIgnored::StoreFull);
        let Self { service, request, .. } = self;
        CallAnswer::Passing { call: ReadyCall::new(service, request), key_ignored, on_accepted }
    }

    #[cold]
    fn refuse(self, rejection: Rejection) -> AnswerOf<S, St, ResB> {
        self.config.emitter.emit(&Event::Refused { kind: rejection.kind() });
        CallAnswer::Refused { rejection: Some(rejection), format: self.format }
    }

    /// Tells whether a layer outside has cancelled its call.
    fn cancellation(&self) -> Option<Cancellation> {
        self.request.extensions().get().cloned()
    }

    /// Until when its caller wants the answer.
    fn deadline(&self) -> Option<Deadline> {
        [Deadline::of(self.request.extensions()), Deadline::current()].into_iter().flatten().min()
    }
}
