use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::LastGoodBody;
use super::config::Config;
use super::key::PendingKeys;
use super::similar::Embedding;
use super::stand_in::{Recalling, Settled, StandIn};
use super::stored::AnswerStore;
use super::template::UnansweredRequest;
use crate::body::request::{CallBody, RequestRead, RequestReading};
use crate::error::BoxError;
use crate::rt::ready::ReadyCall;
use crate::rt::timeout::Timeout;

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
        Calling { #[pin] call: C, stand_in: Box<StandIn> },
        // The call has failed, and the other processes are asked.
        Recalling { recalling: Recalling, until: Instant, timeout: Timeout, stand_in: Box<StandIn>, otherwise: Option<R> },
        // The call has failed, and an answer to a similar request is looked for.
        Embedding { embedding: Embedding, until: Instant, timeout: Timeout, stand_in: Box<StandIn>, otherwise: Option<R> },
        Over,
    }
}

type StageOf<S, B> =
    Stage<S, ReadyCall<S, Request<CallBody>>, Result<Response<B>, <S as Service<Request<CallBody>>>::Error>>;

/// What the future returns, if it is over, and the stage that follows.
type Step<S, C, B, E> = (Option<Result<Response<LastGoodBody<B>>, E>>, Stage<S, C, Result<Response<B>, E>>);

/// A request whose body is being read.
pub(super) struct Reading<S> {
    service: S,
    keys: PendingKeys,
    parts: Parts,
    body: RequestReading,
    store: Arc<AnswerStore>,
    config: Arc<Config>,
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
                StageProj::Calling { call, stand_in } => match call.poll(cx) {
                    Poll::Ready(result) => stand_in.settle(&result).next(stand_in, result),
                    Poll::Pending => (Some(Ok(LastGoodBody::stored(ready!(stand_in.poll_deadline(cx))))), Stage::Over),
                },
                StageProj::Recalling { recalling, until, timeout, stand_in, otherwise } => {
                    let answer = ready!(poll_until(recalling.as_mut(), timeout, *until, cx)).flatten();
                    let found = answer.and_then(|answer| stand_in.recalled(answer));
                    let Some(result) = otherwise.take() else { return Poll::Pending };
                    found.map_or_else(|| stand_in.settle_otherwise(), Settled::Stored).next(stand_in, result)
                }
                StageProj::Embedding { embedding, until, timeout, stand_in, otherwise } => {
                    let vectors = ready!(poll_until(embedding.as_mut(), timeout, *until, cx)).and_then(Result::ok);
                    let found = stand_in.find_similar(vectors.and_then(|vectors| vectors.into_iter().next()));
                    let Some(result) = otherwise.take() else { return Poll::Pending };
                    let result = match found.or_else(|| stand_in.fill_in()) {
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
                let stand_in = Box::new(StandIn::new(keys, unanswered, &request, store, config));
                return Stage::Calling { call: ReadyCall::new(service, request), stand_in };
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

// === impl Settled ===

impl Settled {
    /// The answer, or what to wait for while the upstream's is kept back.
    fn next<S, C, B, E>(self, stand_in: &mut StandIn, result: Result<Response<B>, E>) -> Step<S, C, B, E>
    where
        B: Body<Data = Bytes> + 'static,
        B::Error: Into<BoxError> + 'static,
    {
        let timeout = Timeout::default();
        match self {
            Self::Upstream => (Some(stand_in.hand_on(result)), Stage::Over),
            Self::Stored(response) => (Some(Ok(LastGoodBody::stored(response))), Stage::Over),
            Self::Recall { recalling, until } => {
                let (stand_in, otherwise) = (stand_in.take(), Some(result));
                (None, Stage::Recalling { recalling, until, timeout, stand_in, otherwise })
            }
            Self::Embed { embedding, until } => {
                let (stand_in, otherwise) = (stand_in.take(), Some(result));
                (None, Stage::Embedding { embedding, until, timeout, stand_in, otherwise })
            }
        }
    }
}

/// What the future returns, or `None` once `until` is over.
fn poll_until<T>(
    future: Pin<&mut (dyn Future<Output = T> + Send)>,
    timeout: &mut Timeout,
    until: Instant,
    cx: &mut Context<'_>,
) -> Poll<Option<T>> {
    match future.poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => timeout.poll_until(until, cx).map(|()| None),
    }
}
