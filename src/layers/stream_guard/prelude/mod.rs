//! A response that is withheld until it is judged.
//!
//! | File | Holds |
//! |---|---|
//! | `mod.rs` | the withheld response, until it is forwarded or refused |
//! | `read.rs` | judges the part that has arrived |
//! | `refuse.rs` | the response that replaces a refused one |

mod read;
mod refuse;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http_body::{Body, Frame};

use super::body::StreamGuardBody;
use super::config::{Chosen, Config};
use super::state::StreamState;
use super::watch::{AnswerWatch, BodyWatch, ContentLimit, StreamWatch};
use crate::body::ending::Ending;
use crate::body::frame_budget::FrameBudget;
use crate::body::monitored::MonitoredBody;
use crate::body::prefixed::ReadAhead;
use crate::body::response::{LayerBody, ResponseBody};
use crate::call::Reservation;
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::dialect::AnswerReader;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::timeout::Timeout;
use crate::rt::timer::LazyTimer;

/// The limit for a stream before its first content, and for an answer.
const MAX_WITHHELD: usize = 256 * 1024;
const MAX_EVENTS: usize = 64;
/// A frame costs more memory than its bytes.
const MAX_FRAMES: usize = 1_024;
/// The longest wait for content after the answer has begun: its reader waits for the answer's id.
const MAX_CONTENT_WAIT: Duration = Duration::from_secs(2);
/// The limits for reading an error body.
const MAX_ERROR: usize = 64 * 1024;
const MAX_ERROR_TIME: Duration = Duration::from_secs(1);

/// A response that is withheld.
pub(super) struct WithheldPrelude<B> {
    config: Arc<Config>,
    head: Option<Parts>,
    body: ResponseBody<B>,
    held: ReadAhead,
    /// The withheld bytes, in the memory that all calls share.
    reservation: Reservation,
    content: PreludeContent,
}

/// The kind of content.
enum PreludeContent {
    Stream(Box<StreamPrelude>),
    Answer(AnswerPrelude),
    Error(Instant, Timeout),
    Over,
}

/// An answer in JSON, or an array of events.
struct AnswerPrelude {
    reader: AnswerReader,
    dialect: Chosen,
    host: u64,
    /// The time limit for the first content of an array.
    first_content: Option<Duration>,
}

struct StreamPrelude {
    state: StreamState,
    limit: ContentLimit,
    release_at: Option<Instant>,
    timer: LazyTimer,
}

/// The decision on a withheld response.
enum Decision {
    /// Forward it, and watch the rest for this.
    Release(BodyWatch),
    /// Forward it; its body has failed with this error.
    Broken(BoxError),
    /// Replace it by this response.
    Refuse(Response<Bytes>),
    /// Refuse it, for a reason of this crate.
    Reject(Rejection),
}

// === impl WithheldPrelude ===

impl<B> fmt::Debug for WithheldPrelude<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithheldPrelude").field("held", &self.held).finish_non_exhaustive()
    }
}

impl<B> WithheldPrelude<B> {
    pub(super) fn stream(
        config: Arc<Config>,
        reservation: Reservation,
        response: Response<B>,
        state: StreamState,
        limit: ContentLimit,
    ) -> Self {
        let stream = StreamPrelude { state, limit, release_at: None, timer: LazyTimer::default() };
        Self::new(config, reservation, response, PreludeContent::Stream(Box::new(stream)))
    }

    pub(super) fn answer(
        config: Arc<Config>,
        reservation: Reservation,
        response: Response<B>,
        dialect: Chosen,
        host: u64,
        first_content: Option<Duration>,
    ) -> Self {
        let answer = AnswerPrelude { reader: AnswerReader::new(), dialect, host, first_content };
        Self::new(config, reservation, response, PreludeContent::Answer(answer))
    }

    pub(super) fn error(config: Arc<Config>, reservation: Reservation, response: Response<B>) -> Self {
        let now = clock::now();
        let until = now.checked_add(MAX_ERROR_TIME).unwrap_or(now);
        Self::new(config, reservation, response, PreludeContent::Error(until, Timeout::default()))
    }

    fn new(config: Arc<Config>, reservation: Reservation, response: Response<B>, content: PreludeContent) -> Self {
        let (head, body) = response.into_parts();
        let body = ResponseBody::inner(body);
        Self { config, head: Some(head), body, held: ReadAhead::default(), reservation, content }
    }

    fn hold(&mut self, frame: Frame<Bytes>) {
        // Empty frames must not pile up.
        if !frame.data_ref().is_some_and(Bytes::is_empty) {
            self.held.push(frame);
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.held.bytes() > bytes || self.held.frames() >= MAX_FRAMES
    }
}

impl<B> WithheldPrelude<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response<StreamGuardBody<B>>> {
        let mut budget = FrameBudget::new();
        while budget.may_read(cx) {
            let decision = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) if frame.is_data() => self.data(frame).or_else(|| self.count()),
                Poll::Ready(Some(Ok(trailers))) => Some(self.end(Some(trailers))),
                Poll::Ready(None) => Some(self.end(None)),
                Poll::Ready(Some(Err(err))) => Some(self.failed(err)),
            };
            if let Some(decision) = decision {
                // Polled again after it was forwarded: nothing will come.
                return self.carry_out(decision).map_or(Poll::Pending, Poll::Ready);
            }
        }
        // The time limit also holds if data keeps coming.
        let decision = ready!(self.poll_time(cx));
        self.carry_out(decision).map_or(Poll::Pending, Poll::Ready)
    }

    fn carry_out(&mut self, decision: Decision) -> Option<Response<StreamGuardBody<B>>> {
        let mut head = self.head.take()?;
        let held = std::mem::take(&mut self.held);
        let body = std::mem::replace(&mut self.body, ResponseBody::Over);
        let reservation = std::mem::replace(&mut self.reservation, self.config.memory.reserve(None));
        let forward = |body| held.before(body).reserving(Some(reservation).filter(Reservation::is_counted));
        let (kind, refusal) = match decision {
            Decision::Release(watch) => {
                if watch.hides_length() {
                    head.headers.remove(CONTENT_LENGTH);
                }
                return Some(Response::from_parts(head, forward(MonitoredBody::of(body, Some(watch)))));
            }
            Decision::Broken(err) => {
                let body = ResponseBody::Rest { rest: [Err(err)].into() };
                return Some(Response::from_parts(head, forward(MonitoredBody::pass(body))));
            }
            Decision::Refuse(refusal) => (RejectionKind::UpstreamFailed, refusal),
            Decision::Reject(rejection) => (rejection.kind(), rejection.into_response(RejectionFormat::Http)),
        };
        self.config.emitter.emit(&Event::Refused { kind });
        Some(refusal.map(StreamGuardBody::text))
    }

    /// Decides by time, when no data has arrived.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        match &mut self.content {
            PreludeContent::Stream(stream) => {
                let released = stream.release_at.map_or(Poll::Pending, |at| stream.timer.poll_until(at, cx));
                if released.is_ready() {
                    return Poll::Ready(self.release());
                }
                if stream.state.is_over() {
                    ready!(stream.limit.poll_end(cx));
                    self.body = ResponseBody::Over;
                    return Poll::Ready(self.end(None));
                }
                stream.limit.poll(cx).map(|_| Decision::Reject(Rejection::new(RejectionKind::FirstByteTimeout)))
            }
            PreludeContent::Error(until, timeout) => {
                timeout.poll_until(*until, cx).map(|()| Decision::Release(BodyWatch::Nothing))
            }
            PreludeContent::Answer(..) | PreludeContent::Over => Poll::Pending,
        }
    }

    /// The ending in the response's extensions.
    fn ending(&self) -> Ending {
        self.head.as_ref().and_then(|head| head.extensions.get::<Ending>().cloned()).unwrap_or_default()
    }

    /// Forwards the withheld part, and watches the rest.
    fn release(&mut self) -> Decision {
        let left = self.body.size_hint().exact();
        if left == Some(0) && matches!(self.content, PreludeContent::Answer(..)) {
            return self.end_answer();
        }
        Decision::Release(match std::mem::replace(&mut self.content, PreludeContent::Over) {
            PreludeContent::Stream(stream) => {
                let StreamPrelude { state, limit, .. } = *stream;
                // In a stream of another API the layer cannot recognise content.
                let limit = if state.is_recognised() { limit } else { ContentLimit::none() };
                BodyWatch::Stream(Box::new(StreamWatch { state, limit }))
            }
            PreludeContent::Answer(answer) => {
                let (config, ending) = (Arc::clone(&self.config), self.ending());
                let AnswerPrelude { reader, dialect, .. } = answer;
                BodyWatch::Answer(Box::new(AnswerWatch { config, reader, dialect, ending, left }))
            }
            PreludeContent::Error(..) | PreludeContent::Over => BodyWatch::Nothing,
        })
    }
}
