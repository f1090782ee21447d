use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::StreamGuardBody;
use super::expected::{Expected, Plan};
use super::prelude::WithheldPrelude;
use crate::body::response::LayerBody;
use crate::error::BoxError;

pin_project! {
    /// The future of [`StreamGuard`](crate::stream_guard::StreamGuard).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StreamGuardFuture<F, B> {
        #[pin]
        stage: Stage<F, B>,
        // `None`: the layer is off, or has nothing to look for.
        expected: Option<Expected>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StageProj]
    enum Stage<F, B> {
        // Waiting for the head.
        Head { #[pin] call: F },
        // The head is here, and withheld.
        Body { withheld: WithheldPrelude<B> },
    }
}

// === impl StreamGuardFuture ===

impl<F, B> StreamGuardFuture<F, B> {
    pub(super) fn new(call: F, expected: Option<Expected>) -> Self {
        Self { stage: Stage::Head { call }, expected }
    }
}

impl<F, B, E> Future for StreamGuardFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    type Output = Result<Response<StreamGuardBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Head { call } = this.stage.as_mut().project() {
            let response = ready!(call.poll(cx))?;
            let Some(expected) = this.expected.take() else {
                return Poll::Ready(Ok(response.map(StreamGuardBody::inner)));
            };
            match expected.plan(response) {
                Plan::Withhold(withheld) => this.stage.set(Stage::Body { withheld }),
                Plan::Forward(response) => return Poll::Ready(Ok(response)),
            }
        }
        match this.stage.project() {
            StageProj::Body { withheld } => withheld.poll(cx).map(Ok),
            StageProj::Head { .. } => Poll::Pending,
        }
    }
}
