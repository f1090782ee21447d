//! Converts the errors of all bodies to one type, at no cost if they already have it.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::error::BoxError;

/// The result of `poll_frame` of every body in this crate.
pub(crate) type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// Polls a body with this error type.
type PollFrame<B, E> = fn(Pin<&mut B>, &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>;

/// Polls `body`, and converts its error into a [`BoxError`].
///
/// Mapping the error takes the frame apart and builds it again, which costs more than all other work of a timeout on a
/// ready frame. If the error is already a `BoxError`, both functions have the same type, and the inner one is called
/// directly: the compiler resolves the comparison, and the frame is written once, in its final place.
#[inline]
pub(crate) fn poll_frame<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    let poll: PollFrame<B, B::Error> = B::poll_frame;
    match (&poll as &dyn Any).downcast_ref::<PollFrame<B, BoxError>>() {
        Some(poll) => poll(body, cx),
        None => poll(body, cx).map_err(Into::into),
    }
}

/// Forgets a result that holds nothing.
///
/// A value that may need dropping is copied through code that inspects it (24 moves for a frame), unless every other exit
/// forgets it. `Pending` holds nothing, so nothing leaks.
#[inline(always)]
pub(crate) fn discard_pending(polled: Polled) {
    debug_assert!(polled.is_pending());
    std::mem::forget(polled);
}
