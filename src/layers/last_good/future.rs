use std::error::Error;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::LastGoodBody;
use super::reading::Reading;
use super::search::Search;
use super::stand_in::{AfterCall, StandIn};
use crate::body::request::{CallBody, Handled, HandledFuture, Next};
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::rt::ready::ReadyCall;

/// The future of [`LastGood`](crate::last_good::LastGood).
pub type LastGoodFuture<S, B> = HandledFuture<S, LastGoodCall<S, B>>;

pin_project! {
    /// A call that may be answered from memory.
    pub struct LastGoodCall<S, B>
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
        Reading { reading: Box<Reading>, service: Option<S> },
        Calling { #[pin] call: C, stand_in: Option<Box<StandIn>> },
        // The call has failed.
        Searching { search: Search, stand_in: Box<StandIn>, otherwise: Option<R> },
    }
}

type StageOf<S, B> =
    Stage<S, ReadyCall<S, Request<CallBody>>, Result<Response<B>, <S as Service<Request<CallBody>>>::Error>>;

// === impl LastGoodCall ===

impl<S: Service<Request<CallBody>>, B> LastGoodCall<S, B> {
    pub(super) fn reading(service: S, reading: Reading) -> Next<S, Self> {
        Next::Handle(Self { stage: Stage::Reading { reading: Box::new(reading), service: Some(service) } })
    }
}

impl<S, B> Future for LastGoodCall<S, B>
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: Error + 'static>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Handled<S, Self, Result<Response<LastGoodBody<B>>, S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stage = match self.project().stage.project() {
            StageProj::Reading { reading, service } => {
                let (request, stand_in) = ready!(reading.poll(cx));
                let Some(service) = service.take() else { return Poll::Pending };
                if stand_in.is_none() {
                    return Poll::Ready(ControlFlow::Continue(Next::Pass(service, request)));
                }
                Stage::Calling { call: ReadyCall::new(service, request), stand_in }
            }
            StageProj::Calling { call, stand_in: slot } => {
                // Polled again after its end.
                let Some(stand_in) = slot else { return Poll::Pending };
                let Poll::Ready(result) = call.poll(cx) else {
                    let stored = ready!(stand_in.poll_deadline(cx));
                    return Poll::Ready(ControlFlow::Break(Ok(stored.map(LastGoodBody::text))));
                };
                let settled = stand_in.settle(&result);
                let Some(stand_in) = slot.take() else { return Poll::Pending };
                match settled {
                    AfterCall::Upstream => return Poll::Ready(ControlFlow::Break(stand_in.forward(result))),
                    AfterCall::Stored(stored) => {
                        return Poll::Ready(ControlFlow::Break(Ok(stored.map(LastGoodBody::text))));
                    }
                    AfterCall::Search(search) => Stage::Searching { search, stand_in, otherwise: Some(result) },
                }
            }
            StageProj::Searching { search, stand_in, otherwise } => {
                let found = ready!(stand_in.poll_search(search, cx));
                let Some(result) = otherwise.take() else { return Poll::Pending };
                let found = found.map(|found| Ok(found.map(LastGoodBody::text)));
                return Poll::Ready(ControlFlow::Break(found.unwrap_or_else(|| stand_in.forward(result))));
            }
        };
        Poll::Ready(ControlFlow::Continue(Next::Handle(Self { stage })))
    }
}
