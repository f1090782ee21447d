//! An answer that is held back until it is known to be one.
//!
//! | File | Holds |
//! |---|---|
//! | `mod.rs` | the answer that is withheld, until it is handed on or refused |
//! | `read.rs` | what is known of it by what has come |
//! | `refuse.rs` | what is said in its place |

mod read;
mod refuse;

use std::collections::VecDeque;
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
use crate::body::response::ResponseBody;
use crate::call::Reservation;
use crate::error::BoxError;
use crate::event::Event;
use crate::proto::dialect::AnswerReader;
use crate::rejection::{Rejection, RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::timer::LazyTimer;

/// What may be withheld of a stream before its first content, and of an answer.
const MAX_WITHHELD: usize = 256 * 1024;
const MAX_EVENTS: usize = 64;
/// A frame costs more than the byte that it may carry.
const MAX_FRAMES: usize = 1_024;
/// How long a stream that has begun is withheld: its reader is waiting for the answer's id.
const LET_GO: Duration = Duration::from_secs(2);
/// What is read of an error, and for how long.
const MAX_ERROR: usize = 64 * 1024;
const MAX_ERROR_TIME: Duration = Duration::from_secs(1);

/// A response that is withheld.
pub(super) struct WithheldPrelude<B> {
    config: Arc<Config>,
    head: Option<Parts>,
    body: ResponseBody<B>,
    held: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// What is withheld, in the memory that all calls share.
    reservation: Reservation,
    content: PreludeContent,
}

/// What is read.
enum PreludeContent {
    Stream(Box<Stream>),
    Answer(Answer),
    Error(Instant, LazyTimer),
    Over,
}

/// An answer in JSON, or an array of events.
struct Answer {
    reader: AnswerReader,
    dialect: Chosen,
    host: u64,
    /// How long the first content of an array may take.
    first_content: Option<Duration>,
}

struct Stream {
    state: StreamState,
    limit: ContentLimit,
    let_go: Option<Instant>,
    timer: LazyTimer,
}

/// What is done with a response that was withheld.
enum Decision {
    /// It is handed on, and this is looked for in what follows.
    Release(BodyWatch),
    /// The same for one whose body has failed.
    Broken(BoxError),
    /// This is said in its place.
    Refuse(Response<Bytes>),
    /// This too, by this crate alone.
    Reject(Rejection),
}

// === impl WithheldPrelude ===

impl<B> fmt::Debug for WithheldPrelude<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithheldPrelude").field("bytes", &self.bytes).finish_non_exhaustive()
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
        let stream = Stream { state, limit, let_go: None, timer: LazyTimer::default() };
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
        let answer = Answer { reader: AnswerReader::new(), dialect, host, first_content };
        Self::new(config, reservation, response, PreludeContent::Answer(answer))
    }

    pub(super) fn error(config: Arc<Config>, reservation: Reservation, response: Response<B>) -> Self {
        let now = clock::now();
        let until = now.checked_add(MAX_ERROR_TIME).unwrap_or(now);
        Self::new(config, reservation, response, PreludeContent::Error(until, LazyTimer::default()))
    }

    fn new(config: Arc<Config>, reservation: Reservation, response: Response<B>, content: PreludeContent) -> Self {
        let (head, body) = response.into_parts();
        let body = ResponseBody::inner(body);
        Self { config, head: Some(head), body, held: VecDeque::new(), bytes: 0, reservation, content }
    }

    fn hold(&mut self, frame: Frame<Bytes>) {
        match frame.data_ref() {
            // Bytes there are none of must not pile up.
            Some(data) if data.is_empty() => {}
            data => {
                self.bytes = self.bytes.saturating_add(data.map_or(0, Bytes::len));
                self.held.push_back(frame);
            }
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.bytes > bytes || self.held.len() >= MAX_FRAMES
    }
}

impl<B> WithheldPrelude<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError> + 'static,
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
                // Asked again after it was handed on: nothing will come.
                return self.carry_out(decision).map_or(Poll::Pending, Poll::Ready);
            }
        }
        // Also where there is always more of it.
        let decision = ready!(self.poll_time(cx));
        self.carry_out(decision).map_or(Poll::Pending, Poll::Ready)
    }

    fn carry_out(&mut self, decision: Decision) -> Option<Response<StreamGuardBody<B>>> {
        let mut head = self.head.take()?;
        let held = std::mem::take(&mut self.held);
        let body = std::mem::replace(&mut self.body, ResponseBody::Over);
        let reservation = std::mem::replace(&mut self.reservation, self.config.memory.reserve(None));
        let refused =
            |refusal: Response<Bytes>| refusal.map(|text| StreamGuardBody::pass(ResponseBody::Refusal { text }));
        Some(match decision {
            Decision::Release(watch) => {
                if watch.hides_length() {
                    head.headers.remove(CONTENT_LENGTH);
                }
                Response::from_parts(head, StreamGuardBody::new(held, watch, body).reserving(reservation))
            }
            Decision::Broken(err) => {
                Response::from_parts(head, StreamGuardBody::failed(held, err).reserving(reservation))
            }
            Decision::Refuse(refusal) => {
                self.config.emitter.emit(&Event::Refused { kind: RejectionKind::UpstreamFailed });
                refused(refusal)
            }
            Decision::Reject(rejection) => {
                self.config.emitter.emit(&Event::Refused { kind: rejection.kind() });
                refused(rejection.into_response(RejectionFormat::Http))
            }
        })
    }

    /// Nothing has come: whether it is time to decide.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        match &mut self.content {
            PreludeContent::Stream(stream) => {
                let let_go = stream.let_go.map_or(Poll::Pending, |at| stream.timer.poll_until(at, cx));
                if let_go.is_ready() {
                    return Poll::Ready(self.release());
                }
                stream.limit.poll(cx).map(|_| Decision::Reject(Rejection::new(RejectionKind::FirstByteTimeout)))
            }
            PreludeContent::Error(until, timer) => {
                timer.poll_until(*until, cx).map(|()| Decision::Release(BodyWatch::Nothing))
            }
            PreludeContent::Answer(..) | PreludeContent::Over => Poll::Pending,
        }
    }

    /// The ending that was put into the response's extensions.
    fn ending(&self) -> Ending {
        self.head.as_ref().and_then(|head| head.extensions.get::<Ending>().cloned()).unwrap_or_default()
    }

    /// Hands on what was withheld, and watches the rest.
    fn release(&mut self) -> Decision {
        let left = self.body.size_hint().exact();
        if left == Some(0) && matches!(self.content, PreludeContent::Answer(..)) {
            return self.end_answer();
        }
        Decision::Release(match std::mem::replace(&mut self.content, PreludeContent::Over) {
            PreludeContent::Stream(stream) => {
                let Stream { state, limit, .. } = *stream;
                // What content is, is not known of a stream of another API.
                let limit = if state.is_recognised() { limit } else { ContentLimit::none() };
                BodyWatch::Stream(Box::new(StreamWatch { state, limit }))
            }
            PreludeContent::Answer(answer) => {
                let (config, ending) = (Arc::clone(&self.config), self.ending());
                let Answer { reader, dialect, .. } = answer;
                BodyWatch::Answer(Box::new(AnswerWatch { config, reader, dialect, ending, left }))
            }
            PreludeContent::Error(..) | PreludeContent::Over => BodyWatch::Nothing,
        })
    }
}
