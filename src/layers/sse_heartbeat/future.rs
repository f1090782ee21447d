use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::SseHeartbeatBody;
use super::frame::HeartbeatFrame;
use super::head::{self, Answer};
use super::layer::{Config, SseHeartbeatLayer};
use super::state::HeartbeatState;
use crate::error::BoxError;
use crate::event::Event;

pin_project! {
    /// The future of [`SseHeartbeat`](crate::SseHeartbeat).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct SseHeartbeatFuture<F> {
        #[pin]
        inner: F,
        config: Config,
        // The caller forbids changes.
        no_transform: bool,
    }
}

// === impl SseHeartbeatFuture ===

impl<F> SseHeartbeatFuture<F> {
    pub(super) fn new(inner: F, config: Config, no_transform: bool) -> Self {
        Self { inner, config, no_transform }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Polls the call itself, whatever becomes of its answer.
    pub(super) fn poll_call(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output>
    where
        F: Future,
    {
        self.project().inner.poll(cx)
    }
}

impl<F, B, E> Future for SseHeartbeatFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Output = Result<Response<SseHeartbeatBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if this.config.interval.is_none() {
            return Poll::Ready(Ok(response.map(SseHeartbeatBody::untouched)));
        }
        let reason = match Answer::of(&response) {
            Answer::EventStream if *this.no_transform => "the caller forbids changes",
            Answer::EventStream => {
                head::adapt(response.headers_mut());
                if let Some(frame) = response.extensions().get::<HeartbeatFrame>() {
                    this.config.frame = frame.clone();
                }
                return Poll::Ready(Ok(
                    response.map(|body| SseHeartbeatBody::with(body, Some(HeartbeatState::new(this.config))))
                ));
            }
            Answer::Untouched(reason) => reason,
            Answer::Other => return Poll::Ready(Ok(response.map(SseHeartbeatBody::untouched))),
        };
        this.config.emitter.emit(&Event::Bypassed { layer: SseHeartbeatLayer::NAME, reason });
        Poll::Ready(Ok(response.map(SseHeartbeatBody::untouched)))
    }
}
