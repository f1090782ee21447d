use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::super::future::SseHeartbeatFuture;
use super::super::head;
use super::super::layer::Config;
use super::body::EarlySseHeartbeatBody;
use super::markers::HeadersSentEarly;
use crate::error::BoxError;
use crate::rt::timeout::Timeout;

pin_project! {
    /// The future of [`EarlySseHeartbeat`](crate::EarlySseHeartbeat).
    #[must_use = "futures do nothing unless polled"]
    pub struct EarlySseHeartbeatFuture<F> {
        #[pin]
        stage: Stage<F>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F> {
        // As without this layer's haste.
        Following { #[pin] call: SseHeartbeatFuture<F> },
        // `call` is `None` once it has been answered, or has moved into a body.
        Beginning { call: Option<Pin<Box<SseHeartbeatFuture<F>>>>, after: Duration, timeout: Timeout },
    }
}

// === impl EarlySseHeartbeatFuture ===

impl<F> EarlySseHeartbeatFuture<F> {
    pub(super) fn following(call: F, config: Config, no_transform: bool) -> Self {
        Self { stage: Stage::Following { call: SseHeartbeatFuture::new(call, config, no_transform) } }
    }

    pub(super) fn beginning(call: F, config: Config, after: Duration) -> Self {
        let call = Box::pin(SseHeartbeatFuture::new(call, config, false));
        Self { stage: Stage::Beginning { call: Some(call), after, timeout: Timeout::default() } }
    }
}

impl<F, B, E> Future for EarlySseHeartbeatFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<EarlySseHeartbeatBody<F, B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (slot, after, timeout) = match self.project().stage.project() {
            StageProj::Following { call } => {
                return call.poll(cx).map_ok(|response| response.map(EarlySseHeartbeatBody::following));
            }
            StageProj::Beginning { call, after, timeout } => (call, *after, timeout),
        };
        // Polled again after it was over.
        let Some(call) = slot else { return Poll::Pending };
        if let Poll::Ready(answer) = call.as_mut().poll(cx) {
            *slot = None;
            return Poll::Ready(answer.map(|response| response.map(EarlySseHeartbeatBody::following)));
        }
        ready!(timeout.poll_after(after, cx));
        slot.take().map_or(Poll::Pending, |call| Poll::Ready(Ok(begin(call))))
    }
}

/// The head of a stream of which nobody knows yet what it will be.
fn begin<F, B>(call: Pin<Box<SseHeartbeatFuture<F>>>) -> Response<EarlySseHeartbeatBody<F, B>> {
    let mut response = Response::new(EarlySseHeartbeatBody::beginning(call));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    head::adapt(response.headers_mut());
    response.extensions_mut().insert(HeadersSentEarly);
    response
}

impl<F> fmt::Debug for EarlySseHeartbeatFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EarlySseHeartbeatFuture").finish_non_exhaustive()
    }
}
