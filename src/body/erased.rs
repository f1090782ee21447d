//! A body of any type, in a box.

use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};

use super::boxed::{self, Polled};
use crate::error::BoxError;

/// A boxed body: one allocation, and a virtual call per poll.
///
/// It is `Sync` for any inner body, so a request with it can be borrowed across an `.await`. Polling has exclusive access
/// and needs no lock; reading its length takes an uncontended one.
pub(crate) struct ErasedBody(Mutex<Pin<Box<dyn AnyBody>>>);

trait AnyBody: Send {
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled;
    fn is_end_stream(&self) -> bool;
    fn size_hint(&self) -> SizeHint;
}

impl<B> AnyBody for B
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        boxed::poll_frame(self, cx)
    }

    fn is_end_stream(&self) -> bool {
        Body::is_end_stream(self)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(self)
    }
}

// === impl ErasedBody ===

impl ErasedBody {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Mutex::new(Box::pin(body)))
    }
}

impl Body for ErasedBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

impl fmt::Debug for ErasedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErasedBody").finish_non_exhaustive()
    }
}
