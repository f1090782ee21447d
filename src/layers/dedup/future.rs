use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::answer::{Answered, CallAnswer};
use super::body::DedupBody;
use super::claiming::Claiming;
use super::reading::{Intake, Reading};
use super::request::AnswerOf;
use crate::body::request::{CallBody, Handled, HandledFuture, Next};
use crate::error::BoxError;
use crate::rt::ready::ReadyCall;
use crate::store::Store;

/// The future of [`Dedup`](crate::dedup::Dedup).
pub type DedupFuture<S, St, ResB> = HandledFuture<S, DedupCall<S, St, ResB>>;

pin_project! {
    /// A call that may be shared.
    pub struct DedupCall<S, St, ResB>
    where
        S: Service<Request<CallBody>>,
        St: Store,
    {
        #[pin]
        stage: Stage<S, St, Claiming<S, St>, AnswerOf<S, St, ResB>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, St, C, A> {
        Reading { reading: Option<Box<Reading<S, St>>> },
        Claiming { #[pin] claiming: C },
        Answering { #[pin] answer: A },
    }
}

// === impl DedupCall ===

impl<S, St, ResB> DedupCall<S, St, ResB>
where
    S: Service<Request<CallBody>>,
    St: Store,
{
    pub(super) fn next(intake: Intake<S, St>) -> Next<S, Self> {
        let stage = match intake {
            Intake::Passes(service, request, None) => return Next::Pass(service, request),
            Intake::Passes(service, request, key_ignored) => {
                let call = ReadyCall::new(service, request);
                Stage::Answering { answer: CallAnswer::Passing { call, key_ignored, on_accepted: None } }
            }
            Intake::Refuses(rejection, format) => return Next::Refuse(rejection, format),
            Intake::ComesBack(back) => Stage::Answering { answer: CallAnswer::Returning { back } },
            Intake::Reads(reading) => Stage::Reading { reading: Some(reading) },
            Intake::Claims(request) => Stage::Claiming { claiming: Claiming::new(request) },
        };
        Next::Handle(Self { stage })
    }
}

impl<S, St, ResB> Future for DedupCall<S, St, ResB>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Future: Send + 'static> + Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
{
    type Output = Handled<S, Self, Result<Response<DedupBody<ResB>>, S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let next = match stage.as_mut().project() {
                StageProj::Reading { reading: slot } => {
                    // Polled again after its end.
                    let Some(reading) = slot else { return Poll::Pending };
                    let read = ready!(reading.poll_body(cx));
                    let Some(reading) = slot.take() else { return Poll::Pending };
                    return Poll::Ready(ControlFlow::Continue(Self::next(reading.finish(read))));
                }
                StageProj::Claiming { claiming } => Stage::Answering { answer: ready!(claiming.poll(cx)) },
                StageProj::Answering { answer } => match ready!(answer.poll(cx)) {
                    Answered::Response(result) => return Poll::Ready(ControlFlow::Break(result)),
                    Answered::ClaimAgain(request) => Stage::Claiming { claiming: Claiming::new(request) },
                },
            };
            // This drops the stage before.
            stage.set(next);
        }
    }
}
