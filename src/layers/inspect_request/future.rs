use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http::request::Parts;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::layer::{Config, InspectRequestLayer};
use crate::body::collect::{Collect, Collected, collect};
use crate::body::request::CallBody;
use crate::call::Tenant;
use crate::event::Event;
use crate::rt::timeout::Timeout;

pin_project! {
    /// The future of [`InspectRequest`](crate::InspectRequest).
    #[must_use = "futures do nothing unless polled"]
    pub struct InspectRequestFuture<S>
    where
        S: Service<Request<CallBody>>,
    {
        #[pin]
        stage: Stage<S, S::Future>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<S, F> {
        Reading { reading: Option<Reading<S>> },
        Calling { #[pin] call: F },
    }
}

/// A request that is being read, and the service that is ready for it.
pub(super) struct Reading<S> {
    service: S,
    config: Arc<Config>,
    head: Parts,
    body: Collect<CallBody>,
    timeout: Timeout,
}

// === impl InspectRequestFuture ===

impl<S> InspectRequestFuture<S>
where
    S: Service<Request<CallBody>>,
{
    pub(super) fn reading(reading: Reading<S>) -> Self {
        Self { stage: Stage::Reading { reading: Some(reading) } }
    }

    pub(super) fn calling(call: S::Future) -> Self {
        Self { stage: Stage::Calling { call } }
    }
}

impl<S> Future for InspectRequestFuture<S>
where
    S: Service<Request<CallBody>>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stage = self.project().stage;
        loop {
            match stage.as_mut().project() {
                StageProj::Calling { call } => return call.poll(cx),
                StageProj::Reading { reading } => {
                    let Some(read) = reading else { return Poll::Pending };
                    let body = ready!(read.poll_body(cx));
                    let Some(Reading { mut service, head, .. }) = reading.take() else { return Poll::Pending };
                    let call = service.call(Request::from_parts(head, body));
                    stage.set(Stage::Calling { call });
                }
            }
        }
    }
}

impl<S> fmt::Debug for InspectRequestFuture<S>
where
    S: Service<Request<CallBody>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Reading { .. } => "InspectRequestFuture::Reading",
            Stage::Calling { .. } => "InspectRequestFuture::Calling",
        })
    }
}

// === impl Reading ===

impl<S> Reading<S> {
    pub(super) fn new(service: S, config: Arc<Config>, head: Parts, body: CallBody) -> Self {
        let body = collect(body, config.limit, config.memory.reserve(head.extensions.get::<Tenant>()));
        Self { service, config, head, body, timeout: Timeout::default() }
    }

    fn step_aside(&self, reason: &'static str) {
        self.config.emitter.emit(&Event::Bypassed { layer: InspectRequestLayer::NAME, reason });
    }

    /// Reads on. The body to be sent, once the head is what it is to be.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<CallBody> {
        Poll::Ready(match Pin::new(&mut self.body).poll(cx) {
            Poll::Ready(Ok(Collected::Whole { data, trailers })) => {
                (self.config.inspect)(&mut self.head, &data);
                CallBody::whole(data, trailers)
            }
            Poll::Ready(Ok(Collected::TooLarge(body))) => {
                self.step_aside("a request that is too long to be read first");
                CallBody::new(body)
            }
            Poll::Ready(Err(why)) => CallBody::failed(why),
            Poll::Pending => {
                ready!(self.timeout.poll_after(self.config.patience, cx));
                let Some(body) = self.body.give_up() else { return Poll::Pending };
                self.step_aside("a request that takes too long to come");
                CallBody::new(body)
            }
        })
    }
}
