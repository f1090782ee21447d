//! The inner body, or the body of a refusal; fused.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::boxed::{self, Polled};
use crate::error::BoxError;
use crate::rejection::{Rejection, RejectionFormat};

pin_project! {
    /// A forwarded response body, or the body of a refusal.
    ///
    /// It is fused, and drops the inner body as soon as that ends, fails or is cancelled, which closes the upstream's
    /// connection, even if the caller keeps this body.
    #[project = StateProj]
    pub enum ResponseBody<B> {
        Inner { #[pin] body: B },
        Rest { rest: BodyRest },
        Over,
    }
}

/// What follows in the place of an inner body.
pub(crate) type BodyRest = VecDeque<Result<Frame<Bytes>, BoxError>>;

/// The body of a layer's responses, around that of the service.
pub trait LayerBody<B>: Sized {
    /// A body that the layer passes on as it is.
    fn pass(body: ResponseBody<B>) -> Self;

    /// The service's body as it is.
    #[inline]
    fn inner(body: B) -> Self {
        Self::pass(ResponseBody::inner(body))
    }

    /// A body in place of the service's.
    fn text(text: Bytes) -> Self {
        let rest = Some(text).filter(|text| !text.is_empty()).map(Frame::data).map(Ok);
        Self::pass(ResponseBody::Rest { rest: rest.into_iter().collect() })
    }

    /// An empty body.
    fn over() -> Self {
        Self::pass(ResponseBody::Over)
    }

    #[cold]
    fn refuse(rejection: Rejection, format: RejectionFormat) -> Response<Self> {
        rejection.into_response(format).map(Self::text)
    }
}

// === impl ResponseBody ===

impl<B> ResponseBody<B> {
    #[inline]
    pub(crate) fn inner(body: B) -> Self {
        Self::Inner { body }
    }

    /// The same around another inner body.
    pub(crate) fn map<T>(self, with: impl FnOnce(B) -> T) -> ResponseBody<T> {
        match self {
            Self::Inner { body } => ResponseBody::Inner { body: with(body) },
            Self::Rest { rest } => ResponseBody::Rest { rest },
            Self::Over => ResponseBody::Over,
        }
    }

    /// Whether it was read to its end, or given up.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Drops the rest.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop_inner(mut self: Pin<&mut Self>) {
        self.set(Self::Over);
    }

    /// Drops the inner body, and ends with `rest`.
    #[cfg(feature = "llm")]
    #[cold]
    pub(crate) fn end_with(mut self: Pin<&mut Self>, rest: BodyRest) -> Polled {
        self.set(Self::Rest { rest });
        self.poll_rest()
    }

    /// Polls the next frame without an inner body.
    #[cold]
    #[inline(never)]
    fn poll_rest(self: Pin<&mut Self>) -> Polled {
        Poll::Ready(match self.project() {
            StateProj::Rest { rest } => rest.pop_front(),
            StateProj::Inner { .. } | StateProj::Over => None,
        })
    }
}

/// Drops the inner body after its end, while the last frame is being returned: inspecting a result and then returning it
/// would copy it.
struct Fuse<'a, B> {
    body: Pin<&'a mut ResponseBody<B>>,
    over: bool,
}

impl<B> Fuse<'_, B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    #[inline(always)]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let StateProj::Inner { body } = self.body.as_mut().project() else { return Poll::Ready(None) };
        let polled = boxed::poll_frame(body, cx);
        self.over = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

impl<B> Drop for Fuse<'_, B> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.over {
            self.body.as_mut().drop_inner();
        }
    }
}

impl<B> LayerBody<B> for ResponseBody<B> {
    #[inline]
    fn pass(body: Self) -> Self {
        body
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if !matches!(*self, Self::Inner { .. }) {
            return self.poll_rest();
        }
        let mut fuse = Fuse { body: self, over: false };
        fuse.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Inner { body } => body.is_end_stream(),
            Self::Rest { rest } => rest.is_empty(),
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Inner { body } => body.size_hint(),
            Self::Rest { rest } => size_of(rest),
            Self::Over => SizeHint::with_exact(0),
        }
    }
}

/// The size of a rest. Apart, so that the size of an inner body stays inlined: it is asked for with each frame.
#[cold]
#[inline(never)]
fn size_of(rest: &BodyRest) -> SizeHint {
    // After the announced number of bytes the caller would not read an error.
    if rest.iter().any(Result::is_err) {
        return SizeHint::default();
    }
    SizeHint::with_exact(rest.iter().flatten().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
}

/// Without the text, which may be a stored answer.
impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inner { .. } => "Inner",
            Self::Rest { .. } => "Rest",
            Self::Over => "Over",
        })
    }
}
