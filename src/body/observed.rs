//! Reports exactly once how a body ended.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::boxed::{self, Polled};
use super::response::{LayerBody, ResponseBody};
use crate::error::BoxError;

/// How a body ended.
#[derive(Clone, Copy, Debug)]
pub enum BodyEnd<'a> {
    /// It ended normally.
    Complete,
    /// It broke off.
    Failed(&'a BoxError),
    /// Its consumer dropped it first.
    Dropped,
}

/// Observes a body.
pub trait BodyObserver {
    /// Whether [`bytes`](Self::bytes) is called.
    const READS: bool = false;

    /// Polls the inner body: for an observer that must know when it wakes its consumer, or panics.
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        poll(cx)
    }

    /// A data frame, possibly empty, is forwarded.
    fn data(&mut self, empty: bool);

    /// The data of that frame.
    #[inline]
    fn bytes(&mut self, _data: &Bytes) {}

    /// Trailers are about to be forwarded.
    fn trailers(&mut self, trailers: &HeaderMap);

    /// The body has ended. Called once, at the latest when the body is dropped.
    fn over(&mut self, end: BodyEnd<'_>);
}

/// For a large observer that few bodies have: unboxed, all bodies would be as large.
impl<W: BodyObserver> BodyObserver for Box<W> {
    const READS: bool = W::READS;

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        W::poll(self, cx, poll)
    }

    #[inline]
    fn data(&mut self, empty: bool) {
        W::data(self, empty);
    }

    #[inline]
    fn bytes(&mut self, data: &Bytes) {
        W::bytes(self, data);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        W::trailers(self, trailers);
    }

    fn over(&mut self, end: BodyEnd<'_>) {
        W::over(self, end);
    }
}

pin_project! {
    /// Reports the events of its inner body to a [`BodyObserver`].
    ///
    /// A body has ended with `None`, with `is_end_stream`, or with its trailers. If it is dropped after the last byte of
    /// a known length, it was complete too: a server then need not poll further, though the end of an HTTP/2 stream may
    /// come in a separate frame.
    pub struct Observed<B, W: BodyObserver> {
        #[pin]
        body: B,
        slot: ObserverSlot<W>,
    }
}

/// Holds the observer until it knows how the body ended.
struct ObserverSlot<W: BodyObserver> {
    watch: Option<W>,
    left: DataLeft,
}

/// What is left of the announced length of a body. Trailers may follow: a body that is polled further has not ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataLeft {
    /// No length was announced.
    Unknown,
    Some,
    None,
}

/// Inspects a result in place and reports on drop: a result that is inspected by reference and then returned would be
/// copied.
struct FrameGuard<'a, B: Body, W: BodyObserver> {
    body: Pin<&'a mut B>,
    slot: &'a mut ObserverSlot<W>,
    seen: FrameKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FrameKind {
    Nothing,
    Data { empty: bool },
    Unusual,
    End,
}

// === impl Observed ===

impl<B: Body, W: BodyObserver> Observed<B, W> {
    /// Returns the body; without an observer it is unchanged.
    #[inline]
    pub(crate) fn new(body: B, watch: Option<W>) -> Self {
        let left = if watch.is_some() { DataLeft::of(&body) } else { DataLeft::Unknown };
        Self::known(body, watch, left)
    }

    /// The same for a body that was asked what is left: asking it here would copy it to memory first.
    #[inline]
    pub(crate) fn known(body: B, watch: Option<W>, left: DataLeft) -> Self {
        Self { body, slot: ObserverSlot { watch, left } }
    }
}

impl<B, I: LayerBody<B> + Body, W: BodyObserver> LayerBody<B> for Observed<I, W> {
    #[inline]
    fn pass(body: ResponseBody<B>) -> Self {
        Self::new(I::pass(body), None)
    }
}

impl<B, W> Body for Observed<B, W>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    W: BodyObserver,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.project();
        if this.slot.watch.is_none() {
            return boxed::poll_frame(this.body, cx);
        }
        let mut look = FrameGuard { body: this.body, slot: this.slot, seen: FrameKind::Nothing };
        look.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Without what the observer keeps.
impl<B, W: BodyObserver> fmt::Debug for Observed<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

// === impl FrameGuard ===

impl<B, W> FrameGuard<'_, B, W>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    W: BodyObserver,
{
    #[inline(always)]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(watch) = &mut self.slot.watch else { return Poll::Ready(None) };
        let body = &mut self.body;
        let polled = watch.poll(cx, |cx| boxed::poll_frame(body.as_mut(), cx));
        self.seen = FrameKind::of(&polled);
        if self.seen == FrameKind::Unusual {
            self.unusual(polled)
        } else if W::READS {
            self.read(polled)
        } else {
            polled
        }
    }

    #[inline(never)]
    fn read(&mut self, polled: Polled) -> Polled {
        if let (Poll::Ready(Some(Ok(frame))), Some(watch)) = (&polled, &mut self.slot.watch) {
            if let Some(data) = frame.data_ref() {
                watch.bytes(data);
            }
        }
        polled
    }

    /// Inspects results other than data.
    #[cold]
    #[inline(never)]
    fn unusual(&mut self, polled: Polled) -> Polled {
        match &polled {
            Poll::Ready(Some(Err(err))) => self.slot.report(BodyEnd::Failed(err)),
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(trailers), Some(watch)) = (frame.trailers_ref(), &mut self.slot.watch) {
                    watch.trailers(trailers);
                    self.slot.report(BodyEnd::Complete);
                }
            }
            _ => {}
        }
        polled
    }
}

impl<B: Body, W: BodyObserver> Drop for FrameGuard<'_, B, W> {
    #[inline(always)]
    fn drop(&mut self) {
        match self.seen {
            FrameKind::Data { empty } => {
                if let Some(watch) = &mut self.slot.watch {
                    watch.data(empty);
                }
                if self.body.is_end_stream() {
                    self.slot.report(BodyEnd::Complete);
                } else if self.slot.left != DataLeft::Unknown {
                    self.slot.left = DataLeft::of(&*self.body);
                }
            }
            FrameKind::End => self.slot.report(BodyEnd::Complete),
            FrameKind::Nothing | FrameKind::Unusual => {}
        }
    }
}

// === impl FrameKind ===

impl FrameKind {
    #[inline(always)]
    fn of(polled: &Polled) -> Self {
        match polled {
            Poll::Pending => Self::Nothing,
            Poll::Ready(None) => Self::End,
            Poll::Ready(Some(Err(_))) => Self::Unusual,
            Poll::Ready(Some(Ok(frame))) => {
                frame.data_ref().map_or(Self::Unusual, |data| Self::Data { empty: data.is_empty() })
            }
        }
    }
}

// === impl ObserverSlot ===

impl<W: BodyObserver> ObserverSlot<W> {
    fn report(&mut self, end: BodyEnd<'_>) {
        if let Some(watch) = &mut self.watch {
            watch.over(end);
            self.watch = None;
        }
    }
}

impl<W: BodyObserver> Drop for ObserverSlot<W> {
    fn drop(&mut self) {
        self.report(if self.left == DataLeft::None { BodyEnd::Complete } else { BodyEnd::Dropped });
    }
}

// === impl DataLeft ===

impl DataLeft {
    #[inline]
    pub(crate) fn of<B: Body>(body: &B) -> Self {
        match body.size_hint().upper() {
            None => Self::Unknown,
            Some(0) => Self::None,
            Some(_) => Self::Some,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body::Frame;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl BodyObserver for Log {
        fn data(&mut self, empty: bool) {
            self.0.lock().unwrap().push(if empty { "nothing".into() } else { "data".into() });
        }

        fn trailers(&mut self, trailers: &HeaderMap) {
            self.0.lock().unwrap().push(format!("{} trailers", trailers.len()));
        }

        fn over(&mut self, end: BodyEnd<'_>) {
            self.0.lock().unwrap().push(match end {
                BodyEnd::Complete => "complete".into(),
                BodyEnd::Failed(err) => format!("failed: {err}"),
                BodyEnd::Dropped => "dropped".into(),
            });
        }
    }

    impl Log {
        fn seen(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    fn script(items: Vec<Result<&'static str, &'static str>>) -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
        let item = |item: Result<&'static str, &'static str>| {
            item.map(|data| Frame::data(Bytes::from_static(data.as_bytes()))).map_err(BoxError::from)
        };
        StreamBody::new(futures_util::stream::iter(items.into_iter().map(item)))
    }

    #[tokio::test]
    async fn the_end_is_reported_once() {
        let log = Log::default();
        let mut body = Observed::new(script(vec![Ok("a")]), Some(log.clone()));
        while body.frame().await.is_some() {}
        drop(body);
        assert_eq!(log.seen(), ["data", "complete"]);
    }

    #[tokio::test]
    async fn an_error_is_reported_once() {
        let log = Log::default();
        let mut body = Observed::new(script(vec![Err("cut"), Ok("late")]), Some(log.clone()));
        assert!(body.frame().await.unwrap().is_err());
        drop(body);
        assert_eq!(log.seen(), ["failed: cut"]);
    }

    #[tokio::test]
    async fn a_consumer_that_leaves_differs_from_one_that_had_it_all() {
        let log = Log::default();
        drop(Observed::new(script(vec![Ok("a")]), Some(log.clone())));
        assert_eq!(log.seen(), ["dropped"]);

        // A server that knows the length does not poll for the end.
        let log = Log::default();
        let mut body = Observed::new(Full::new(Bytes::from_static(b"a")), Some(log.clone()));
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(log.seen(), ["data", "complete"]);
    }

    #[tokio::test]
    async fn nothing_follows_trailers() {
        let log = Log::default();
        let last = script(vec![]).with_trailers(std::future::ready(Some(Ok(HeaderMap::new()))));
        let mut body = Observed::new(Unsaid(last), Some(log.clone()));
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(log.seen(), ["0 trailers", "complete"]);
    }

    /// HTTP/2, where the last frame may be an empty one.
    #[tokio::test]
    async fn a_known_length_is_had_in_full_before_the_body_says_that_it_ended() {
        let whole = || Unsaid(Full::new(Bytes::from_static(b"a")));
        let log = Log::default();
        drop(Observed::new(whole(), Some(log.clone())));
        assert_eq!(log.seen(), ["dropped"]);

        let log = Log::default();
        let mut body = Observed::new(whole(), Some(log.clone()));
        body.frame().await.unwrap().unwrap();
        assert_eq!(log.seen(), ["data"], "trailers may follow");
        drop(body);
        assert_eq!(log.seen(), ["data", "complete"]);

        let log = Log::default();
        drop(Observed::new(Unsaid(Full::<Bytes>::default()), Some(log.clone())));
        assert_eq!(log.seen(), ["complete"]);
    }

    /// Hides its end.
    struct Unsaid<B>(B);

    impl<B: Body<Data = Bytes> + Unpin> Body for Unsaid<B> {
        type Data = Bytes;
        type Error = B::Error;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            self.0.size_hint()
        }
    }
}
