use std::error::Error;
use std::fmt;
use std::future::Future;
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
use super::stand_in::{Settled, StandIn};
use crate::body::request::CallBody;
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::rt::ready::ReadyCall;

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
        Reading { reading: Box<Reading>, service: Option<S> },
        // `None`: the layer does not handle it.
        Calling { #[pin] call: C, stand_in: Option<Box<StandIn>> },
        // The call has failed.
        Searching { search: Search, stand_in: Option<Box<StandIn>>, otherwise: Option<R> },
        Over,
    }
}

type StageOf<S, B> =
    Stage<S, ReadyCall<S, Request<CallBody>>, Result<Response<B>, <S as Service<Request<CallBody>>>::Error>>;

// === impl LastGoodFuture ===

impl<S, B> LastGoodFuture<S, B>
where
    S: Service<Request<CallBody>>,
{
    /// The inner service was called.
    pub(super) fn called(call: S::Future) -> Self {
        Self { stage: Stage::Calling { call: ReadyCall::called(call), stand_in: None } }
    }

    /// The request passes.
    pub(super) fn passing(service: S, request: Request<CallBody>) -> Self {
        Self { stage: Stage::Calling { call: ReadyCall::new(service, request), stand_in: None } }
    }

    pub(super) fn reading(service: S, reading: Reading) -> Self {
        Self { stage: Stage::Reading { reading: Box::new(reading), service: Some(service) } }
    }
}

impl<S, B> Future for LastGoodFuture<S, B>
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: Error + 'static>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<LastGoodBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let returned = match stage.as_mut().project() {
                StageProj::Reading { reading, service } => {
                    let (request, stand_in) = ready!(reading.poll(cx));
                    let Some(service) = service.take() else { return Poll::Pending };
                    stage.set(Stage::Calling { call: ReadyCall::new(service, request), stand_in });
                    continue;
                }
                StageProj::Calling { call, stand_in } => match (call.poll(cx), stand_in.as_deref_mut()) {
                    (Poll::Ready(result), None) => result.map(|response| response.map(LastGoodBody::inner)),
                    (Poll::Ready(result), Some(held)) => match held.settle(&result) {
                        Settled::Upstream => held.forward(result),
                        Settled::Stored(response) => Ok(response.map(LastGoodBody::text)),
                        Settled::Search(search) => {
                            let stand_in = stand_in.take();
                            stage.set(Stage::Searching { search, stand_in, otherwise: Some(result) });
                            continue;
                        }
                    },
                    (Poll::Pending, Some(stand_in)) => Ok(ready!(stand_in.poll_deadline(cx)).map(LastGoodBody::text)),
                    (Poll::Pending, None) => return Poll::Pending,
                },
                StageProj::Searching { search, stand_in, otherwise } => {
                    let Some(stand_in) = stand_in else { return Poll::Pending };
                    let found = ready!(stand_in.poll_search(search, cx));
                    let Some(result) = otherwise.take() else { return Poll::Pending };
                    found.map_or_else(|| stand_in.forward(result), |found| Ok(found.map(LastGoodBody::text)))
                }
                // Polled again after its end.
                StageProj::Over => return Poll::Pending,
            };
            // If the answer is from memory, this drops the call.
            stage.set(Stage::Over);
            return Poll::Ready(returned);
        }
    }
}

impl<S, B> fmt::Debug for LastGoodFuture<S, B>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastGoodFuture").finish_non_exhaustive()
    }
}
