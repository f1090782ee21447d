//! The bare body, and how bodies are polled.

use std::convert::Infallible;
use std::hint::black_box;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};

/// The error of the layers' bodies.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An endless body. Every frame is ready at once, or pending once before.
#[derive(Debug)]
pub struct Endless<E = BoxError> {
    pending_first: bool,
    asked: bool,
    error: PhantomData<fn() -> E>,
}

/// The same, with an error type that layers must convert.
pub type EndlessInfallible = Endless<Infallible>;

impl<E> Endless<E> {
    /// The frames that are ready.
    #[must_use]
    pub fn ready() -> Self {
        Self { pending_first: false, asked: false, error: PhantomData }
    }

    /// The frames that are pending once.
    #[must_use]
    pub fn pending() -> Self {
        Self { pending_first: true, asked: false, error: PhantomData }
    }
}

impl<E> Body for Endless<E> {
    type Data = Bytes;
    type Error = E;

    #[inline(never)]
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        if self.pending_first && !self.asked {
            self.asked = true;
            return Poll::Pending;
        }
        self.asked = false;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: {\"delta\":\"token\"}\n\n")))))
    }
}

/// Reads a number of frames. The poll may be inlined, as into a server's loop, which is generic over its body.
#[inline(never)]
pub fn read<B: Body>(body: B, frames: u64) {
    let mut body = pin!(body);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..frames {
        while black_box(body.as_mut().poll_frame(&mut cx)).is_pending() {}
    }
}
