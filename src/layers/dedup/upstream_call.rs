//! The upstream call and the recording of its answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::recorder::ResponseRecorder;
use crate::body::boxed;
use crate::error::BoxError;
use crate::policy::broadcast::ReaderId;
use crate::store::{AppendedPart, Lease};

pin_project! {
    /// The upstream call, and its state.
    pub(super) struct UpstreamCall<F, B, L> {
        #[pin]
        phase: Phase<F, B>,
        // `None`: the call has ended.
        recorder: Option<ResponseRecorder<L>>,
    }
}

pin_project! {
    #[project = PhaseProj]
    enum Phase<F, B> {
        Head { #[pin] call: F },
        Body { #[pin] body: B },
        Dropped,
    }
}

/// The result of a poll.
pub(super) enum CallProgress<E> {
    /// The head was recorded. Without a body, the answer is complete.
    Head {
        is_last: bool,
    },
    /// A part was appended.
    Part {
        appended: AppendedPart,
        is_last: bool,
    },
    /// The body has ended.
    Complete,
    BodyFailed(BoxError),
    /// The call failed before its head.
    CallFailed(E),
}

// === impl UpstreamCall ===

impl<F, B, E, L> UpstreamCall<F, B, L>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
    L: Lease,
{
    pub(super) fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, reader: Option<ReaderId>) -> Poll<CallProgress<E>> {
        let mut this = self.project();
        let Some(recorder) = this.recorder else { return Poll::Pending };
        match this.phase.as_mut().project() {
            PhaseProj::Head { call } => Poll::Ready(match ready!(call.poll(cx)) {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let is_last = body.is_end_stream();
                    recorder.head(head, body.size_hint());
                    this.phase.set(Phase::Body { body });
                    CallProgress::Head { is_last }
                }
                Err(err) => CallProgress::CallFailed(err),
            }),
            PhaseProj::Body { mut body } => Poll::Ready(match ready!(boxed::poll_frame(body.as_mut(), cx)) {
                Some(Ok(frame)) => {
                    let appended = recorder.frame(frame, reader);
                    CallProgress::Part { appended, is_last: body.is_end_stream() }
                }
                Some(Err(why)) => CallProgress::BodyFailed(why),
                None => CallProgress::Complete,
            }),
            PhaseProj::Dropped => Poll::Pending,
        }
    }
}

impl<F, B, L> UpstreamCall<F, B, L> {
    pub(super) fn new(call: F, recorder: ResponseRecorder<L>) -> Pin<Box<Self>> {
        Box::pin(Self { phase: Phase::Head { call }, recorder: Some(recorder) })
    }

    /// Drops the upstream call, and returns the recorder.
    pub(super) fn drop_upstream(mut self: Pin<Box<Self>>) -> Option<ResponseRecorder<L>> {
        let mut this = self.as_mut().project();
        this.phase.set(Phase::Dropped);
        this.recorder.take()
    }
}
