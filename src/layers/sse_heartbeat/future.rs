use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::SseHeartbeatBody;
use super::call_config::CallConfig;
use super::pending::EarlyCall;
use super::state::HeartbeatState;
use crate::error::BoxError;

pin_project! {
    /// The future of [`SseHeartbeat`](crate::sse_heartbeat::SseHeartbeat).
    #[must_use = "futures do nothing unless polled"]
    pub struct SseHeartbeatFuture<F> {
        #[pin]
        call: EarlyCall<F>,
        // `None`: the head was sent early, with the call in its body.
        config: Option<CallConfig>,
    }
}

// === impl SseHeartbeatFuture ===

impl<F: Future> SseHeartbeatFuture<F> {
    pub(super) fn new(call: F, config: CallConfig) -> Self {
        Self { call: EarlyCall::new(call, config.begins_after), config: Some(config) }
    }
}

impl<F, B, E> Future for SseHeartbeatFuture<F>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    E: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<SseHeartbeatBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.call.poll(cx)) {
            Ok(answer) => answer?,
            Err(call) => {
                let Some(config) = this.config.take() else { return Poll::Pending };
                return Poll::Ready(Ok(HeartbeatState::begin(call, config).map(SseHeartbeatBody::without_inner)));
            }
        };
        let state = this.config.as_mut().and_then(|config| HeartbeatState::of_answer(config, &mut response));
        Poll::Ready(Ok(response.map(|body| SseHeartbeatBody::new(body, state))))
    }
}

impl<F> fmt::Debug for SseHeartbeatFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseHeartbeatFuture").finish_non_exhaustive()
    }
}
