use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::SupersedeBody;
use super::config::Config;
use super::reading::{Arrived, ReadMessage, Reading};
use super::shared::ConversationCall;
use super::waiting::Waiting;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::supersede::Refusal;
use crate::proto::retry_after::should_retry;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::cancellation::GoesOn;

pin_project! {
    /// The future of [`Supersede`](crate::supersede::Supersede).
    #[must_use = "futures do nothing unless polled"]
    pub struct SupersedeFuture<S>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S, S::Future, S::Error>,
        // `None`: it is no message, or its call is over.
        message: Option<EnteredMessage>,
    }
}

pin_project! {
    #[project = StageProj]
    #[project_replace = StageOwned]
    enum Stage<S, F, E> {
        Reading { reading: Box<Reading>, service: S },
        Waiting { waiting: Box<Waiting>, parked: Box<Parked<S>> },
        Readying { parked: Box<Parked<S>> },
        Calling { #[pin] call: F },
        Refused { kind: RejectionKind },
        Failed { err: Box<E> },
        Over,
    }
}

type StageOf<S> = Stage<S, <S as Service<Request<CallBody>>>::Future, <S as Service<Request<CallBody>>>::Error>;

/// A call that was not made yet. Boxed, so that every other future is not as large as a request.
struct Parked<S> {
    service: S,
    request: Request<CallBody>,
}

/// A message in its conversation.
struct EnteredMessage {
    call: ConversationCall,
    config: Arc<Config>,
}

// === impl SupersedeFuture ===

impl<S> SupersedeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    /// A request that passes, where this layer is off.
    pub(super) fn calling(call: S::Future) -> Self {
        Self { stage: Stage::Calling { call }, message: None }
    }

    /// A request that passes.
    pub(super) fn passing(service: S, request: Request<CallBody>) -> Self {
        Self { stage: begin(service, request), message: None }
    }

    /// A message whose body has still to come.
    pub(super) fn reading(service: S, reading: Reading) -> Self {
        Self { stage: Stage::Reading { reading: Box::new(reading), service }, message: None }
    }

    /// A message that was read.
    pub(super) fn arrived(service: S, request: Request<CallBody>, arrived: Arrived) -> Self {
        let (stage, message) = enter(service, request, arrived);
        Self { stage, message }
    }
}

/// Makes the call, where the service is ready. One that is not is asked again by the call's task.
fn begin<S>(mut service: S, request: Request<CallBody>) -> StageOf<S>
where
    S: Service<Request<CallBody>>,
{
    match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(())) => Stage::Calling { call: service.call(request) },
        Poll::Ready(Err(err)) => Stage::Failed { err: Box::new(err) },
        Poll::Pending => Stage::Readying { parked: Box::new(Parked { service, request }) },
    }
}

/// A message that was read comes to its conversation.
fn enter<S>(service: S, mut request: Request<CallBody>, arrived: Arrived) -> (StageOf<S>, Option<EnteredMessage>)
where
    S: Service<Request<CallBody>>,
{
    let Arrived { message, order, config, shared } = arrived;
    let kind = match shared.arrive(&message, order, &config) {
        Ok(call) => {
            request.extensions_mut().insert(call.cancellation().clone());
            let stage = match call.goes_at_once() {
                true => begin(service, request),
                false => Stage::Waiting { waiting: Box::default(), parked: Box::new(Parked { service, request }) },
            };
            return (stage, Some(EnteredMessage { call, config }));
        }
        Err(Refusal::Superseded) => RejectionKind::Superseded,
        Err(Refusal::Busy) => RejectionKind::ConversationBusy,
    };
    config.emitter.emit(&Event::Refused { kind });
    (Stage::Refused { kind }, None)
}

impl<S, ResB> Future for SupersedeFuture<S>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes> + 'static,
    ResB::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<SupersedeBody<ResB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let is_ended = |message: &mut EnteredMessage| message.call.cancellation().is_cancelled();
            if let Some(EnteredMessage { config, .. }) = this.message.take_if(is_ended) {
                // What is inside is dropped, and finds that it is not to wait for another attempt.
                let kind = RejectionKind::Superseded;
                this.stage.set(Stage::Refused { kind });
                config.emitter.emit(&Event::Refused { kind });
            }
            match this.stage.as_mut().project() {
                StageProj::Reading { reading, .. } => {
                    let ReadMessage { request, arrived } = ready!(reading.poll(cx));
                    let StageOwned::Reading { service, .. } = this.stage.as_mut().project_replace(Stage::Over) else {
                        return Poll::Pending;
                    };
                    let (next, message) = match arrived {
                        Some(arrived) => enter(service, request, arrived),
                        None => (begin(service, request), None),
                    };
                    *this.message = message;
                    this.stage.set(next);
                }
                StageProj::Waiting { waiting, .. } => {
                    let Some(EnteredMessage { call, .. }) = this.message.as_ref() else { return Poll::Pending };
                    if waiting.poll(call, cx).is_pending() {
                        // Its turn may have come meanwhile: it is looked at once more, with a waker in place.
                        if call.poll_cancelled(cx).is_ready() {
                            continue;
                        }
                        ready!(waiting.poll(call, cx));
                    }
                    let StageOwned::Waiting { parked, .. } = this.stage.as_mut().project_replace(Stage::Over) else {
                        return Poll::Pending;
                    };
                    this.stage.set(Stage::Readying { parked });
                }
                StageProj::Readying { parked } => {
                    let ready = match parked.service.poll_ready(cx) {
                        Poll::Ready(ready) => ready,
                        Poll::Pending => match this.message.as_ref() {
                            Some(message) if message.call.poll_cancelled(cx).is_ready() => continue,
                            _ => return Poll::Pending,
                        },
                    };
                    let StageOwned::Readying { parked } = this.stage.as_mut().project_replace(Stage::Over) else {
                        return Poll::Pending;
                    };
                    ready?;
                    let Parked { mut service, request } = *parked;
                    this.stage.set(Stage::Calling { call: service.call(request) });
                }
                StageProj::Calling { call } => {
                    let answered = match call.poll(cx) {
                        Poll::Ready(answered) => answered,
                        Poll::Pending => match this.message.as_ref() {
                            Some(message) if message.call.poll_cancelled(cx).is_ready() => continue,
                            _ => return Poll::Pending,
                        },
                    };
                    let message = this.message.take();
                    return Poll::Ready(answered.map(|response| watch(response, message)));
                }
                StageProj::Refused { kind } => {
                    let kind = *kind;
                    this.stage.set(Stage::Over);
                    return Poll::Ready(Ok(SupersedeBody::refuse(Rejection::new(kind), RejectionFormat::Http)));
                }
                StageProj::Failed { .. } => {
                    let StageOwned::Failed { err } = this.stage.as_mut().project_replace(Stage::Over) else {
                        return Poll::Pending;
                    };
                    *this.message = None;
                    return Poll::Ready(Err(*err));
                }
                StageProj::Over => return Poll::Pending,
            }
        }
    }
}

/// The head is here.
fn watch<B>(response: Response<B>, message: Option<EnteredMessage>) -> Response<SupersedeBody<B>>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let Some(EnteredMessage { call, config }) = message else { return response.map(SupersedeBody::untouched) };
    // An answer that comes later, and elsewhere: until then a newer message takes its place.
    let goes_on = response.extensions().get::<GoesOn>().is_some();
    let (is_final, is_over) = (!goes_on && !is_retried(&response), response.body().is_end_stream());
    if is_over && is_final {
        // Nothing is remembered of it.
        call.answered();
        return response.map(SupersedeBody::untouched);
    }
    if response.status().is_success() && !goes_on {
        call.served();
    }
    if is_over {
        return response.map(SupersedeBody::untouched);
    }
    response.map(|body| SupersedeBody::watched(body, call, is_final, config))
}

/// Whether clients try again by themselves after such an answer.
fn is_retried<B>(response: &Response<B>) -> bool {
    use StatusCode as Is;
    let status = response.status();
    should_retry(response.headers()).unwrap_or_else(|| {
        status.is_server_error()
            || matches!(status, Is::REQUEST_TIMEOUT | Is::CONFLICT | Is::TOO_EARLY | Is::TOO_MANY_REQUESTS)
    })
}

impl<S> fmt::Debug for SupersedeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Reading { .. } => "SupersedeFuture::Reading",
            Stage::Waiting { .. } => "SupersedeFuture::Waiting",
            Stage::Readying { .. } => "SupersedeFuture::Readying",
            Stage::Calling { .. } => "SupersedeFuture::Calling",
            Stage::Refused { .. } => "SupersedeFuture::Refused",
            Stage::Failed { .. } => "SupersedeFuture::Failed",
            Stage::Over => "SupersedeFuture::Over",
        })
    }
}
