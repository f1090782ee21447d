//! How a body ended, told exactly once.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::boxed::{self, Polled};
use crate::error::BoxError;

/// How a body ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome<'a> {
    /// It came to its end.
    Complete,
    /// It broke off.
    Failed(&'a BoxError),
    /// Its consumer went away first.
    Dropped,
}

/// Watches a body go by.
pub(crate) trait Watch {
    /// A frame is about to be handed on.
    fn frame(&mut self, frame: &Frame<Bytes>);

    /// The consumer waits, and the inner body has nothing.
    fn waiting(&mut self) {}

    /// The body is over. Called once, at the latest when the body is dropped.
    fn over(self, outcome: Outcome<'_>);
}

pin_project! {
    /// Reports to a [`Watch`] what its inner body does.
    ///
    /// A body has ended when it says so (`None`), or when it says that nothing will follow (`is_end_stream`): servers
    /// do not poll again after the last byte of a known length.
    #[derive(Debug)]
    pub(crate) struct Observed<B: Body, W: Watch> {
        #[pin]
        body: B,
        watch: Option<W>,
    }

    impl<B: Body, W: Watch> PinnedDrop for Observed<B, W> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(watch) = this.watch.take() {
                watch.over(if this.body.is_end_stream() { Outcome::Complete } else { Outcome::Dropped });
            }
        }
    }
}

// === impl Observed ===

impl<B: Body, W: Watch> Observed<B, W> {
    pub(crate) fn new(body: B, watch: W) -> Self {
        Self { body, watch: Some(watch) }
    }
}

impl<B, W> Body for Observed<B, W>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
    W: Watch,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.project();
        let polled = boxed::poll_frame(this.body, cx);
        match (&polled, &mut *this.watch) {
            (_, None) => {}
            (Poll::Pending, Some(watch)) => watch.waiting(),
            (Poll::Ready(Some(Ok(frame))), Some(watch)) => watch.frame(frame),
            (Poll::Ready(Some(Err(err))), watch) => report(watch, Outcome::Failed(err)),
            (Poll::Ready(None), watch) => report(watch, Outcome::Complete),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn report<W: Watch>(watch: &mut Option<W>, outcome: Outcome<'_>) {
    if let Some(watch) = watch.take() {
        watch.over(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Watch for Log {
        fn frame(&mut self, frame: &Frame<Bytes>) {
            self.0.lock().unwrap().push(format!("{:?}", frame.data_ref().unwrap()));
        }

        fn waiting(&mut self) {
            self.0.lock().unwrap().push("waiting".into());
        }

        fn over(self, outcome: Outcome<'_>) {
            self.0.lock().unwrap().push(match outcome {
                Outcome::Complete => "complete".into(),
                Outcome::Failed(err) => format!("failed: {err}"),
                Outcome::Dropped => "dropped".into(),
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
        let mut body = Observed::new(script(vec![Ok("a")]), log.clone());
        while body.frame().await.is_some() {}
        drop(body);
        assert_eq!(log.seen(), ["b\"a\"", "complete"]);
    }

    #[tokio::test]
    async fn an_error_is_reported_once() {
        let log = Log::default();
        let mut body = Observed::new(script(vec![Err("cut"), Ok("late")]), log.clone());
        assert!(body.frame().await.unwrap().is_err());
        drop(body);
        assert_eq!(log.seen(), ["failed: cut"]);
    }

    #[tokio::test]
    async fn a_consumer_that_leaves_is_told_from_one_that_had_it_all() {
        let log = Log::default();
        drop(Observed::new(script(vec![Ok("a")]), log.clone()));
        assert_eq!(log.seen(), ["dropped"]);

        // A server that knows the length does not poll for the end.
        let log = Log::default();
        let mut body = Observed::new(Full::new(Bytes::from_static(b"a")), log.clone());
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert_eq!(log.seen(), ["b\"a\"", "complete"]);
    }
}
