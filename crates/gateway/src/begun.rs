//! A request's body that has been read in part.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The part that was read, then the rest.
#[derive(Debug)]
pub(crate) struct Begun {
    read: Bytes,
    rest: Incoming,
    /// The trailers, if the body was read to its end.
    trailers: Option<HeaderMap>,
}

// === impl Begun ===

impl Begun {
    pub(crate) fn unread(body: Incoming) -> Self {
        Self::new(Bytes::new(), body)
    }

    pub(crate) fn new(read: Bytes, rest: Incoming) -> Self {
        Self { read, rest, trailers: None }
    }

    pub(crate) fn with_trailers(self, trailers: HeaderMap) -> Self {
        Self { trailers: Some(trailers), ..self }
    }

    /// The unread rest of the body.
    pub(crate) fn into_rest(self) -> Incoming {
        self.rest
    }
}

impl Body for Begun {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        match self.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.trailers.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (read, rest) = (self.read.len() as u64, self.rest.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint.set_lower(rest.lower().saturating_add(read).min(hint.upper().unwrap_or(u64::MAX)));
        hint
    }
}
