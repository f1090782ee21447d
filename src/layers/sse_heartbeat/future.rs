use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::body::SseHeartbeatBody;
use super::call_config::CallConfig;
use super::config::NAME;
use super::head::{self, AnswerKind};
use super::pending::PendingAnswer;
use super::state::HeartbeatState;
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::media_type::NDJSON;
use crate::proto::retry_after;
use crate::rt::timeout::Timeout;

/// In a response's extensions: its head was sent before there was an answer, and says nothing about it. See
/// [`SseHeartbeatLayer::before_headers`](crate::SseHeartbeatLayer::before_headers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadersSentEarly;

pin_project! {
    /// The future of [`SseHeartbeat`](crate::sse_heartbeat::SseHeartbeat).
    #[must_use = "futures do nothing unless polled"]
    pub struct SseHeartbeatFuture<F> {
        #[pin]
        stage: Stage<F>,
        // `None`: the response is there.
        config: Option<CallConfig>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<F> {
        Answer { #[pin] call: F },
        // The head is sent `after` that time if there is no answer by then. The call then moves into the body.
        MayBegin { call: Option<Pin<Box<F>>>, after: Duration, timeout: Timeout },
    }
}

// === impl SseHeartbeatFuture ===

impl<F> SseHeartbeatFuture<F> {
    pub(super) fn new(call: F, config: CallConfig) -> Self {
        Self { stage: Stage::Answer { call }, config: Some(config) }
    }

    /// Begins the stream `after` that time.
    pub(super) fn beginning(call: F, config: CallConfig, after: Duration) -> Self {
        let stage = Stage::MayBegin { call: Some(Box::pin(call)), after, timeout: Timeout::default() };
        Self { stage, config: Some(config) }
    }
}

impl<F, B, E> Future for SseHeartbeatFuture<F>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    E: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + 'static,
{
    type Output = Result<Response<SseHeartbeatBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = match this.stage.project() {
            StageProj::Answer { call } => ready!(call.poll(cx))?,
            StageProj::MayBegin { call: slot, after, timeout } => {
                let Some(call) = slot else { return Poll::Pending };
                match call.as_mut().poll(cx) {
                    Poll::Ready(answer) => answer?,
                    Poll::Pending => {
                        ready!(timeout.poll_after(*after, cx));
                        let begun = slot.take().zip(this.config.take()).map(|(call, config)| begin(call, config));
                        return begun.map_or(Poll::Pending, |response| Poll::Ready(Ok(response)));
                    }
                }
            }
        };
        Poll::Ready(Ok(match this.config.take() {
            Some(config) => treat(response, config),
            None => response.map(|body| SseHeartbeatBody::new(body, None)),
        }))
    }
}

/// The head of a stream whose answer is not there yet.
#[cold]
fn begin<F, B, E>(call: Pin<Box<F>>, config: CallConfig) -> Response<SseHeartbeatBody<B>>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    E: Into<BoxError>,
{
    let content_type = if config.json_lines { NDJSON } else { "text/event-stream" };
    let is_marked = config.layer.mark_exhausted == Some(true);
    let state = HeartbeatState::of_pending(PendingAnswer::new(call, config.json_lines), config);
    let mut response = Response::new(SseHeartbeatBody::without_inner(state));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    head::adapt(response.headers_mut());
    if is_marked {
        retry_after::forbid_retry(response.headers_mut());
    }
    response.extensions_mut().insert(HeadersSentEarly);
    response
}

fn treat<B: Body>(mut response: Response<B>, config: CallConfig) -> Response<SseHeartbeatBody<B>> {
    if config.layer.interval.is_none() {
        return response.map(|body| SseHeartbeatBody::new(body, None));
    }
    let kind = AnswerKind::of(&response, config.kind);
    let forbidden = match kind {
        AnswerKind::EventStream | AnswerKind::JsonLines if config.no_transform => Some("the caller forbids changes"),
        AnswerKind::EventStream | AnswerKind::JsonLines if head::no_transform(response.headers()) => {
            Some("the upstream forbids changes")
        }
        AnswerKind::Untouched(reason) => Some(reason),
        _ => None,
    };
    if let Some(reason) = forbidden.filter(|_| kind != AnswerKind::JsonLines) {
        config.layer.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }
    let state = match kind {
        AnswerKind::EventStream if forbidden.is_none() => {
            head::adapt(response.headers_mut());
            HeartbeatState::of_stream(config, &response)
        }
        AnswerKind::JsonLines if forbidden.is_none() && (config.layer.error_events || config.notices.is_some()) => {
            head::forget_bytes(response.headers_mut());
            HeartbeatState::of_json_lines(config)
        }
        AnswerKind::EventStream | AnswerKind::JsonLines if config.layer.error_events => {
            HeartbeatState::of_unchanged(&config, kind == AnswerKind::JsonLines, &response)
        }
        _ => return response.map(|body| SseHeartbeatBody::new(body, None)),
    };
    response.map(|body| SseHeartbeatBody::new(body, Some(state)))
}

impl<F> fmt::Debug for SseHeartbeatFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseHeartbeatFuture").finish_non_exhaustive()
    }
}
