use std::fmt;
use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::held::HeldPermit;
use super::{Permit, PermitEnd};
use crate::body::boxed::Polled;
use crate::body::observed::{BodyEnd, BodyObserver, DataLeft, Observed};
use crate::body::response::{LayerBody, ResponseBody};
use crate::error::BoxError;

pin_project! {
    /// The response body of [`Guarded`](super::Guarded): the permit of its call lives until it ends.
    pub struct GuardedBody<B, P: Permit> {
        #[pin]
        body: Observed<ResponseBody<B>, PermitObserver<P>>,
    }
}

/// Holds the permit until the body is over.
struct PermitObserver<P: Permit>(HeldPermit<P>);

// === impl GuardedBody ===

impl<B, P> GuardedBody<B, P>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
    P: Permit,
{
    #[inline]
    pub(super) fn new(body: ResponseBody<B>, permit: HeldPermit<P>, left: DataLeft) -> Self {
        let watching = if permit.is_empty() { None } else { Some(PermitObserver(permit)) };
        Self { body: Observed::known(body, watching, left) }
    }
}

impl<B, P> LayerBody<B> for GuardedBody<B, P>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
    P: Permit,
{
    fn pass(body: ResponseBody<B>) -> Self {
        Self::new(body, HeldPermit::new(None), DataLeft::Unknown)
    }
}

impl<B, P> Body for GuardedBody<B, P>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
    P: Permit,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: fmt::Debug, P: Permit> fmt::Debug for GuardedBody<B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedBody").finish_non_exhaustive()
    }
}

// === impl PermitObserver ===

impl<P: Permit> BodyObserver for PermitObserver<P> {
    const READS: bool = P::READS;

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        self.0.poll(cx, poll)
    }

    #[inline]
    fn data(&mut self, empty: bool) {
        if let Some(permit) = self.0.get_mut() {
            permit.data(empty);
        }
    }

    #[inline]
    fn bytes(&mut self, data: &Bytes) {
        if let Some(permit) = self.0.get_mut() {
            permit.bytes(data);
        }
    }

    #[cold]
    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(permit) = self.0.get_mut() {
            permit.trailers(trailers);
        }
    }

    fn over(&mut self, end: BodyEnd<'_>) {
        self.0.end(match end {
            BodyEnd::Complete => PermitEnd::Complete,
            BodyEnd::Failed(err) => PermitEnd::Broken(err),
            BodyEnd::Dropped => PermitEnd::Dropped,
        });
    }
}
