use std::convert::Infallible;
use std::future::Pending;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower_service::Service;

/// The backup of a stack that has none. There is no value of this type.
#[derive(Clone, Copy, Debug)]
pub enum NoBackup {}

// === impl NoBackup ===

impl<B> Service<Request<B>> for NoBackup {
    type Response = Response<Self>;
    type Error = Infallible;
    type Future = Pending<Result<Response<Self>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        match *self {}
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        match *self {}
    }
}

impl Body for NoBackup {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match *self {}
    }
}
