//! A response body, and what a layer watches in it.

use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::boxed::Polled;
use super::observed::{BodyObserver, Observed};
use super::response::{LayerBody, ResponseBody};
use crate::error::BoxError;

/// Polls a response body for its layer.
pub trait Monitor<B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static> {
    /// Polls the next frame of the body, or puts another result in its place.
    fn poll_frame(&mut self, body: Pin<&mut ResponseBody<B>>, cx: &mut Context<'_>) -> Polled;

    /// Whether the body with this monitor has ended.
    fn is_end_stream(&self, body: &ResponseBody<B>) -> bool {
        body.is_end_stream()
    }

    /// The size of the body with this monitor.
    fn size_hint(&self, body: &ResponseBody<B>) -> SizeHint {
        body.size_hint()
    }
}

pin_project! {
    /// The inner body as its layer's monitor polls it, or a refusal.
    pub struct MonitoredBody<B, M> {
        #[pin]
        body: ResponseBody<B>,
        // `None`: the body passes unchanged.
        monitor: Option<M>,
    }
}

// === impl MonitoredBody ===

impl<B, M> MonitoredBody<B, M> {
    pub(crate) fn new(body: B, monitor: Option<M>) -> Self {
        Self::of(ResponseBody::inner(body), monitor)
    }

    /// A body that its monitor replaces, or makes itself.
    pub(crate) fn without_inner(monitor: M) -> Self {
        Self::of(ResponseBody::Over, Some(monitor))
    }

    pub(crate) fn of(body: ResponseBody<B>, monitor: Option<M>) -> Self {
        Self { body, monitor }
    }
}

impl<B, M> LayerBody<B> for MonitoredBody<B, M> {
    #[inline]
    fn pass(body: ResponseBody<B>) -> Self {
        Self::of(body, None)
    }
}

impl<B: Body, W: BodyObserver, M> LayerBody<B> for MonitoredBody<Observed<B, W>, M> {
    #[inline]
    fn pass(body: ResponseBody<B>) -> Self {
        Self::of(body.map(|body| Observed::new(body, None)), None)
    }
}

impl<B, M> Body for MonitoredBody<B, M>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    M: Monitor<B>,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = self.project();
        match this.monitor {
            Some(monitor) => monitor.poll_frame(this.body, cx),
            None => this.body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.monitor.as_ref().map_or_else(|| self.body.is_end_stream(), |monitor| monitor.is_end_stream(&self.body))
    }

    fn size_hint(&self) -> SizeHint {
        self.monitor.as_ref().map_or_else(|| self.body.size_hint(), |monitor| monitor.size_hint(&self.body))
    }
}

/// Without the data, which is the upstream's.
impl<B, M> fmt::Debug for MonitoredBody<B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitoredBody").field("monitored", &self.monitor.is_some()).finish_non_exhaustive()
    }
}
