use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::LastGoodBody;
use super::config::Config;
use super::key::{PendingKeys, RequestKeys};
use super::recorder::Recorder;
use super::similar::{Embedding, Similar};
use super::stored::{AnswerStore, Stored};
use super::template::UnansweredRequest;
use crate::body::request::{CallBody, RequestRead, RequestReading};
use crate::call::{StaleKind, Tenant};
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::last_good::may_stand_in;
use crate::policy::verdict::{Classifier, Outcome};
use crate::rt::clock;
use crate::rt::deadline::CallDeadline;
use crate::rt::ready::ReadyCall;
use crate::rt::timeout::Timeout;
use crate::store::{AnswerFuture, LastGoodAnswer};

pin_project! {
    /// The future of [`LastGood`](crate::last_good::LastGood).
    #[must_use = "futures do nothing unless polled"]
    pub struct LastGoodFuture<S, B>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: StageOf<S, B>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, C, R> {
        Reading { reading: Option<Box<Reading<S>>> },
        // The layer has nothing to do with it.
        Passing { #[pin] call: C },
        Calling { #[pin] call: C, asking: Box<Asking> },
        // The call has failed, and the other processes are asked.
        Recalling { recalling: Recalling, until: Instant, timeout: Timeout, asking: Box<Asking>, otherwise: Option<R> },
        // The call has failed, and it is looked for an answer to a similar request.
        Embedding { embedding: Embedding, until: Instant, timeout: Timeout, asking: Box<Asking>, otherwise: Option<R> },
        Over,
    }
}

type StageOf<S, B> =
    Stage<S, ReadyCall<S, Request<CallBody>>, Result<Response<B>, <S as Service<Request<CallBody>>>::Error>>;

/// A request whose body is being read.
pub(super) struct Reading<S> {
    service: S,
    keys: PendingKeys,
    parts: Parts,
    body: RequestReading,
    store: Arc<AnswerStore>,
    config: Arc<Config>,
}

/// A call that is under way, and what it takes to answer it from memory.
struct Asking {
    request: RequestKeys,
    /// Where there is a template.
    unanswered: Option<Box<UnansweredRequest>>,
    tenant: Option<Tenant>,
    classifier: Classifier,
    deadline: Option<CallDeadline>,
    watch: DeadlineWatch,
    store: Arc<AnswerStore>,
    config: Arc<Config>,
}

/// What is returned.
enum Settled {
    /// What the upstream said.
    Upstream,
    Stored(Response<Bytes>),
    /// Until then, the other processes are asked.
    Recall {
        recalling: Recalling,
        until: Instant,
    },
    /// Until then, it is looked for an answer to a similar request.
    Embed {
        embedding: Embedding,
        until: Instant,
    },
}

/// What other processes have.
type Recalling = AnswerFuture<Option<LastGoodAnswer>>;

/// A caller that is about to read an error waits no longer for the other processes.
const RECALL: Duration = Duration::from_millis(500);

/// Whether the deadline is watched.
enum DeadlineWatch {
    /// Not known yet: nothing had to be waited for.
    Unknown,
    /// There is an answer for it: so long before the deadline it is returned.
    Until { reserve: Duration, timeout: Timeout },
    /// There is no answer, or no deadline.
    No,
}

// === impl LastGoodFuture ===

impl<S, B> LastGoodFuture<S, B>
where
    S: Service<Request<CallBody>>,
{
    /// The inner service was called.
    pub(super) fn called(call: S::Future) -> Self {
        Self::at(Stage::Passing { call: ReadyCall::called(call) })
    }

    /// The request passes.
    pub(super) fn passing(service: S, request: Request<CallBody>) -> Self {
        Self::at(Stage::Passing { call: ReadyCall::new(service, request) })
    }

    pub(super) fn reading(reading: Reading<S>) -> Self {
        Self::at(Stage::Reading { reading: Some(Box::new(reading)) })
    }

    fn at(stage: StageOf<S, B>) -> Self {
        Self { stage }
    }
}

impl<S, B> Future for LastGoodFuture<S, B>
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    S::Error: Error + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<LastGoodBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let (result, next) = match stage.as_mut().project() {
                StageProj::Reading { reading } => {
                    let Some(Reading { body, .. }) = reading.as_deref_mut() else { return Poll::Pending };
                    let read = ready!(body.poll(cx, |_| {}));
                    match reading.take() {
                        Some(reading) => (None, (*reading).finish(read)),
                        None => return Poll::Pending,
                    }
                }
                StageProj::Passing { call } => {
                    let result = ready!(call.poll(cx));
                    (Some(result.map(|response| response.map(|body| LastGoodBody::inner(body, None)))), Stage::Over)
                }
                StageProj::Calling { call, asking } => match call.poll(cx) {
                    Poll::Ready(result) => match asking.settle(&result) {
                        Settled::Upstream => (Some(asking.hand_on(result)), Stage::Over),
                        Settled::Stored(response) => (Some(Ok(LastGoodBody::stored(response))), Stage::Over),
                        Settled::Recall { recalling, until } => {
                            let (asking, otherwise) = (asking.take(), Some(result));
                            let timeout = Timeout::default();
                            (None, Stage::Recalling { recalling, until, timeout, asking, otherwise })
                        }
                        Settled::Embed { embedding, until } => {
                            let (asking, otherwise) = (asking.take(), Some(result));
                            let timeout = Timeout::default();
                            (None, Stage::Embedding { embedding, until, timeout, asking, otherwise })
                        }
                    },
                    Poll::Pending => (Some(Ok(LastGoodBody::stored(ready!(asking.poll_deadline(cx))))), Stage::Over),
                },
                StageProj::Recalling { recalling, until, timeout, asking, otherwise } => {
                    let answer = match recalling.as_mut().poll(cx) {
                        Poll::Ready(answer) => answer,
                        Poll::Pending => {
                            ready!(timeout.poll_until(*until, cx));
                            None
                        }
                    };
                    let found = answer.and_then(|answer| asking.recalled(answer));
                    let Some(result) = otherwise.take() else { return Poll::Pending };
                    match found.map_or_else(|| asking.settle_otherwise(), Settled::Stored) {
                        Settled::Stored(response) => (Some(Ok(LastGoodBody::stored(response))), Stage::Over),
                        Settled::Embed { embedding, until } => {
                            let (asking, timeout) = (asking.take(), Timeout::default());
                            let otherwise = Some(result);
                            (None, Stage::Embedding { embedding, until, timeout, asking, otherwise })
                        }
                        Settled::Upstream | Settled::Recall { .. } => (Some(asking.hand_on(result)), Stage::Over),
                    }
                }
                StageProj::Embedding { embedding, until, timeout, asking, otherwise } => {
                    let vectors = match embedding.as_mut().poll(cx) {
                        Poll::Ready(vectors) => vectors.ok(),
                        Poll::Pending => {
                            ready!(timeout.poll_until(*until, cx));
                            None
                        }
                    };
                    let found = asking.find_similar(vectors.and_then(|vectors| vectors.into_iter().next()));
                    let Some(result) = otherwise.take() else { return Poll::Pending };
                    let result = match found.or_else(|| asking.fill_in()) {
                        Some(response) => Ok(LastGoodBody::stored(response)),
                        None => result.map(|response| response.map(|body| LastGoodBody::inner(body, None))),
                    };
                    (Some(result), Stage::Over)
                }
                // Polled again after it was over.
                StageProj::Over => return Poll::Pending,
            };
            // Where the answer is from memory, this drops the call.
            stage.set(next);
            if let Some(result) = result {
                return Poll::Ready(result);
            }
        }
    }
}

impl<S, B> fmt::Debug for LastGoodFuture<S, B>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Reading { .. } => "LastGoodFuture::Reading",
            Stage::Passing { .. } => "LastGoodFuture::Passing",
            Stage::Calling { .. } => "LastGoodFuture::Calling",
            Stage::Recalling { .. } => "LastGoodFuture::Recalling",
            Stage::Embedding { .. } => "LastGoodFuture::Embedding",
            Stage::Over => "LastGoodFuture::Over",
        })
    }
}

// === impl Reading ===

impl<S> Reading<S> {
    pub(super) fn new(
        service: S,
        keys: PendingKeys,
        request: Request<CallBody>,
        store: Arc<AnswerStore>,
        config: Arc<Config>,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let (bytes, limit) = (config.max_body_bytes, config.read_timeout);
        let body = RequestReading::new(body, bytes, limit, &config.memory, &parts.extensions);
        Self { service, keys, parts, body, store, config }
    }
}

impl<S: Service<Request<CallBody>>> Reading<S> {
    fn finish<R>(self, read: RequestRead) -> Stage<S, ReadyCall<S, Request<CallBody>>, R> {
        let body = match read {
            RequestRead::Whole { data, trailers } => {
                let Self { service, keys, parts, store, config, .. } = self;
                let keys = keys.finish(&data, trailers.as_ref(), &config);
                let templated = keys.as_ref().filter(|_| config.template.is_some());
                let unanswered =
                    templated.map(|keys| Box::new(UnansweredRequest::new(keys.kind, parts.clone(), data.clone())));
                let request = Request::from_parts(parts, CallBody::whole(data, trailers));
                let Some(keys) = keys else { return Stage::Passing { call: ReadyCall::new(service, request) } };
                let asking = Asking {
                    request: keys,
                    unanswered,
                    tenant: request.extensions().get().cloned(),
                    classifier: config.classifier.clone().for_call(&request),
                    deadline: CallDeadline::earliest(request.extensions(), None),
                    watch: DeadlineWatch::Unknown,
                    store,
                    config,
                };
                return Stage::Calling { call: ReadyCall::new(service, request), asking: Box::new(asking) };
            }
            RequestRead::Unread(body, why) => {
                self.config.bypassed(why.reason());
                body
            }
            RequestRead::Failed(body) => body,
        };
        Stage::Passing { call: ReadyCall::new(self.service, Request::from_parts(self.parts, body)) }
    }
}

// === impl Asking ===

impl Asking {
    /// What the upstream's answer, or error, comes to.
    fn settle<B, E: Error + 'static>(&self, result: &Result<Response<B>, E>) -> Settled {
        if !may_stand_in(&self.classifier.classify(&Outcome::of(result))) {
            return Settled::Upstream;
        }
        if let Some(stored) = self.find() {
            return Settled::Stored(stored);
        }
        self.recall().unwrap_or_else(|| self.settle_otherwise())
    }

    /// Asks the other processes, where there are any and the caller takes an earlier answer.
    fn recall(&self) -> Option<Settled> {
        let (peers, max_age) = self.config.peers.as_ref().zip(self.request.max_age)?;
        let until = self.by(RECALL)?;
        Some(Settled::Recall { recalling: peers.find(self.request.shared(), max_age), until })
    }

    /// When `limit` has passed, or half of what is left to the deadline.
    fn by(&self, limit: Duration) -> Option<Instant> {
        let now = clock::now();
        let left = self.deadline.as_ref().and_then(CallDeadline::get).map(|deadline| deadline.remaining_at(now) / 2);
        now.checked_add(left.map_or(limit, |left| left.min(limit)))
    }

    /// Without an answer to the same request.
    fn settle_otherwise(&self) -> Settled {
        if let Some((embedding, until)) = self.embed() {
            return Settled::Embed { embedding, until };
        }
        self.fill_in().map_or(Settled::Upstream, Settled::Stored)
    }

    /// The upstream's answer, which is kept if it is one.
    fn hand_on<B, E>(&self, result: Result<Response<B>, E>) -> Result<Response<LastGoodBody<B>>, E>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError> + 'static,
    {
        result.map(|response| {
            let recorder =
                Recorder::of(&response, self.request.clone(), self.tenant.as_ref(), &self.store, &self.config);
            response.map(|body| LastGoodBody::inner(body, recorder))
        })
    }

    /// An answer that another process has kept, if it is young enough.
    fn recalled(&self, answer: LastGoodAnswer) -> Option<Response<Bytes>> {
        let now = clock::now();
        let kind = if answer.is_exact { StaleKind::Exact } else { StaleKind::Normalized };
        let stored = Stored { head: answer.head, body: answer.body, _reservation: None };
        let age = stored.age(now);
        if age > self.request.max_age? || stored.body.len() > self.config.max_answer {
            return None;
        }
        self.config.emitter.emit(&Event::StaleServed { kind, age });
        Some(stored.to_response(kind, now))
    }

    /// Asks what the last message means, where there is something to compare it with, and until when that may take.
    fn embed(&self) -> Option<(Embedding, Instant)> {
        let (similar, question) = self.config.similar.as_ref().zip(self.request.question.as_ref())?;
        self.request.max_age?;
        if !self.store.with(|answers| answers.has_scope(question.scope)) {
            return None;
        }
        Some((similar.embed(question.text.clone()), self.by(similar.timeout)?))
    }

    /// The answer to the most similar request, if one is similar enough and means the same as far as can be told.
    fn find_similar(&self, vector: Option<Vec<f32>>) -> Option<Response<Bytes>> {
        let (similar, question) = self.config.similar.as_ref().zip(self.request.question.as_ref())?;
        let (vector, max_age, now) = (vector?, self.request.max_age?, clock::now());
        let candidates = self.store.with(|answers| answers.candidates(question.scope, now));
        let near =
            candidates.into_iter().filter(|(_, stored)| stored.age(now) <= max_age).filter_map(|(meaning, stored)| {
                let cosine = Similar::cosine(&meaning.vector, &vector).filter(|cosine| *cosine >= similar.threshold)?;
                Some((cosine, meaning, stored))
            });
        let alike = near.filter(|(_, meaning, _)| Similar::agree(&meaning.text, &question.text));
        let (cosine, _, stored) = alike.max_by(|(one, ..), (other, ..)| one.total_cmp(other))?;
        self.config.emitter.emit(&Event::StaleServed { kind: StaleKind::Similar, age: stored.age(now) });
        Some(stored.to_similar(cosine, now))
    }

    /// The operator's text.
    fn fill_in(&self) -> Option<Response<Bytes>> {
        let (template, unanswered) = self.config.template.as_ref().zip(self.unanswered.as_ref())?;
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        let response = unanswered.answer(template, now.as_secs())?;
        self.config.emitter.emit(&Event::StaleServed { kind: StaleKind::Template, age: Duration::ZERO });
        Some(response)
    }

    /// Leaves nothing behind, for the stage that follows.
    fn take(&mut self) -> Box<Self> {
        Box::new(Self {
            request: self.request.clone(),
            unanswered: self.unanswered.take(),
            tenant: self.tenant.take(),
            classifier: self.classifier.clone(),
            deadline: self.deadline.take(),
            watch: DeadlineWatch::No,
            store: Arc::clone(&self.store),
            config: Arc::clone(&self.config),
        })
    }

    /// Ready, with an earlier answer, shortly before the deadline.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Response<Bytes>> {
        let deadline = self.deadline.as_ref().and_then(CallDeadline::get);
        if matches!(self.watch, DeadlineWatch::Unknown) {
            self.watch = match deadline {
                Some(deadline) if self.look(clock::now()).is_some() || self.unanswered.is_some() => {
                    // A call that has little time keeps most of it.
                    let reserve = self.config.reserve.min(deadline.remaining() / 4);
                    DeadlineWatch::Until { reserve, timeout: Timeout::default() }
                }
                _ => DeadlineWatch::No,
            };
        }
        let DeadlineWatch::Until { reserve, timeout } = &mut self.watch else { return Poll::Pending };
        let Some(at) = deadline.and_then(|deadline| deadline.instant().checked_sub(*reserve)) else {
            return Poll::Pending;
        };
        ready!(timeout.poll_until(at, cx));
        match self.find().or_else(|| self.fill_in()) {
            Some(stored) => Poll::Ready(stored),
            None => {
                self.watch = DeadlineWatch::No;
                Poll::Pending
            }
        }
    }

    /// An earlier answer, with the event that tells of it.
    fn find(&self) -> Option<Response<Bytes>> {
        let now = clock::now();
        let (stored, kind) = self.look(now)?;
        self.config.emitter.emit(&Event::StaleServed { kind, age: stored.age(now) });
        Some(stored.to_response(kind, now))
    }

    fn look(&self, now: Instant) -> Option<(Arc<Stored>, StaleKind)> {
        let max_age = self.request.max_age?;
        let keys = &self.request.keys;
        let young = |stored: &Arc<Stored>| stored.age(now) <= max_age;
        self.store.with(|answers| {
            let exact = answers.exact(keys.exact, now).filter(young).map(|stored| (stored, StaleKind::Exact));
            exact.or_else(|| {
                let stored = answers.normal(keys.normal?, now, young)?;
                Some((stored, StaleKind::Normalized))
            })
        })
    }
}
