//! Reads a small body to its end.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::frame_budget::FrameBudget;
use super::prefixed::{PrefixedBody, ReadAhead};
use crate::call::Reservation;

/// A collected body, or the collected part with the rest after it.
pub(crate) enum Collected<B> {
    /// All of it.
    Whole { data: Bytes, trailers: Option<HeaderMap> },
    /// It exceeds the limit: the body, unchanged.
    TooLarge(PrefixedBody<B>),
}

/// Reads `body` up to `limit` bytes, counted by `reservation`. No data is lost: a body that is too large, or for which
/// there is no memory, is returned. The data is counted until it is dropped.
///
/// Keeps the frames unchanged, so a body of one frame is not copied. Only short frames after the first are joined: each
/// frame takes a hundred bytes, and pins a share of a read buffer, even with one byte or none.
pub(crate) fn collect<B>(body: B, limit: usize, reservation: Reservation) -> Collect<B> {
    Collect {
        body: Some(body),
        reservation: Some(reservation),
        refused: false,
        held: ReadAhead::default(),
        short: BytesMut::new(),
        limit,
    }
}

#[must_use = "futures do nothing unless polled"]
pub(crate) struct Collect<B> {
    body: Option<B>,
    held: ReadAhead,
    /// The data of short frames after the held ones.
    short: BytesMut,
    limit: usize,
    reservation: Option<Reservation>,
    /// There was no memory for the last frame.
    refused: bool,
}

/// A shorter frame is joined with its neighbours.
const SHORT: usize = 1024;

// === impl Collect ===

impl<B> fmt::Debug for Collect<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collect").field("held", &self.held).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Collect<B> {
    /// Reads on, and passes each piece of data to `tap` as it arrives.
    pub(crate) fn poll_tapped(
        &mut self,
        cx: &mut Context<'_>,
        mut tap: impl FnMut(&Bytes),
    ) -> Poll<Result<Collected<B>, B::Error>> {
        let mut frames = FrameBudget::new();
        loop {
            // Polled again after its end: nothing is left to return.
            let Some(body) = &mut self.body else { return Poll::Pending };
            let bytes = self.held.bytes() + self.short.len();
            let known_larger = body.size_hint().lower() > self.limit.saturating_sub(bytes) as u64;
            if known_larger || bytes > self.limit || self.refused {
                break;
            }
            if !frames.may_read(cx) {
                return Poll::Pending;
            }
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        tap(data);
                        self.refused = !self.reservation.as_mut().is_some_and(|held| held.grow(data.len()));
                    }
                    self.hold(frame);
                }
                Poll::Ready(Some(Err(err))) => return Poll::Ready(Err(err)),
                Poll::Ready(None) => {
                    self.body = None;
                    let reservation = self.reservation.take();
                    return Poll::Ready(Ok(whole(self.take_held(), reservation)));
                }
            }
        }
        self.stop().map_or(Poll::Pending, |body| Poll::Ready(Ok(Collected::TooLarge(body))))
    }

    /// Stops reading: returns the body, unchanged. `None` if it was already returned.
    pub(crate) fn stop(&mut self) -> Option<PrefixedBody<B>> {
        let body = self.body.take()?;
        Some(self.take_held().before(body).reserving(self.reservation.take()))
    }

    fn hold(&mut self, frame: Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if data.is_empty() => {}
            Some(data) if data.len() < SHORT && self.held.frames() > 0 => self.short.extend_from_slice(data),
            _ => {
                self.hold_short();
                self.held.push(frame);
            }
        }
    }

    fn hold_short(&mut self) {
        if !self.short.is_empty() {
            self.held.push(Frame::data(self.short.split().freeze()));
        }
    }

    fn take_held(&mut self) -> ReadAhead {
        self.hold_short();
        std::mem::take(&mut self.held)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Future for Collect<B> {
    type Output = Result<Collected<B>, B::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_tapped(cx, |_| {})
    }
}

fn whole<B>(held: ReadAhead, reservation: Option<Reservation>) -> Collected<B> {
    let bytes = held.bytes();
    let mut only = Bytes::new();
    let mut joined = BytesMut::new();
    let mut trailers = None;
    for frame in held.into_frames() {
        match frame.into_data() {
            Ok(data) if data.len() == bytes => only = data,
            Ok(data) => {
                joined.reserve(bytes - joined.len());
                joined.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let data = if joined.is_empty() { only } else { joined.freeze() };
    let data = match reservation {
        Some(reservation) => reservation.keep(data),
        None => data,
    };
    Collected::Whole { data, trailers }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;
    use crate::call::Memory;

    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn frames(parts: &'static [&'static str]) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
        let data = parts.iter().map(|part| Frame::data(Bytes::from_static(part.as_bytes())));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("7"));
        StreamBody::new(futures_util::stream::iter(data.chain([Frame::trailers(trailers)]).map(Item::Ok)))
    }

    fn read<B>(body: B, limit: usize) -> Collect<B> {
        collect(body, limit, Memory::default().reserve(None))
    }

    #[tokio::test]
    async fn what_was_read_is_counted_until_it_is_dropped() {
        let memory = Memory::new(100 * 1024);
        let large = || Full::new(Bytes::from(vec![7; 60 * 1024]));
        let Ok(Collected::Whole { data, .. }) = collect(large(), 100 * 1024, memory.reserve(None)).await else {
            panic!("not whole")
        };
        assert_eq!(memory.used(), 60 * 1024);
        // There is no memory for a second one: it passes unchanged.
        let Ok(Collected::TooLarge(body)) = collect(large(), 100 * 1024, memory.reserve(None)).await else {
            panic!("read beyond the limit")
        };
        assert_eq!(body.collect().await.unwrap().to_bytes(), data);
        drop(data);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn a_small_body_is_read_whole_with_its_trailers() {
        let Ok(Collected::Whole { data, trailers }) = read(frames(&["ab", "", "cde"]), 5).await else {
            panic!("not whole")
        };
        assert_eq!(data, "abcde");
        assert_eq!(trailers.unwrap()["x-sum"], "7");
    }

    #[tokio::test]
    async fn a_body_of_one_frame_is_not_copied() {
        let sent = Bytes::from(vec![7; 100]);
        let Ok(Collected::Whole { data, .. }) = read(Full::new(sent.clone()), 100).await else { panic!("not whole") };
        assert_eq!(data.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn a_large_body_is_given_back_as_it_was() {
        let Ok(Collected::TooLarge(body)) = read(frames(&["ab", "cd", "ef"]), 3).await else { panic!("not too large") };
        let body = body.collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "7");
        assert_eq!(body.to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_in_tiny_pieces_is_not_held_in_as_many() {
        let pieces = ["ab", "", "c", "", ""].repeat(10_000).leak();
        let mut body = read(frames(pieces), 30_000);
        let Poll::Ready(Ok(Collected::Whole { data, .. })) = polled(&mut body) else { panic!("not whole") };
        assert_eq!(data, "abc".repeat(10_000));

        let mut body = read(frames(pieces), 29_999);
        let Poll::Ready(Ok(Collected::TooLarge(mut body))) = polled(&mut body) else { panic!("not too large") };
        let mut held = 0;
        let mut all = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            held += usize::from(all.len() < 29_999);
            all.extend(frame.into_data().unwrap_or_default());
        }
        assert!(held < 100, "held in {held} pieces");
        assert_eq!(all, b"abc".repeat(10_000));
    }

    /// Polls until the result.
    fn polled<B: Body<Data = Bytes> + Unpin>(body: &mut Collect<B>) -> Poll<Result<Collected<B>, B::Error>> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut polls = (0..1_000).map(|_| Pin::new(&mut *body).poll(&mut cx));
        polls.find(Poll::is_ready).unwrap_or(Poll::Pending)
    }

    #[test]
    fn frames_that_are_always_ready_are_not_read_without_end() {
        let empty = std::iter::repeat_with(|| Item::Ok(Frame::data(Bytes::new())));
        let mut body = read(StreamBody::new(futures_util::stream::iter(empty)), 100);
        assert!(Pin::new(&mut body).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    }

    #[tokio::test]
    async fn a_body_that_says_it_is_large_is_not_read_at_all() {
        let Ok(Collected::TooLarge(body)) = read(Full::new(Bytes::from_static(b"abcdef")), 5).await else {
            panic!("not too large")
        };
        assert_eq!(body.size_hint().exact(), Some(6));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
    }
}
