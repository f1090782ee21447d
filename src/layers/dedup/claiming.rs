//! A request that was read, until the store has decided on it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::request::{AnswerOf, ReadRequest};
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::store::Store;

pin_project! {
    /// Asks the store for a request's key.
    pub(super) struct Claiming<S, St>
    where
        St: Store,
    {
        // `None` before the first poll: a claim that leads must not wait for it, since other callers wait for its call.
        #[pin]
        claim: Option<St::Claim>,
        // Taken when the store has answered.
        request: Option<Box<ReadRequest<S, St>>>,
    }
}

// === impl Claiming ===

impl<S, St: Store> Claiming<S, St> {
    pub(super) fn new(request: Box<ReadRequest<S, St>>) -> Self {
        Self { claim: None, request: Some(request) }
    }

    pub(super) fn poll<ResB>(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<AnswerOf<S, St, ResB>>
    where
        S: Service<Request<CallBody>, Response = Response<ResB>, Future: Send + 'static> + Send + 'static,
        S::Error: Send + 'static,
        ResB: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
    {
        let mut this = self.project();
        // Polled again after its end.
        let Some(request) = this.request.as_mut() else { return Poll::Pending };
        if this.claim.is_none() {
            this.claim.set(Some(request.claim()));
        }
        let Some(claim) = this.claim.as_pin_mut() else { return Poll::Pending };
        let claim = ready!(claim.poll(cx));
        let Some(request) = this.request.take() else { return Poll::Pending };
        Poll::Ready(request.settle(claim))
    }
}
