//! A request body that was read before it is sent, or that was not.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::prefixed::PrefixedBody;

pin_project! {
    /// The request body under a layer that reads it first ([`DedupLayer`](crate::DedupLayer),
    /// [`InspectRequestLayer`](crate::InspectRequestLayer)): whole, or as it was.
    #[derive(Debug)]
    pub struct ReadBody<B: Body> {
        #[pin]
        kind: Kind<B, B::Error>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B, E> {
        Untouched { #[pin] body: B },
        Whole { data: Bytes, trailers: Option<HeaderMap> },
        // In part.
        Begun { #[pin] body: PrefixedBody<B> },
        Failed { why: Option<E> },
    }
}

// === impl ReadBody ===

impl<B: Body> ReadBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self { kind: Kind::Untouched { body } }
    }

    pub(crate) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { kind: Kind::Whole { data, trailers } }
    }

    pub(crate) fn begun(body: PrefixedBody<B>) -> Self {
        Self { kind: Kind::Begun { body } }
    }

    pub(crate) fn failed(why: B::Error) -> Self {
        Self { kind: Kind::Failed { why: Some(why) } }
    }
}

impl<B: Body<Data = Bytes>> Body for ReadBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Untouched { body } => body.poll_frame(cx),
            KindProj::Begun { body } => body.poll_frame(cx),
            KindProj::Whole { data, .. } if !data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            KindProj::Whole { trailers, .. } => Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(t)))),
            KindProj::Failed { why } => Poll::Ready(why.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Begun { body } => body.is_end_stream(),
            Kind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            Kind::Failed { why } => why.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Begun { body } => body.size_hint(),
            Kind::Whole { data, trailers: None } => SizeHint::with_exact(data.len() as u64),
            // Of known length, it would be framed by that over HTTP/1.1, and there is no room for trailers then.
            Kind::Whole { data, .. } => {
                let mut hint = SizeHint::new();
                hint.set_lower(data.len() as u64);
                hint
            }
            Kind::Failed { .. } => SizeHint::default(),
        }
    }
}
