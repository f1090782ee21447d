use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::SupersedeBody;
use super::entered::EnteredMessage;
use super::reading::{Arrived, ReadMessage, Reading};
use crate::body::request::CallBody;
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::ready::ReadyCall;

pin_project! {
    /// The future of [`Supersede`](crate::supersede::Supersede).
    #[must_use = "futures do nothing unless polled"]
    pub struct SupersedeFuture<S>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: StageOf<S>,
        // `None`: it is no message, or its call is over.
        message: Option<EnteredMessage>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, C> {
        Reading { reading: Box<Reading>, service: Option<S> },
        // Of a message that has its turn, or comes to it.
        Calling { #[pin] call: C },
        Refused { kind: Option<RejectionKind> },
    }
}

type StageOf<S> = Stage<S, ReadyCall<S, Request<CallBody>>>;

// === impl SupersedeFuture ===

impl<S> SupersedeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    /// A request that passes, where this layer is off.
    pub(super) fn calling(call: S::Future) -> Self {
        Self { stage: Stage::Calling { call: ReadyCall::called(call) }, message: None }
    }

    /// A request that passes.
    pub(super) fn passing(service: S, request: Request<CallBody>) -> Self {
        Self { stage: Stage::Calling { call: ReadyCall::new(service, request) }, message: None }
    }

    /// A message whose body has still to come.
    pub(super) fn reading(service: S, reading: Reading) -> Self {
        Self { stage: Stage::Reading { reading: Box::new(reading), service: Some(service) }, message: None }
    }

    /// A message that was read.
    pub(super) fn arrived(service: S, mut request: Request<CallBody>, arrived: Arrived) -> Self {
        match EnteredMessage::enter(&mut request, arrived) {
            Ok(message) => {
                let call = match message.goes_at_once() {
                    true => ReadyCall::new(service, request),
                    false => ReadyCall::parked(service, request),
                };
                Self { stage: Stage::Calling { call }, message: Some(message) }
            }
            Err(kind) => Self { stage: Stage::Refused { kind: Some(kind) }, message: None },
        }
    }
}

impl<S, ResB> Future for SupersedeFuture<S>
where
    S: Service<Request<CallBody>, Response = Response<ResB>>,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<SupersedeBody<ResB>>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            if let Some(message) = this.message.take_if(|message| message.is_superseded()) {
                // The inner call is dropped, and sees that it must not wait for another attempt.
                this.stage.set(Stage::Refused { kind: Some(RejectionKind::Superseded) });
                message.superseded();
            }
            match this.stage.project() {
                StageProj::Reading { reading, service } => {
                    let ReadMessage { request, arrived } = ready!(reading.poll(cx));
                    let Some(service) = service.take() else { return Poll::Pending };
                    self.set(match arrived {
                        Some(arrived) => Self::arrived(service, request, arrived),
                        None => Self::passing(service, request),
                    });
                }
                StageProj::Calling { call } => {
                    let has_turn = this.message.as_mut().is_none_or(|message| message.poll_turn(cx).is_ready());
                    let polled = if has_turn { call.poll(cx) } else { Poll::Pending };
                    let Poll::Ready(answered) = polled else {
                        let Some(message) = this.message else { return Poll::Pending };
                        ready!(message.poll_superseded(cx));
                        continue;
                    };
                    let message = this.message.take();
                    return Poll::Ready(answered.map(|response| match message {
                        Some(message) => message.answered(response),
                        None => response.map(SupersedeBody::untouched),
                    }));
                }
                // Polled again after its end.
                StageProj::Refused { kind } => {
                    let Some(kind) = kind.take() else { return Poll::Pending };
                    return Poll::Ready(Ok(SupersedeBody::refuse(Rejection::new(kind), RejectionFormat::Http)));
                }
            }
        }
    }
}

impl<S> fmt::Debug for SupersedeFuture<S>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupersedeFuture").finish_non_exhaustive()
    }
}
