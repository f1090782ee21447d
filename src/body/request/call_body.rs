//! The request body below the layers: one type for all bodies and stacks.

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::recording::{ReadState, Recording};
use super::upload::{UploadReporter, UploadWatch};
use crate::body::boxed::Polled;
use crate::body::erased::ErasedBody;
use crate::error::BoxError;
use crate::rt::clock;

/// The request body that the layers of this crate pass to the service inside.
///
/// A layer that reads, repeats or watches a request takes any body and passes on this one. It stays one type however many
/// such layers are stacked, so a client, a handler or a backup names it once:
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use tower_buttress::CallBody;
///
/// async fn upstream(request: Request<CallBody>) -> Result<Response<CallBody>, Infallible> {
///     Ok(Response::new(request.into_body()))
/// }
///
/// # let _ = upstream;
/// type Client = hyper_util::client::legacy::Client<hyper_util::client::legacy::connect::HttpConnector, CallBody>;
/// ```
///
/// Frames, trailers, errors and length are those of the caller's body. `Debug` shows the kind and the length of the body,
/// never its content.
///
/// # Cost
///
/// None for an empty body, a [`Full`](http_body_util::Full) of [`Bytes`], and a `CallBody` that an outer layer made. Any
/// other body is boxed once: one allocation, and a virtual call per frame.
///
/// # Errors
///
/// Those of the caller's body; [`ReplayUnavailable`](crate::error::ReplayUnavailable) for an earlier attempt that still
/// reads a body after a retry has taken it over.
#[derive(Default)]
pub struct CallBody {
    kind: CallBodyKind,
    /// Reports to a layer outside, which waits for the upstream, when the body is read.
    reporter: Option<UploadReporter>,
}

#[derive(Default)]
enum CallBodyKind {
    /// Completely in memory.
    Whole {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    /// Recorded while it is read, for further attempts.
    Recorded {
        recording: Arc<Recording<CallBody>>,
        generation: u64,
    },
    Boxed(ErasedBody),
    /// It failed while a layer read it.
    Failed(BoxError),
    #[default]
    Over,
}

/// The most that a socket's buffers take at once.
pub(super) const MAX_SENT_AT_ONCE: usize = 64 * 1024;

/// A body in the best form for another attempt.
pub(super) enum Repeatable {
    Whole {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    /// An outer layer records it: `true` if this generation would read all of the body.
    Recorded {
        recording: Arc<Recording<CallBody>>,
        generation: u64,
    },
    /// It must be recorded.
    Stream(CallBody),
}

// === impl CallBody ===

impl CallBody {
    /// Wraps `body`; returns a `CallBody` unchanged.
    #[must_use]
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let mut body = Some(body);
        let any: &mut dyn Any = &mut body;
        if let Some(same) = any.downcast_mut::<Option<Self>>() {
            return same.take().unwrap_or_default();
        }
        if let Some(full) = any.downcast_mut::<Option<Full<Bytes>>>() {
            return full.take().and_then(Full::into_inner).map_or_else(Self::empty, Self::from);
        }
        body.filter(|body| !body.is_end_stream()).map_or_else(Self::empty, Self::boxed)
    }

    /// Returns a body without data.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Returns a body in memory.
    pub(crate) fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::from_kind(CallBodyKind::Whole { data, trailers: trailers.map(Box::new) })
    }

    /// Returns a body that fails with this error.
    pub(crate) fn failed(err: BoxError) -> Self {
        Self::from_kind(CallBodyKind::Failed(err))
    }

    /// Returns a body that reads from a recording.
    pub(super) fn recorded(recording: Arc<Recording<CallBody>>, generation: u64) -> Self {
        Self::from_kind(CallBodyKind::Recorded { recording, generation })
    }

    pub(super) fn repeatable(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Self::from_kind(CallBodyKind::Whole { data, trailers })
    }

    fn boxed<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self::from_kind(CallBodyKind::Boxed(ErasedBody::new(body)))
    }

    const fn from_kind(kind: CallBodyKind) -> Self {
        Self { kind, reporter: None }
    }

    /// The data of a body in memory of which nothing has been read.
    pub(crate) fn in_memory(&self) -> Option<&Bytes> {
        match &self.kind {
            CallBodyKind::Whole { data, .. } if self.reporter.is_none() => Some(data),
            _ => None,
        }
    }

    /// The trailers of a body in memory.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        if let CallBodyKind::Whole { trailers, .. } = &self.kind { trailers.as_deref() } else { None }
    }

    /// The data and the trailers of a body [in memory](Self::in_memory).
    pub(crate) fn into_memory(self) -> (Bytes, Option<HeaderMap>) {
        match self.kind {
            CallBodyKind::Whole { data, trailers } => (data, trailers.map(|trailers| *trailers)),
            _ => (Bytes::new(), None),
        }
    }

    /// The data of a body in memory, for inspection.
    #[cfg(feature = "llm")]
    pub(crate) fn peek(&self) -> Option<&Bytes> {
        if let CallBodyKind::Whole { data, .. } = &self.kind { Some(data) } else { None }
    }

    /// Watches when this unread body is read, for a layer that waits for its sender too.
    pub(crate) fn watch(&mut self) -> UploadWatch {
        if self.is_end_stream() {
            return UploadWatch::sent();
        }
        if let Some(watch) = self.report(true) {
            return watch;
        }
        // Another layer waits for the sender: each needs its own watch.
        *self = Self::boxed(std::mem::take(self));
        self.watch()
    }

    /// Watches when this unread body is sent; `None` if it is sent at once.
    pub(crate) fn watch_sending(&mut self) -> Option<UploadWatch> {
        let at_once = matches!(&self.kind, CallBodyKind::Whole { data, .. } if data.len() <= MAX_SENT_AT_ONCE);
        if at_once || self.is_end_stream() {
            return None;
        }
        self.report(false)
    }

    fn report(&mut self, waits_for_sender: bool) -> Option<UploadWatch> {
        let now = clock::now();
        self.reporter.get_or_insert_with(|| UploadReporter::new(now)).watch(waits_for_sender, now)
    }

    /// This body, where it is one of which not all has come yet, and nothing was read.
    #[inline]
    pub(crate) fn arriving<B: 'static>(body: &mut B) -> Option<&mut Self> {
        let any: &mut dyn Any = body;
        any.downcast_mut::<Self>()
            .filter(|body| !matches!(body.kind, CallBodyKind::Whole { .. } | CallBodyKind::Over) && body.may_grow())
    }

    #[inline(never)]
    fn may_grow(&self) -> bool {
        match &self.kind {
            CallBodyKind::Boxed(body) => !body.is_end_stream(),
            CallBodyKind::Recorded { recording, generation } => {
                let is_whole = matches!(recording.state(usize::MAX), ReadState::Whole | ReadState::Failed);
                !is_whole && !recording.is_end_stream(*generation)
            }
            CallBodyKind::Whole { .. } | CallBodyKind::Failed(_) | CallBodyKind::Over => false,
        }
    }

    /// Wakes this when the body has been read to its end, or is dropped.
    pub(crate) fn wake_when_sent(&mut self, waker: Waker) {
        self.reporter.get_or_insert_with(|| UploadReporter::new(clock::now())).wake_when_over(waker);
    }

    /// Converts the body for [`Resend`](super::resend::Resend).
    pub(super) fn into_repeatable(self) -> Repeatable {
        match self {
            Self { kind: CallBodyKind::Whole { data, trailers }, reporter: None } => {
                Repeatable::Whole { data, trailers }
            }
            Self { kind: CallBodyKind::Over, reporter: None } => {
                Repeatable::Whole { data: Bytes::new(), trailers: None }
            }
            Self { kind: CallBodyKind::Recorded { recording, generation }, reporter: None } => {
                Repeatable::Recorded { recording, generation }
            }
            stream => Repeatable::Stream(stream),
        }
    }

    /// Continues with the rest of a body that is no longer recorded.
    fn go_on_with(&mut self, rest: Self) {
        self.kind = if rest.reporter.is_some() { CallBodyKind::Boxed(ErasedBody::new(rest)) } else { rest.kind };
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let polled = match &mut self.kind {
            CallBodyKind::Whole { data, .. } if !data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            _ => self.poll_rest(cx),
        };
        if let Some(reporter) = &self.reporter {
            let over = matches!(polled, Poll::Ready(None)) || self.is_end_stream();
            reporter.report(&polled, over);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            CallBodyKind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            CallBodyKind::Recorded { recording, generation } => recording.is_end_stream(*generation),
            CallBodyKind::Boxed(body) => body.is_end_stream(),
            CallBodyKind::Failed(_) => false,
            CallBodyKind::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            CallBodyKind::Whole { data, trailers: None } => SizeHint::with_exact(data.len() as u64),
            // Over HTTP/1.1 a known length frames the body, which leaves no room for trailers.
            CallBodyKind::Whole { data, .. } => {
                let mut hint = SizeHint::new();
                hint.set_lower(data.len() as u64);
                hint
            }
            CallBodyKind::Recorded { recording, generation } => recording.size_hint(*generation),
            CallBodyKind::Boxed(body) => body.size_hint(),
            CallBodyKind::Failed(_) => SizeHint::default(),
            CallBodyKind::Over => SizeHint::with_exact(0),
        }
    }
}

impl CallBody {
    /// Polls the next frame of a body that is not in memory.
    #[inline(never)]
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = match &mut self.kind {
            CallBodyKind::Whole { trailers, .. } => {
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))));
            }
            CallBodyKind::Over => return Poll::Ready(None),
            CallBodyKind::Failed(_) => match std::mem::take(&mut self.kind) {
                CallBodyKind::Failed(err) => return Poll::Ready(Some(Err(err))),
                _ => return Poll::Ready(None),
            },
            CallBodyKind::Boxed(body) => Pin::new(body).poll_frame(cx),
            CallBodyKind::Recorded { recording, generation } => {
                let (polled, rest) = recording.poll_frame(*generation, cx);
                if let Some(rest) = rest {
                    self.go_on_with(rest);
                }
                polled
            }
        };
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.kind = CallBodyKind::Over;
        }
        polled
    }
}

impl From<Bytes> for CallBody {
    fn from(data: Bytes) -> Self {
        Self::whole(data, None)
    }
}

impl From<&'static str> for CallBody {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl From<String> for CallBody {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<Vec<u8>> for CallBody {
    fn from(data: Vec<u8>) -> Self {
        Bytes::from(data).into()
    }
}

impl fmt::Debug for CallBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            CallBodyKind::Whole { .. } => "whole",
            CallBodyKind::Recorded { .. } => "recorded",
            CallBodyKind::Boxed(_) => "boxed",
            CallBodyKind::Failed(_) => "failed",
            CallBodyKind::Over => "empty",
        };
        f.debug_struct("CallBody").field("kind", &kind).field("size", &self.size_hint()).finish_non_exhaustive()
    }
}
