//! A body whose first part has been read.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::response::{LayerBody, ResponseBody};
use crate::call::Reservation;

pin_project! {
    /// Frames that were read ahead, followed by the rest of their body.
    pub struct PrefixedBody<B> {
        // The usual case is one data frame, which needs no allocation.
        first: Option<Bytes>,
        rest: VecDeque<Frame<Bytes>>,
        // Counts the frames.
        reservation: Option<Reservation>,
        #[pin]
        body: B,
    }
}

/// Frames that were read before their consumer polls.
#[derive(Default)]
pub(crate) struct ReadAhead {
    first: Option<Bytes>,
    rest: VecDeque<Frame<Bytes>>,
    bytes: usize,
}

// === impl ReadAhead ===

impl ReadAhead {
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) {
        self.bytes = self.bytes.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if self.first.is_none() && self.rest.is_empty() {
            match frame.into_data() {
                Ok(data) => self.first = Some(data),
                Err(trailers) => self.rest.push_back(trailers),
            }
        } else {
            self.rest.push_back(frame);
        }
    }

    /// The number of held bytes of data.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of held frames.
    pub(crate) fn frames(&self) -> usize {
        self.rest.len() + usize::from(self.first.is_some())
    }

    /// The held data.
    #[cfg(feature = "llm")]
    pub(crate) fn data(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(self.rest.iter().filter_map(Frame::data_ref))
    }

    /// Returns the frames in their order.
    pub(crate) fn into_frames(self) -> impl Iterator<Item = Frame<Bytes>> {
        self.first.map(Frame::data).into_iter().chain(self.rest)
    }

    /// Returns a body of these frames and then `body`.
    pub(crate) fn before<B>(self, body: B) -> PrefixedBody<B> {
        PrefixedBody { first: self.first, rest: self.rest, reservation: None, body }
    }
}

/// Shows the size, never the content.
impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<B> PrefixedBody<B> {
    /// Counts the frames until all of them are read.
    pub(crate) fn reserving(self, reservation: Option<Reservation>) -> Self {
        let is_empty = self.first.is_none() && self.rest.is_empty();
        Self { reservation: reservation.filter(|_| !is_empty), ..self }
    }
}

// === impl PrefixedBody ===

impl<B, I: LayerBody<B>> LayerBody<B> for PrefixedBody<I> {
    #[inline]
    fn pass(body: ResponseBody<B>) -> Self {
        ReadAhead::default().before(I::pass(body))
    }
}

impl<B: fmt::Debug> fmt::Debug for PrefixedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefixedBody").field("body", &self.body).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes>> Body for PrefixedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.first.is_some() || !this.rest.is_empty() {
            return next_held(this.first, this.rest, this.reservation);
        }
        this.body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let frames = self.rest.iter().filter_map(Frame::data_ref).chain(&self.first);
        size_with(frames, &self.body.size_hint())
    }
}

/// The size of a body plus the held data.
pub(crate) fn size_with<'a>(held: impl Iterator<Item = &'a Bytes>, body: &SizeHint) -> SizeHint {
    let held = held.fold(0_u64, |sum, data| sum.saturating_add(data.len() as u64));
    let mut hint = SizeHint::new();
    if let Some(upper) = body.upper().and_then(|upper| upper.checked_add(held)) {
        hint.set_upper(upper);
    }
    hint.set_lower(body.lower().saturating_add(held).min(hint.upper().unwrap_or(u64::MAX)));
    hint
}

#[cold]
#[inline(never)]
fn next_held<E>(
    first: &mut Option<Bytes>,
    rest: &mut VecDeque<Frame<Bytes>>,
    reservation: &mut Option<Reservation>,
) -> Poll<Option<Result<Frame<Bytes>, E>>> {
    let frame = first.take().map(Frame::data).or_else(|| rest.pop_front());
    if rest.is_empty() {
        // The body may go on for long without it.
        (*rest, *reservation) = (VecDeque::new(), None);
    }
    Poll::Ready(frame.map(Ok))
}
