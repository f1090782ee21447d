//! One of two bodies.

use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::boxed::Polled;
use crate::error::BoxError;

pin_project! {
    /// The inner body, or its replacement.
    #[derive(Debug)]
    #[project = EitherProj]
    pub(crate) enum EitherBody<A, B> {
        Inner { #[pin] body: A },
        Other { #[pin] body: B },
    }
}

// === impl EitherBody ===

impl<A, B> Body for EitherBody<A, B>
where
    A: Body<Data = Bytes, Error = BoxError>,
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project() {
            EitherProj::Inner { body } => body.poll_frame(cx),
            EitherProj::Other { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { body } => body.is_end_stream(),
            Self::Other { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { body } => body.size_hint(),
            Self::Other { body } => body.size_hint(),
        }
    }
}
