use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::watch::{BodyWatch, Fail, WatchStep};
use crate::body::boxed::Polled;
use crate::body::frame_budget::FrameBudget;
use crate::body::prefixed::size_with;
use crate::body::response::ResponseBody;
use crate::call::Reservation;
use crate::error::BoxError;

pin_project! {
    /// The response body of [`StreamGuard`](crate::stream_guard::StreamGuard).
    pub struct StreamGuardBody<B> {
        // Data that was read and is still to be forwarded.
        held: VecDeque<Frame<Bytes>>,
        // The memory that it takes.
        reservation: Option<Reservation>,
        // The error of the body after that.
        error: Option<BoxError>,
        watch: BodyWatch,
        #[pin]
        body: ResponseBody<B>,
    }
}

// === impl StreamGuardBody ===

impl<B> StreamGuardBody<B> {
    /// What was read of a body, and the rest of it, in which something is looked for.
    pub(super) fn new(held: VecDeque<Frame<Bytes>>, watch: BodyWatch, body: ResponseBody<B>) -> Self {
        Self { held, reservation: None, error: None, watch, body }
    }

    /// The inner body as it is.
    pub(super) fn inner(body: B) -> Self {
        Self::pass(ResponseBody::inner(body))
    }

    /// A body that is passed as it is.
    pub(super) fn pass(body: ResponseBody<B>) -> Self {
        Self::new(VecDeque::new(), BodyWatch::Nothing, body)
    }

    /// The data of a body that has failed.
    pub(super) fn failed(held: VecDeque<Frame<Bytes>>, error: BoxError) -> Self {
        Self { held, reservation: None, error: Some(error), watch: BodyWatch::Nothing, body: ResponseBody::Over }
    }

    /// Counts the data in this memory until it was forwarded.
    pub(super) fn reserving(self, reservation: Reservation) -> Self {
        Self { reservation: Some(reservation).filter(Reservation::is_counted), ..self }
    }
}

impl<B> StreamGuardBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    #[cold]
    #[inline(never)]
    fn poll_held(self: Pin<&mut Self>) -> Polled {
        let this = self.project();
        let frame = this.held.pop_front().map(Ok);
        if this.held.is_empty() {
            // The stream may go on for long without it.
            *this.held = VecDeque::new();
            *this.reservation = None;
        }
        Poll::Ready(frame.or_else(|| this.error.take().map(Err)))
    }

    fn poll_watched(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let this = self.as_mut().project();
            let step = match this.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => this.watch.frame(frame),
                Poll::Ready(Some(Err(err))) => {
                    this.watch.broke_off();
                    return Poll::Ready(Some(Err(err)));
                }
                Poll::Ready(None) => this.watch.end(None),
                Poll::Pending => WatchStep::Fail(ready!(this.watch.poll_limit(cx))),
            };
            match step {
                WatchStep::Give(frame) => return Poll::Ready(Some(Ok(frame))),
                WatchStep::More => {}
                WatchStep::Last(rest, trailers) => return self.finish(rest.into_iter().chain(trailers), None),
                WatchStep::Fail(Fail { before, frame, error }) => {
                    let held = [before, frame].into_iter().filter(|data| !data.is_empty()).map(Frame::data);
                    return self.finish(held, Some(error));
                }
            }
        }
        Poll::Pending
    }

    /// Drops the inner body, which closes the upstream's connection, even if data is still to be forwarded.
    #[cold]
    fn finish(mut self: Pin<&mut Self>, held: impl Iterator<Item = Frame<Bytes>>, error: Option<BoxError>) -> Polled {
        let mut this = self.as_mut().project();
        *this.watch = BodyWatch::Nothing;
        this.body.as_mut().drop_inner();
        this.held.extend(held);
        *this.error = error;
        self.poll_held()
    }
}

impl<B> Body for StreamGuardBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if !self.held.is_empty() || self.error.is_some() {
            return self.poll_held();
        }
        match self.watch {
            BodyWatch::Nothing => self.project().body.poll_frame(cx),
            BodyWatch::Stream(_) | BodyWatch::Answer(_) => self.poll_watched(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        // A watched body is complete only when it was read to its end.
        let settled = matches!(self.watch, BodyWatch::Nothing) && self.error.is_none();
        settled && self.held.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.error.is_some() || self.watch.hides_length() {
            // After the announced number of bytes the caller would not read an error.
            return SizeHint::default();
        }
        size_with(self.held.iter().filter_map(Frame::data_ref), &self.body.size_hint())
    }
}

/// Without the held data, which is the model's.
impl<B> std::fmt::Debug for StreamGuardBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamGuardBody").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
