use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::DedupBody;
use super::flight::Flight;
use super::grace::GraceCall;
use super::layer::{Config, DedupLayer, InFlightPolicy};
use super::request::PendingKey;
use crate::body::collect::{Collect, Collected, collect};
use crate::body::request::CallBody;
use crate::call::Tenant;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::storable::KeySource;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::deadline::{Deadline, SharedDeadline};
use crate::store::{Ask, Claim, Log, Reader, Recorder, Store};

pin_project! {
    /// The future of [`Dedup`](crate::Dedup).
    #[must_use = "futures do nothing unless polled"]
    pub struct DedupFuture<S, St, ResB>
    where
        S: Service<Request<CallBody>>,
        St: Store,
    {
        #[pin]
        stage: StageOf<S, St, ResB>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, St, ResB, F, E>
    where
        St: Store,
    {
        // Stepped aside, or off.
        Passing { #[pin] call: F },
        // Reading the request, and hashing what is read.
        Gathering { gathering: Option<Gathering<S, St>> },
        // Asking the store.
        Claiming { #[pin] claim: St::Claim, prepared: Option<Prepared<S>> },
        Leading { reader: Option<Reader>, flight: Arc<Flight<F, ResB, E, St::Lease>>, wire: RejectionFormat },
        Following { reader: Option<Reader>, role: DedupRole, config: Arc<Config>, wire: RejectionFormat },
        Refused { rejection: Option<Rejection>, wire: RejectionFormat },
    }
}

type StageOf<S, St, ResB> =
    Stage<S, St, ResB, <S as Service<Request<CallBody>>>::Future, <S as Service<Request<CallBody>>>::Error>;

/// How a response of [`Dedup`](crate::Dedup) came about: in its extensions, unless the layer stepped aside or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DedupRole {
    /// By a call to the upstream that this request made, and others may have joined.
    Leader,
    /// By one that another request had made, and that was on its way.
    Joined,
    /// By one that was over.
    Replayed,
}

/// A request that is being read, and all it takes to send it.
pub(super) struct Gathering<S, St> {
    service: S,
    store: St,
    config: Arc<Config>,
    asked: PendingKey,
    parts: Parts,
    body: Collect<CallBody>,
}

/// A request that was read.
struct Prepared<S> {
    service: S,
    config: Arc<Config>,
    named: KeySource,
    request: Request<CallBody>,
}

/// When to try again where nobody can say: a call that takes its room may end at any moment.
const SOON: Duration = Duration::from_secs(1);

// === impl DedupFuture ===

impl<S, St, ResB> DedupFuture<S, St, ResB>
where
    S: Service<Request<CallBody>>,
    St: Store,
{
    pub(super) fn passing(call: S::Future) -> Self {
        Self { stage: Stage::Passing { call } }
    }

    pub(super) fn gathering(gathering: Gathering<S, St>) -> Self {
        Self { stage: Stage::Gathering { gathering: Some(gathering) } }
    }

    #[cold]
    pub(super) fn refused(rejection: Rejection, wire: RejectionFormat) -> Self {
        Self { stage: Stage::Refused { rejection: Some(rejection), wire } }
    }
}

impl<S, St, ResB> Future for DedupFuture<S, St, ResB>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<DedupBody<ResB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let next = match stage.as_mut().project() {
                StageProj::Passing { call } => {
                    return call.poll(cx).map_ok(|response| response.map(DedupBody::own));
                }
                StageProj::Gathering { gathering } => ready!(Gathering::poll(gathering, cx)),
                StageProj::Claiming { claim, prepared } => {
                    let claim = ready!(claim.poll(cx));
                    // Polled again after it was over.
                    let Some(prepared) = prepared.take() else { return Poll::Pending };
                    prepared.settle(claim)
                }
                StageProj::Leading { reader, flight, wire } => {
                    let Some(listening) = reader else { return Poll::Pending };
                    let head = ready!(listening.poll_head(cx));
                    return Poll::Ready(match (head, reader.take()) {
                        (Ok(head), Some(reader)) => {
                            let mut response = head.to_response(DedupBody::heard(reader, &head));
                            response.extensions_mut().insert(DedupRole::Leader);
                            Ok(response)
                        }
                        // The upstream's own error, or (it was had by nobody else) what took its place.
                        (Err(why), _) => {
                            flight.take_error().map_or_else(|| Ok(shared_call_failed(why, *wire, flight.config())), Err)
                        }
                        (Ok(_), None) => return Poll::Pending,
                    });
                }
                StageProj::Following { reader, role, config, wire } => {
                    let Some(listening) = reader else { return Poll::Pending };
                    let head = ready!(listening.poll_head(cx));
                    return Poll::Ready(Ok(match (head, reader.take()) {
                        (Ok(head), Some(reader)) => {
                            let body = DedupBody::heard(reader, &head);
                            let mut response = if *role == DedupRole::Replayed {
                                let now = clock::now();
                                let age = now.saturating_duration_since(head.born());
                                config.emitter.emit(&Event::Replayed { age });
                                head.to_replay(body, now)
                            } else {
                                head.to_response(body)
                            };
                            response.extensions_mut().insert(*role);
                            response
                        }
                        (Err(why), _) => shared_call_failed(why, *wire, config),
                        (Ok(_), None) => return Poll::Pending,
                    }));
                }
                StageProj::Refused { rejection, wire } => {
                    let Some(rejection) = rejection.take() else { return Poll::Pending };
                    return Poll::Ready(Ok(DedupBody::refuse(rejection, *wire)));
                }
            };
            stage.set(next);
        }
    }
}

#[cold]
fn shared_call_failed<B>(why: BoxError, wire: RejectionFormat, config: &Config) -> Response<DedupBody<B>> {
    let kind = RejectionKind::SharedCallFailed;
    config.emitter.emit(&Event::Refused { kind });
    DedupBody::refuse(Rejection::new(kind).with_source(why), wire)
}

impl<S, St, ResB> fmt::Debug for DedupFuture<S, St, ResB>
where
    S: Service<Request<CallBody>>,
    St: Store,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Passing { .. } => "DedupFuture::Passing",
            Stage::Gathering { .. } => "DedupFuture::Gathering",
            Stage::Claiming { .. } => "DedupFuture::Claiming",
            Stage::Leading { .. } => "DedupFuture::Leading",
            Stage::Following { .. } => "DedupFuture::Following",
            Stage::Refused { .. } => "DedupFuture::Refused",
        })
    }
}

// === impl Gathering ===

impl<S, St> Gathering<S, St> {
    pub(super) fn new(
        service: S,
        store: St,
        config: Arc<Config>,
        asked: PendingKey,
        parts: Parts,
        body: CallBody,
    ) -> Self {
        let body = collect(body, config.max_request, config.memory.reserve(parts.extensions.get::<Tenant>()));
        Self { service, store, config, asked, parts, body }
    }
}

impl<S, St, ResB> Gathering<S, St>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    /// Reads on. What comes next, once it is read.
    fn poll(this: &mut Option<Self>, cx: &mut Context<'_>) -> Poll<StageOf<S, St, ResB>> {
        let Some(gathering) = this else { return Poll::Pending };
        let Self { body, asked, .. } = gathering;
        let collected = ready!(body.poll_tapped(cx, |data| asked.tap(data)));
        let Some(Self { service, store, config, asked, parts, .. }) = this.take() else { return Poll::Pending };
        let named = asked.named;
        let prepared =
            |body| Prepared { service, config: config.clone(), named, request: Request::from_parts(parts, body) };
        Poll::Ready(match collected {
            Ok(Collected::Whole { data, trailers }) => {
                let (key, payload) = asked.finish(&data, trailers.as_ref());
                let guaranteed = named == KeySource::ByKey;
                let ask = Ask { key, payload, guaranteed, now: clock::now(), limits: config.limits };
                let prepared = Some(prepared(CallBody::whole(data, trailers)));
                Stage::Claiming { claim: store.claim(ask), prepared }
            }
            Ok(Collected::TooLarge(body)) => {
                prepared(CallBody::new(body)).step_aside("a request that is too long to be read first")
            }
            // It fails at the upstream, as it would have without us.
            Err(why) => prepared(CallBody::failed(why)).pass(),
        })
    }
}

// === impl Prepared ===

impl<S, ResB> Prepared<S>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    ResB: Body<Data = Bytes> + Send + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    fn settle<St: Store>(self, claim: Result<Claim<St::Lease>, BoxError>) -> StageOf<S, St, ResB> {
        match claim {
            Ok(Claim::Lead { lease, recorder }) => self.lead(lease, recorder),
            Ok(Claim::Follow(_))
                if self.named == KeySource::ByKey && self.config.in_flight == InFlightPolicy::Reject =>
            {
                self.refuse(Rejection::new(RejectionKind::IdempotencyKeyInFlight))
            }
            Ok(Claim::Follow(log)) => self.follow(&log, DedupRole::Joined),
            Ok(Claim::Replay(log)) => self.follow(&log, DedupRole::Replayed),
            Ok(Claim::Mismatch) => self.refuse(Rejection::new(RejectionKind::IdempotencyKeyReused)),
            Ok(Claim::Full { .. }) | Err(_) if self.named == KeySource::ByFingerprint => {
                self.step_aside("no room to remember another request")
            }
            Ok(Claim::Full { retry_after }) => {
                self.refuse(Rejection::new(RejectionKind::DedupStoreFull).with_retry_after(retry_after.unwrap_or(SOON)))
            }
            Err(why) => {
                self.refuse(Rejection::new(RejectionKind::DedupStoreFull).with_retry_after(SOON).with_source(why))
            }
        }
    }

    fn lead<St: Store>(mut self, lease: St::Lease, recorder: Recorder) -> StageOf<S, St, ResB> {
        let reader = recorder.log().reader();
        let wire = RejectionFormat::of(self.request.headers());
        let deadline = self.deadline().map(SharedDeadline::new);
        if let Some(deadline) = &deadline {
            self.request.extensions_mut().insert(deadline.clone());
        }
        let call = self.service.call(self.request);
        Stage::Leading {
            reader,
            flight: Flight::launch(call, recorder, lease, self.named, deadline, self.config),
            wire,
        }
    }

    fn follow<St: Store>(self, log: &Log, role: DedupRole) -> StageOf<S, St, ResB> {
        let Some(reader) = log.join(self.deadline()) else {
            return match self.named {
                KeySource::ByKey => self.refuse(Rejection::new(RejectionKind::IdempotencyKeyInFlight)),
                KeySource::ByFingerprint => {
                    self.step_aside("the same request was sent, and its answer is too long to join")
                }
            };
        };
        if role == DedupRole::Joined {
            self.config.emitter.emit(&Event::FlightJoined);
        }
        let wire = RejectionFormat::of(self.request.headers());
        Stage::Following { reader: Some(reader), role, config: self.config, wire }
    }

    fn step_aside<St: Store>(self, reason: &'static str) -> StageOf<S, St, ResB> {
        self.config.emitter.emit(&Event::Bypassed { layer: DedupLayer::NAME, reason });
        self.pass()
    }

    fn pass<St: Store>(mut self) -> StageOf<S, St, ResB> {
        Stage::Passing { call: self.service.call(self.request) }
    }

    #[cold]
    fn refuse<St: Store>(self, rejection: Rejection) -> StageOf<S, St, ResB> {
        self.config.emitter.emit(&Event::Refused { kind: rejection.kind() });
        Stage::Refused { rejection: Some(rejection), wire: RejectionFormat::of(self.request.headers()) }
    }

    /// Until when its caller wants the answer.
    fn deadline(&self) -> Option<Deadline> {
        [Deadline::of(self.request.extensions()), Deadline::current()].into_iter().flatten().min()
    }
}
