use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::FirstByteTimeoutBody;
use super::limit::FirstByteLimit;
use super::withheld::WithheldHead;
use crate::body::response::LayerBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionKind};

pin_project! {
    /// The future of [`FirstByteTimeout`](crate::first_byte_timeout::FirstByteTimeout).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct FirstByteTimeoutFuture<F, B> {
        #[pin]
        stage: Stage<F, B>,
        // `None`: the layer is off.
        wait: Option<FirstByteLimit>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StageProj]
    enum Stage<F, B> {
        // Waiting for the head.
        Head { #[pin] call: F },
        // The head is here, and withheld until there is data.
        Data { withheld: WithheldHead<B> },
        // Refused: the call is dropped.
        Over,
    }
}

// === impl FirstByteTimeoutFuture ===

impl<F, B> FirstByteTimeoutFuture<F, B> {
    pub(super) fn passing(call: F) -> Self {
        Self { stage: Stage::Head { call }, wait: None }
    }

    pub(super) fn waiting(call: F, wait: FirstByteLimit) -> Self {
        Self { stage: Stage::Head { call }, wait: Some(wait) }
    }
}

impl<F, B, E> Future for FirstByteTimeoutFuture<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    type Output = Result<Response<FirstByteTimeoutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let StageProj::Head { call } = this.stage.as_mut().project() {
            match call.poll(cx) {
                Poll::Ready(Ok(response)) => match this.wait.as_mut().and_then(|wait| wait.after_head(&response)) {
                    Some(first) => this.stage.set(Stage::Data { withheld: WithheldHead::new(response, first) }),
                    None => return Poll::Ready(Ok(response.map(FirstByteTimeoutBody::inner))),
                },
                Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                Poll::Pending => {}
            }
        }
        let Some(wait) = this.wait else { return Poll::Pending };
        let mut rejection = Rejection::new(RejectionKind::FirstByteTimeout);
        match this.stage.as_mut().project() {
            StageProj::Data { withheld } => match withheld.poll_first(cx) {
                Poll::Ready(Ok(response)) => return Poll::Ready(Ok(response)),
                Poll::Ready(Err(err)) => rejection = Rejection::new(RejectionKind::BodyFailed).with_source(err),
                // Each side may wait for the other: on a stream in both directions, the sender may need the head first.
                Poll::Pending if wait.poll_sender(cx).is_ready() => return withheld.release(),
                Poll::Pending => ready!(wait.poll_limit(cx)),
            },
            _ => ready!(wait.poll_limit(cx)),
        }
        this.stage.set(Stage::Over);
        wait.refused(rejection.kind());
        Poll::Ready(Ok(FirstByteTimeoutBody::refuse(rejection, wait.format)))
    }
}
