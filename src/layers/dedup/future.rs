use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::answer::{Answered, CallAnswer};
use super::body::DedupBody;
use super::reading::{Read, Reading};
use super::request::{AnswerOf, ReadRequest};
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat};
use crate::rt::ready::ReadyCall;
use crate::store::Store;

pin_project! {
    /// The future of [`Dedup`](crate::dedup::Dedup).
    #[must_use = "futures do nothing unless polled"]
    pub struct DedupFuture<S, St, ResB>
    where
        S: Service<Request<CallBody>>,
        St: Store,
    {
        #[pin]
        stage: Stage<S, St, St::Claim, AnswerOf<S, St, ResB>>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, St, C, A> {
        Reading { reading: Option<Reading<S, St>> },
        Claiming { #[pin] claim: C, request: Option<ReadRequest<S, St>> },
        Answering { #[pin] answer: A },
    }
}

// === impl DedupFuture ===

impl<S, St, ResB> DedupFuture<S, St, ResB>
where
    S: Service<Request<CallBody>>,
    St: Store,
{
    /// The inner service was called.
    pub(super) fn called(call: S::Future) -> Self {
        Self::answering(CallAnswer::Passing { call: ReadyCall::called(call), key_ignored: None, on_accepted: None })
    }

    /// The request passes.
    pub(super) fn passing(service: S, request: Request<CallBody>) -> Self {
        Self::answering(CallAnswer::Passing {
            call: ReadyCall::new(service, request),
            key_ignored: None,
            on_accepted: None,
        })
    }

    pub(super) fn reading(reading: Reading<S, St>) -> Self {
        Self { stage: Stage::Reading { reading: Some(reading) } }
    }

    #[cold]
    pub(super) fn refused(rejection: Rejection, format: RejectionFormat) -> Self {
        Self::answering(CallAnswer::Refused { rejection: Some(rejection), format })
    }

    pub(super) fn answering(answer: AnswerOf<S, St, ResB>) -> Self {
        Self { stage: Stage::Answering { answer } }
    }
}

impl<S, St, ResB> Future for DedupFuture<S, St, ResB>
where
    S: Service<Request<CallBody>, Response = Response<ResB>, Future: Send + 'static> + Send + 'static,
    S::Error: Send + 'static,
    St: Store,
    ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
{
    type Output = Result<Response<DedupBody<ResB>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let next = match stage.as_mut().project() {
                StageProj::Reading { reading } => {
                    let Some(body) = reading else { return Poll::Pending };
                    let read = ready!(body.poll_body(cx));
                    let Some(reading) = reading.take() else { return Poll::Pending };
                    match reading.finish(read) {
                        Read::Whole(request) => Stage::claiming(request),
                        Read::Bypassed { service, request, key_ignored } => {
                            let call = ReadyCall::new(service, request);
                            Stage::Answering { answer: CallAnswer::Passing { call, key_ignored, on_accepted: None } }
                        }
                    }
                }
                StageProj::Claiming { claim, request } => {
                    let claim = ready!(claim.poll(cx));
                    // Polled again after its end.
                    let Some(request) = request.take() else { return Poll::Pending };
                    Stage::Answering { answer: request.settle(claim) }
                }
                StageProj::Answering { answer } => match ready!(answer.poll(cx)) {
                    Answered::Response(response) => return Poll::Ready(response),
                    Answered::ClaimAgain(request) => Stage::claiming(*request),
                },
            };
            stage.set(next);
        }
    }
}

impl<S, St, ResB> fmt::Debug for DedupFuture<S, St, ResB>
where
    S: Service<Request<CallBody>>,
    St: Store,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Reading { .. } => "DedupFuture::Reading",
            Stage::Claiming { .. } => "DedupFuture::Claiming",
            Stage::Answering { .. } => "DedupFuture::Answering",
        })
    }
}

// === impl Stage ===

impl<S, St: Store, A> Stage<S, St, St::Claim, A> {
    fn claiming(mut request: ReadRequest<S, St>) -> Self {
        Self::Claiming { claim: request.claim(), request: Some(request) }
    }
}
