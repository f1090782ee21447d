use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};

use super::body::FirstByteTimeoutBody;
use crate::body::frame_budget::FrameBudget;
use crate::body::prefixed::ReadAhead;
use crate::body::response::ResponseBody;
use crate::error::BoxError;
use crate::policy::verdict::EarlyTrailers;
use crate::proto::sse::Scanner;

/// A withheld response.
#[derive(Debug)]
pub(super) struct WithheldHead<B> {
    /// Taken when it is forwarded.
    response: Option<Response<ResponseBody<B>>>,
    held: ReadAhead,
    first: FirstKind,
}

/// The event that ends the wait.
#[derive(Debug)]
pub(super) enum FirstKind {
    /// Any byte.
    Data,
    /// A byte that is not white space.
    Text,
    /// The end of an event.
    Event(Box<Scanner>),
}

/// The most that is withheld for a first event. A first event is a line or two; a peer that sends more must not fill the
/// memory.
const MAX_BYTES: usize = 64 * 1024;
/// The same in frames, since a frame costs more memory than its bytes.
const MAX_FRAMES: usize = 1024;

// === impl WithheldHead ===

impl<B> WithheldHead<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    pub(super) fn new(response: Response<B>, first: FirstKind) -> Self {
        Self { response: Some(response.map(ResponseBody::inner)), held: ReadAhead::default(), first }
    }

    /// Returns the response, once the event has come, or its body has ended without it; the body's error if it fails.
    pub(super) fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<FirstByteTimeoutBody<B>>, BoxError>> {
        let mut frames = FrameBudget::new();
        // Polled again after it was forwarded: nothing will come.
        let Some(response) = &mut self.response else { return Poll::Pending };
        loop {
            if !frames.may_read(cx) {
                return Poll::Pending;
            }
            let Some(frame) = ready!(Pin::new(response.body_mut()).poll_frame(cx)).transpose()? else { break };
            // Empty frames do not count, and must not pile up.
            if frame.data_ref().is_some_and(Bytes::is_empty) {
                continue;
            }
            let enough = self.first.is_in(&frame);
            if let Some(trailers) = frame.trailers_ref().filter(|_| self.held.bytes() == 0) {
                response.extensions_mut().insert(EarlyTrailers(trailers.clone()));
            }
            self.held.push(frame);
            if enough || self.held.bytes() >= MAX_BYTES || self.held.frames() >= MAX_FRAMES {
                break;
            }
        }
        self.release()
    }

    pub(super) fn release<E>(&mut self) -> Poll<Result<Response<FirstByteTimeoutBody<B>>, E>> {
        let held = std::mem::take(&mut self.held);
        let resumed = self.response.take().map(|response| response.map(|rest| held.before(rest)));
        resumed.map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
    }
}

// === impl First ===

impl FirstKind {
    /// Whether this frame ends the wait. Trailers do: no data follows them.
    fn is_in(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        match self {
            Self::Data => true,
            Self::Text => !data.trim_ascii_start().is_empty(),
            Self::Event(scanner) => scanner.scan(data).blocks > 0,
        }
    }
}
