use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::body::boxed::Polled;
use crate::body::prefixed::Prefixed;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::rejection::{Rejection, Wire};
use crate::store::{Head, Part, Reader};

pin_project! {
    /// The response body of [`Dedup`](crate::Dedup).
    #[derive(Debug)]
    pub struct DedupBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = KindProj]
    enum Kind<B> {
        // The layer stepped aside, or refused.
        Own { #[pin] body: ResponseBody<B> },
        // One of several who listen, or who come later.
        Heard { listener: Listener },
    }
}

/// A reader, and how much it has read.
struct Listener {
    /// `None`: it is over.
    reader: Option<Reader>,
    size: SizeHint,
}

pin_project! {
    /// The request body under [`DedupLayer`](crate::DedupLayer): read whole, or as it was.
    #[derive(Debug)]
    pub struct DedupRequestBody<B: Body> {
        #[pin]
        kind: RequestKind<B, B::Error>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = RequestKindProj]
    enum RequestKind<B, E> {
        Untouched { #[pin] body: B },
        Whole { data: Bytes, trailers: Option<HeaderMap> },
        TooLarge { #[pin] body: Prefixed<B> },
        Failed { why: Option<E> },
    }
}

// === impl DedupBody ===

impl<B> DedupBody<B> {
    pub(super) fn own(body: B) -> Self {
        Self { kind: Kind::Own { body: ResponseBody::inner(body) } }
    }

    pub(super) fn heard(reader: Reader, head: &Head) -> Self {
        Self { kind: Kind::Heard { listener: Listener { reader: Some(reader), size: *head.size() } } }
    }

    #[cold]
    pub(super) fn refuse(rejection: Rejection, wire: Wire) -> Response<Self> {
        ResponseBody::refuse(rejection, wire).map(|body| Self { kind: Kind::Own { body } })
    }
}

impl<B> Body for DedupBody<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project().kind.project() {
            KindProj::Own { body } => body.poll_frame(cx),
            KindProj::Heard { listener } => listener.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { body } => body.is_end_stream(),
            Kind::Heard { listener } => listener.reader.as_ref().is_none_or(Reader::is_at_end),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { body } => body.size_hint(),
            Kind::Heard { listener } if listener.reader.is_none() => SizeHint::with_exact(0),
            Kind::Heard { listener } => listener.size,
        }
    }
}

// === impl Listener ===

impl Listener {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(reader) = &mut self.reader else { return Poll::Ready(None) };
        let part = ready!(reader.poll_part(cx));
        match &part {
            Some(Ok(Part::Data(data))) => self.size = less(&self.size, data.len() as u64),
            Some(Ok(Part::Trailers(_))) => {}
            None | Some(Err(_)) => self.reader = None,
        }
        Poll::Ready(part.map(|part| part.map(Part::into_frame)))
    }
}

/// What is left of `size` after so much.
fn less(size: &SizeHint, read: u64) -> SizeHint {
    let mut left = SizeHint::new();
    if let Some(upper) = size.upper() {
        left.set_upper(upper.saturating_sub(read));
    }
    left.set_lower(size.lower().saturating_sub(read));
    left
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reader.fmt(f)
    }
}

// === impl DedupRequestBody ===

impl<B: Body> DedupRequestBody<B> {
    pub(super) fn untouched(body: B) -> Self {
        Self { kind: RequestKind::Untouched { body } }
    }

    pub(super) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { kind: RequestKind::Whole { data, trailers } }
    }

    pub(super) fn too_large(body: Prefixed<B>) -> Self {
        Self { kind: RequestKind::TooLarge { body } }
    }

    pub(super) fn failed(why: B::Error) -> Self {
        Self { kind: RequestKind::Failed { why: Some(why) } }
    }
}

impl<B: Body<Data = Bytes>> Body for DedupRequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            RequestKindProj::Untouched { body } => body.poll_frame(cx),
            RequestKindProj::TooLarge { body } => body.poll_frame(cx),
            RequestKindProj::Whole { data, .. } if !data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            RequestKindProj::Whole { trailers, .. } => Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(t)))),
            RequestKindProj::Failed { why } => Poll::Ready(why.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            RequestKind::Untouched { body } => body.is_end_stream(),
            RequestKind::TooLarge { body } => body.is_end_stream(),
            RequestKind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            RequestKind::Failed { why } => why.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            RequestKind::Untouched { body } => body.size_hint(),
            RequestKind::TooLarge { body } => body.size_hint(),
            RequestKind::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            RequestKind::Failed { .. } => SizeHint::default(),
        }
    }
}
