//! One of two bodies.

use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::boxed::Polled;
use super::response::{LayerBody, ResponseBody};
use crate::error::BoxError;

pin_project! {
    /// The inner body, a refusal, or another body in their place.
    pub struct EitherBody<A, B> {
        #[pin]
        either: Either<A, B>,
    }
}

pin_project! {
    #[project = EitherProj]
    enum Either<A, B> {
        Inner { #[pin] body: ResponseBody<A> },
        Other { #[pin] body: B },
    }
}

// === impl EitherBody ===

impl<A, B> EitherBody<A, B> {
    pub(crate) fn other(body: B) -> Self {
        Self { either: Either::Other { body } }
    }
}

impl<A, B> LayerBody<A> for EitherBody<A, B> {
    #[inline]
    fn pass(body: ResponseBody<A>) -> Self {
        Self { either: Either::Inner { body } }
    }
}

impl<A, B> Body for EitherBody<A, B>
where
    A: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project().either.project() {
            EitherProj::Inner { body } => body.poll_frame(cx),
            EitherProj::Other { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.either {
            Either::Inner { body } => body.is_end_stream(),
            Either::Other { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.either {
            Either::Inner { body } => body.size_hint(),
            Either::Other { body } => body.size_hint(),
        }
    }
}

/// Without the data, which is the upstream's.
impl<A, B> fmt::Debug for EitherBody<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EitherBody").finish_non_exhaustive()
    }
}
