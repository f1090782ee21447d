use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::super::body::SseHeartbeatBody;
use super::super::delayed_end::DelayedEnd;
use super::super::failure;
use super::super::frame::HeartbeatFrame;
use super::super::future::SseHeartbeatFuture;
use super::super::head;
use super::super::state::HeartbeatState;
use crate::body::boxed::Polled;
use crate::error::{BoxError, UnexpectedResponse};
use crate::policy::heartbeat_schedule::NextAction;
use crate::proto::sse::Ending;
use crate::rejection::Rejection;
use crate::rt::clock;

pin_project! {
    /// The response body of [`EarlySseHeartbeat`](crate::EarlySseHeartbeat): it may begin before there is an answer.
    pub struct EarlySseHeartbeatBody<F, B> {
        #[pin]
        stage: Stage<F, B>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F, B> {
        // The answer is not there yet.
        Waiting { waiting: Waiting<F> },
        Following { #[pin] body: SseHeartbeatBody<B> },
        // What went wrong has been said, and comes now.
        Failing { last: DelayedEnd },
    }
}

struct Waiting<F> {
    call: Pin<Box<SseHeartbeatFuture<F>>>,
    state: HeartbeatState,
    /// Whether the first heartbeat has gone out: it takes the head along, through proxies that wait for a byte.
    begun: bool,
}

/// What came of waiting.
enum Came<B> {
    Beat(Polled),
    Answer(Response<B>),
    Failure(BoxError),
}

// === impl EarlySseHeartbeatBody ===

impl<F, B> EarlySseHeartbeatBody<F, B> {
    pub(super) fn following(body: SseHeartbeatBody<B>) -> Self {
        Self { stage: Stage::Following { body } }
    }

    pub(super) fn beginning(call: Pin<Box<SseHeartbeatFuture<F>>>) -> Self {
        let state = HeartbeatState::new(call.config());
        Self { stage: Stage::Waiting { waiting: Waiting { call, state, begun: false } } }
    }
}

impl<F, B, E> Body for EarlySseHeartbeatBody<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
{
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let mut stage = self.project().stage;
        loop {
            let failure = match stage.as_mut().project() {
                StageProj::Following { body } => return body.poll_frame(cx),
                StageProj::Failing { last } => return last.poll(cx),
                StageProj::Waiting { waiting } => match ready!(waiting.poll(cx)) {
                    Came::Beat(beat) => return beat,
                    Came::Failure(err) => err,
                    Came::Answer(response) => match judge(response) {
                        Ok(response) => {
                            let body = waiting.follow(response);
                            stage.set(Stage::Following { body });
                            continue;
                        }
                        Err(err) => err,
                    },
                },
            };
            let event = failure::event(&failure, Ending::Lf);
            // The call goes with it.
            stage.set(Stage::Failing { last: DelayedEnd::new(Err(failure)) });
            return Poll::Ready(Some(Ok(Frame::data(event))));
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Waiting { .. } => false,
            Stage::Following { body } => body.is_end_stream(),
            Stage::Failing { last } => last.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stage {
            Stage::Following { body } => body.size_hint(),
            Stage::Failing { .. } => SizeHint::with_exact(0),
            Stage::Waiting { .. } => SizeHint::default(),
        }
    }
}

/// Whether the answer can follow what was sent already.
fn judge<B>(response: Response<B>) -> Result<Response<B>, BoxError> {
    if head::is_event_stream(response.status(), response.headers()) {
        return Ok(response);
    }
    Err(match Rejection::of(&response) {
        Some(rejection) => rejection.clone().into(),
        None => UnexpectedResponse::new(response.status()).into(),
    })
}

impl<F, B> fmt::Debug for EarlySseHeartbeatBody<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stage {
            Stage::Waiting { .. } => "EarlySseHeartbeatBody::Waiting",
            Stage::Following { .. } => "EarlySseHeartbeatBody::Following",
            Stage::Failing { .. } => "EarlySseHeartbeatBody::Failing",
        })
    }
}

// === impl Waiting ===

impl<F> Waiting<F> {
    fn poll<B, E>(&mut self, cx: &mut Context<'_>) -> Poll<Came<B>>
    where
        F: Future<Output = Result<Response<B>, E>>,
        E: Into<BoxError>,
    {
        // What is ready beats a heartbeat, but the first one was promised with the head.
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(Came::Beat(self.state.beat()));
        }
        if let Poll::Ready(answer) = self.call.as_mut().poll_call(cx) {
            return Poll::Ready(answer.map_or_else(|err| Came::Failure(err.into()), Came::Answer));
        }
        self.state.schedule.waiting(clock::now);
        let Some((at, due)) = self.state.schedule.due(true) else { return Poll::Pending };
        ready!(self.state.timeout.poll_until(at, cx));
        Poll::Ready(match due {
            NextAction::Beat => Came::Beat(self.state.beat()),
            NextAction::End => Came::Failure(self.state.silence()),
        })
    }

    fn follow<B>(&mut self, response: Response<B>) -> SseHeartbeatBody<B> {
        let mut state = std::mem::replace(&mut self.state, HeartbeatState::new(self.call.config()));
        if let Some(frame) = response.extensions().get::<HeartbeatFrame>() {
            state.frame = frame.clone();
        }
        state.schedule.heard();
        SseHeartbeatBody::with(response.into_body(), Some(state))
    }
}
