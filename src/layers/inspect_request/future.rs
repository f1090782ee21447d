use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::reading::Reading;
use crate::body::request::CallBody;
use crate::rt::ready::ReadyCall;

pin_project! {
    /// The future of [`InspectRequest`](crate::inspect_request::InspectRequest).
    #[must_use = "futures do nothing unless polled"]
    pub struct InspectRequestFuture<S>
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
        // The service is polled for readiness only after the request was read: otherwise a caller that sends nothing would
        // hold its place.
        Reading { reading: Box<Reading>, service: S },
        Calling { #[pin] call: C },
    }
}

// === impl InspectRequestFuture ===

impl<S> InspectRequestFuture<S>
where
    S: Service<Request<CallBody>>,
{
    pub(super) fn reading(reading: Reading, service: S) -> Self {
        Self { stage: Stage::Reading { reading: Box::new(reading), service } }
    }

    pub(super) fn calling(call: S::Future) -> Self {
        Self { stage: Stage::Calling { call: ReadyCall::called(call) } }
    }
}

impl<S> Future for InspectRequestFuture<S>
where
    S: Service<Request<CallBody>> + Clone,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            let call = match stage.as_mut().project() {
                StageProj::Calling { call } => return call.poll(cx),
                StageProj::Reading { reading, service } => {
                    let request = ready!(reading.poll(cx));
                    ReadyCall::new(service.clone(), request)
                }
            };
            stage.set(Stage::Calling { call });
        }
    }
}

impl<S> fmt::Debug for InspectRequestFuture<S>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectRequestFuture").finish_non_exhaustive()
    }
}
