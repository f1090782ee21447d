//! Reads the rest of an unreturned response, so that its connection can be reused.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::Body;
use pin_project_lite::pin_project;

use super::frame_budget::FrameBudget;

pin_project! {
    /// Reads a body to its end, or until that would cost more than a new connection, and drops it.
    #[derive(Debug)]
    pub(crate) struct Drain<B> {
        #[pin]
        body: Option<B>,
        bytes: usize,
        frames: usize,
    }
}

/// An error's text is a few KiB; a new connection costs some round trips.
const MAX_BYTES: usize = 64 * 1024;
/// The same in frames, in all polls: a peer may send empty frames endlessly.
const MAX_FRAMES: usize = 1024;

// === impl Drain ===

impl<B: Body> Drain<B> {
    pub(crate) fn new(body: Option<B>) -> Self {
        let body = body.filter(|body| body.size_hint().lower() <= MAX_BYTES as u64);
        Self { body, bytes: 0, frames: 0 }
    }

    /// Reads the available data; ready at the end.
    pub(crate) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let mut budget = FrameBudget::new();
        while let Some(body) = this.body.as_mut().as_pin_mut() {
            if !budget.may_read(cx) {
                return Poll::Pending;
            }
            match body.poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    *this.bytes += frame.data_ref().map_or(0, Buf::remaining);
                    *this.frames += 1;
                    if *this.bytes > MAX_BYTES || *this.frames > MAX_FRAMES {
                        this.body.set(None);
                    }
                }
                Poll::Ready(_) => this.body.set(None),
            }
        }
        Poll::Ready(())
    }

    /// Drops the rest, and its connection with it.
    pub(crate) fn stop(self: Pin<&mut Self>) {
        self.project().body.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::task::Waker;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn drain<B: Body>(body: B) -> bool {
        let mut drain = pin!(Drain::new(Some(body)));
        let mut poll = || drain.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let over = (0..MAX_FRAMES).any(|_| poll());
        assert_eq!(over, drain.body.is_none());
        over
    }

    fn frames(frames: impl IntoIterator<Item = Bytes>) -> impl Body {
        StreamBody::new(futures_util::stream::iter(
            frames.into_iter().map(|data| Ok::<_, Infallible>(Frame::data(data))),
        ))
    }

    #[test]
    fn it_reads_to_the_end_or_to_its_limit() {
        assert!(drain(Full::new(Bytes::from_static(b"overloaded"))));
        assert!(drain(frames(std::iter::repeat(Bytes::from_static(&[0; 1_000])))));
        assert!(drain(frames(std::iter::repeat(Bytes::new()))));
        assert!(!drain(StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>())));
    }

    #[test]
    fn one_poll_reads_only_some_frames() {
        let mut drain = pin!(Drain::new(Some(frames(std::iter::repeat(Bytes::new())))));
        assert!(drain.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!((1..MAX_FRAMES).contains(&drain.frames), "{} frames", drain.frames);
    }

    #[test]
    fn what_says_that_it_is_large_is_not_read() {
        struct Unread;
        impl Body for Unread {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                panic!("read")
            }
            fn size_hint(&self) -> http_body::SizeHint {
                http_body::SizeHint::with_exact(64 * 1024 + 1)
            }
        }
        assert!(drain(Unread));
    }
}
