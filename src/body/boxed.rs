//! One error type for all bodies, at no cost where it already is the one.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::error::BoxError;

/// What `poll_frame` of every body in this crate returns.
pub(crate) type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// How a body with such an error is polled.
type PollFrame<B, E> = fn(Pin<&mut B>, &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>>;

/// Polls `body`, with its error as a [`BoxError`].
///
/// Mapping the error takes the frame apart and builds it again, which costs more than all else that a timeout does to
/// a ready frame. Where the error is a `BoxError` already, both functions are of one type, and the inner one is called
/// as it is: the compiler settles the comparison and calls it directly, and the frame is written once, where the
/// caller wants it.
#[inline]
pub(crate) fn poll_frame<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let poll: PollFrame<B, B::Error> = B::poll_frame;
    match (&poll as &dyn Any).downcast_ref::<PollFrame<B, BoxError>>() {
        Some(poll) => poll(body, cx),
        None => poll(body, cx).map_err(Into::into),
    }
}

/// Lets go of a result that holds nothing.
///
/// A value that may need dropping is copied by code that looks at it before handing it on (24 moves for a frame), unless
/// every other way out forgets it. Pending holds nothing, so nothing is leaked.
#[inline(always)]
pub(crate) fn discard_pending(polled: Polled) {
    debug_assert!(polled.is_pending());
    std::mem::forget(polled);
}
