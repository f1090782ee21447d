use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::SupersedeBody;
use super::entered::EnteredMessage;
use super::reading::{Intake, Reading};
use crate::body::request::{CallBody, Handled, HandledFuture, Next};
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::ready::ReadyCall;

/// The future of [`Supersede`](crate::supersede::Supersede).
pub type SupersedeFuture<S> = HandledFuture<S, MessageCall<S>>;

pin_project! {
    /// The call of a message.
    pub struct MessageCall<S>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S, ReadyCall<S, Request<CallBody>>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, C> {
        Reading { reading: Box<Reading>, service: Option<S> },
        // It has its turn, or comes to it. The call is dropped first: it sees that it must not wait for another attempt.
        Entered { #[pin] call: C, message: Option<EnteredMessage> },
    }
}

// === impl MessageCall ===

impl<S: Service<Request<CallBody>>> MessageCall<S> {
    pub(super) fn next(service: S, intake: Intake) -> Next<S, Self> {
        let stage = match intake {
            Intake::Passes(request) => return Next::Pass(service, request),
            Intake::Reads(reading) => Stage::Reading { reading, service: Some(service) },
            Intake::Arrives(request, arrived) => match EnteredMessage::enter(service, request, arrived) {
                Ok((call, message)) => Stage::Entered { call, message: Some(message) },
                Err(kind) => return refuse(kind),
            },
        };
        Next::Handle(Self { stage })
    }
}

impl<S, B> Future for MessageCall<S>
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Handled<S, Self, Result<Response<SupersedeBody<B>>, S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().stage.project() {
            StageProj::Reading { reading, service } => {
                let intake = ready!(reading.poll(cx));
                let Some(service) = service.take() else { return Poll::Pending };
                Poll::Ready(ControlFlow::Continue(Self::next(service, intake)))
            }
            StageProj::Entered { call, message: entered } => {
                let Some(message) = entered else { return Poll::Pending };
                let Some(answered) = ready!(message.poll(cx, |cx| call.poll(cx))) else {
                    return Poll::Ready(ControlFlow::Continue(refuse(RejectionKind::Superseded)));
                };
                let Some(message) = entered.take() else { return Poll::Pending };
                Poll::Ready(ControlFlow::Break(answered.map(|response| message.answered(response))))
            }
        }
    }
}

fn refuse<S, H>(kind: RejectionKind) -> Next<S, H> {
    Next::Refuse(Rejection::new(kind), RejectionFormat::Http)
}
