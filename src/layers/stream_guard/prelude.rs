//! An answer of which nothing is handed on before it is known whether it is one.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{Response, StatusCode};
use http_body::{Body, Frame};

use super::body::StreamGuardBody;
use super::config::{Chosen, Config, NAME};
use super::refusal;
use super::state::{Readable, StreamState};
use super::watch::{AnswerWatch, BodyWatch, ContentLimit, StreamWatch};
use crate::body::ending::Ending;
use crate::body::frame_budget::FrameBudget;
use crate::body::response::ResponseBody;
use crate::call::Reservation;
use crate::error::{BoxError, StreamTruncated, UpstreamError};
use crate::event::{Event, StreamFault};
use crate::policy::verdict::{Health, Matter, NextStep, Verdict};
use crate::proto::dialect::{AnswerReader, End, Fault, Framing, Kind, StreamError};
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
pub(super) struct Withheld<B> {
    config: Arc<Config>,
    head: Option<Parts>,
    body: ResponseBody<B>,
    held: VecDeque<Frame<Bytes>>,
    bytes: usize,
    /// What is withheld, in the memory that all calls share.
    reservation: Reservation,
    reading: Reading,
}

/// What is read.
enum Reading {
    Stream(Box<Stream>),
    Answer(AnswerReader, Chosen, u64),
    Error(Instant, LazyTimer),
    Over,
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

// === impl Withheld ===

impl<B> fmt::Debug for Withheld<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Withheld").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<B> Withheld<B> {
    pub(super) fn stream(
        config: Arc<Config>,
        reservation: Reservation,
        response: Response<B>,
        state: StreamState,
        limit: ContentLimit,
    ) -> Self {
        let stream = Stream { state, limit, let_go: None, timer: LazyTimer::default() };
        Self::new(config, reservation, response, Reading::Stream(Box::new(stream)))
    }

    pub(super) fn answer(
        config: Arc<Config>,
        reservation: Reservation,
        response: Response<B>,
        dialect: Chosen,
        host: u64,
    ) -> Self {
        Self::new(config, reservation, response, Reading::Answer(AnswerReader::new(), dialect, host))
    }

    pub(super) fn error(config: Arc<Config>, reservation: Reservation, response: Response<B>) -> Self {
        let now = clock::now();
        let until = now.checked_add(MAX_ERROR_TIME).unwrap_or(now);
        Self::new(config, reservation, response, Reading::Error(until, LazyTimer::default()))
    }

    fn new(config: Arc<Config>, reservation: Reservation, response: Response<B>, reading: Reading) -> Self {
        let (head, body) = response.into_parts();
        let body = ResponseBody::inner(body);
        Self { config, head: Some(head), body, held: VecDeque::new(), bytes: 0, reservation, reading }
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

impl<B> Withheld<B>
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
        match &mut self.reading {
            Reading::Stream(stream) => {
                let let_go = stream.let_go.map_or(Poll::Pending, |at| stream.timer.poll_until(at, cx));
                if let_go.is_ready() {
                    return Poll::Ready(self.release());
                }
                stream.limit.poll(cx).map(|_| Decision::Reject(Rejection::new(RejectionKind::FirstByteTimeout)))
            }
            Reading::Error(until, timer) => {
                timer.poll_until(*until, cx).map(|()| Decision::Release(BodyWatch::Nothing))
            }
            Reading::Answer(..) | Reading::Over => Poll::Pending,
        }
    }

    fn data(&mut self, frame: Frame<Bytes>) -> Option<Decision> {
        match &mut self.reading {
            Reading::Stream(stream) => {
                let readable = frame.data_ref().map(|data| stream.state.read(data));
                self.stream_data(frame, readable?)
            }
            Reading::Answer(reader, dialect, _) => {
                if let Some(data) = frame.data_ref() {
                    reader.read(data);
                }
                let is_array = reader.first() == Some(b'[') && dialect.kind() == Some(Kind::Gemini);
                self.hold(frame);
                if is_array {
                    return self.turn_to_array();
                }
                match self.config.hold {
                    Some(max) => self.beyond(max.max(MAX_WITHHELD), self.bytes),
                    None => self.is_full(MAX_WITHHELD).then(|| self.release()),
                }
            }
            Reading::Error(..) => {
                self.hold(frame);
                self.is_full(MAX_ERROR).then_some(Decision::Release(BodyWatch::Nothing))
            }
            Reading::Over => None,
        }
    }

    /// Counts what is withheld by now. What there is no memory for is handed on, and refused by `hold`, which hands on nothing
    /// but whole answers.
    fn count(&mut self) -> Option<Decision> {
        let (of_answer, partial) = match &self.reading {
            Reading::Stream(stream) => (true, stream.state.withheld()),
            Reading::Answer(..) => (true, 0),
            Reading::Error(..) | Reading::Over => (false, 0),
        };
        if self.reservation.set(self.bytes.saturating_add(partial)) {
            return None;
        }
        if of_answer && self.config.hold.is_some() {
            let why = "There is no memory left to hold the upstream's answer back.";
            return Some(self.refuse_as("no_memory", why, NO_MEMORY));
        }
        self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason: "there is no memory left to withhold it" });
        Some(self.release())
    }

    fn stream_data(&mut self, frame: Frame<Bytes>, readable: Readable) -> Option<Decision> {
        match readable {
            Readable::All => self.hold(frame),
            Readable::Part(part) => self.hold(Frame::data(part)),
        }
        self.judge_stream()
    }

    /// What is known of a stream by now.
    fn judge_stream(&mut self) -> Option<Decision> {
        let Reading::Stream(stream) = &mut self.reading else { return None };
        let (seen, withheld) = (stream.state.seen(), self.bytes + stream.state.withheld());
        stream.limit.settle(seen);
        if stream.state.failure().is_some() {
            return Some(self.refuse_failure());
        }
        if stream.state.is_unproven() {
            let truncated = stream.state.truncated();
            return Some(self.refuse_truncated(truncated));
        }
        if seen.garbage && !seen.content {
            return Some(self.refuse_as(
                "invalid_stream",
                "The upstream's answer is not in the format of its API.",
                RETRY,
            ));
        }
        if let Some(max) = self.config.hold {
            return self.beyond(max, withheld);
        }
        let enough = seen.content || seen.reason || seen.events > MAX_EVENTS;
        if enough || withheld > MAX_WITHHELD || self.held.len() >= MAX_FRAMES {
            return Some(self.release());
        }
        if seen.started && stream.let_go.is_none() {
            stream.let_go = clock::now().checked_add(LET_GO);
        }
        None
    }

    /// Refuses an answer that is larger than what may be held back.
    fn beyond(&mut self, max: usize, withheld: usize) -> Option<Decision> {
        let full = withheld > max || self.held.len() >= max.max(MAX_FRAMES);
        let why = "The upstream's answer is larger than what may be held back.";
        full.then(|| self.refuse_as("answer_too_large", why, ANOTHER))
    }

    /// It is not one JSON value but a stream of them.
    fn turn_to_array(&mut self) -> Option<Decision> {
        let Reading::Answer(_, dialect, host) = std::mem::replace(&mut self.reading, Reading::Over) else {
            return None;
        };
        let ending = self.ending();
        let reader = Chosen::reader(Some(&dialect), Framing::Array);
        let state = StreamState::new(Arc::clone(&self.config), reader, Framing::Array, host, ending);
        let limit = ContentLimit::new(self.config.first_content, clock::now());
        self.reading = Reading::Stream(Box::new(Stream { state, limit, let_go: None, timer: LazyTimer::default() }));
        self.bytes = 0;
        for frame in std::mem::take(&mut self.held) {
            if let Some(decision) = self.data(frame) {
                return Some(decision);
            }
        }
        None
    }

    /// The ending that was put into the response's extensions.
    fn ending(&self) -> Ending {
        self.head.as_ref().and_then(|head| head.extensions.get::<Ending>().cloned()).unwrap_or_default()
    }

    /// Hands on what was withheld, and watches the rest.
    fn release(&mut self) -> Decision {
        let left = self.body.size_hint().exact();
        if left == Some(0) && matches!(self.reading, Reading::Answer(..)) {
            return self.end_answer();
        }
        Decision::Release(match std::mem::replace(&mut self.reading, Reading::Over) {
            Reading::Stream(stream) => {
                let Stream { state, limit, .. } = *stream;
                BodyWatch::Stream(Box::new(StreamWatch { state, limit }))
            }
            Reading::Answer(reader, dialect, _) => {
                let (config, ending) = (Arc::clone(&self.config), self.ending());
                BodyWatch::Answer(Box::new(AnswerWatch { config, reader, dialect, ending, left }))
            }
            Reading::Error(..) | Reading::Over => BodyWatch::Nothing,
        })
    }

    /// The body is over, or has come to its trailers.
    fn end(&mut self, trailers: Option<Frame<Bytes>>) -> Decision {
        let decision = match &mut self.reading {
            Reading::Stream(_) => self.end_stream(),
            Reading::Answer(..) => self.end_answer(),
            Reading::Error(..) => {
                self.read_error();
                Decision::Release(BodyWatch::Nothing)
            }
            Reading::Over => Decision::Release(BodyWatch::Nothing),
        };
        self.held.extend(trailers);
        decision
    }

    fn end_stream(&mut self) -> Decision {
        let Reading::Stream(stream) = &mut self.reading else { return Decision::Release(BodyWatch::Nothing) };
        let ended = stream.state.end();
        let (seen, recognised) = (stream.state.seen(), stream.state.is_recognised());
        let truncated = stream.state.truncated();
        if stream.state.failure().is_some() {
            return self.refuse_failure();
        }
        match ended {
            // A marker alone is no answer.
            Ok(_) if recognised && !(seen.content || seen.reason) => self.refuse_truncated(truncated),
            Ok(rest) => {
                self.hold(Frame::data(rest));
                Decision::Release(BodyWatch::Nothing)
            }
            Err(truncated) => self.refuse_truncated(truncated),
        }
    }

    fn end_answer(&mut self) -> Decision {
        let Reading::Answer(reader, dialect, _) = std::mem::replace(&mut self.reading, Reading::Over) else {
            return Decision::Release(BodyWatch::Nothing);
        };
        let kind = dialect.kind();
        if reader.is_cut() || reader.first().is_none() {
            return self.refuse_truncated(StreamTruncated::new(kind, 0));
        }
        let answer = dialect.answer(reader);
        if let Some(fault) = &answer.fault {
            return self.refuse_answer(fault);
        }
        let ending = self.ending();
        ending.set(answer.end.unwrap_or(End::Unknown));
        answer.usage.into_iter().for_each(|usage| ending.note_usage(usage));
        Decision::Release(BodyWatch::Nothing)
    }

    /// Notes in the extensions of a 4xx or 5xx what its body says.
    fn read_error(&mut self) {
        let body = self.joined();
        let (Some(head), Some(fault)) = (&mut self.head, Fault::of_body(&body)) else { return };
        let error = refusal::judged(Some(&fault), Some(head.status), &head.headers, &self.config);
        head.extensions.insert(error);
    }

    fn joined(&self) -> Bytes {
        let mut pieces = self.held.iter().filter_map(Frame::data_ref);
        match (pieces.next(), self.held.len()) {
            (Some(only), 1) => only.clone(),
            (first, _) => {
                let mut joined = BytesMut::with_capacity(self.bytes);
                first.into_iter().chain(pieces).for_each(|piece| joined.extend_from_slice(piece));
                joined.freeze()
            }
        }
    }

    fn failed(&mut self, err: BoxError) -> Decision {
        match self.reading {
            // It is an answer of its own, whatever became of its body.
            Reading::Error(..) | Reading::Over => Decision::Broken(err),
            Reading::Stream(_) | Reading::Answer(..) => {
                Decision::Reject(Rejection::new(RejectionKind::BodyFailed).with_source(err))
            }
        }
    }

    fn refuse_failure(&mut self) -> Decision {
        let (Reading::Stream(stream), Some(head)) = (&self.reading, &mut self.head) else {
            return Decision::Release(BodyWatch::Nothing);
        };
        let Some(failure) = stream.state.failure() else { return Decision::Release(BodyWatch::Nothing) };
        let error = refusal::stream_error(&stream.state, failure, &head.headers);
        let body = refusal::body_of(failure, stream.state.kind(), &error);
        self.fault(StreamFault::UpstreamError);
        self.refuse(|head| refusal::of_error(head, error, body))
    }

    fn refuse_answer(&mut self, fault: &Fault) -> Decision {
        let Some(head) = &self.head else { return Decision::Release(BodyWatch::Nothing) };
        let error = refusal::judged(Some(fault), None, &head.headers, &self.config);
        let body = self.joined();
        self.fault(StreamFault::UpstreamError);
        self.refuse(|head| refusal::of_error(head, error, body))
    }

    fn refuse_truncated(&mut self, truncated: StreamTruncated) -> Decision {
        self.fault(StreamFault::Truncated);
        self.refuse(|head| refusal::of_truncated(head, truncated))
    }

    /// A refusal for a reason that the upstream has not named.
    fn refuse_as(&mut self, code: &'static str, message: &'static str, verdict: Verdict) -> Decision {
        let kind = match &self.reading {
            Reading::Stream(stream) => stream.state.kind(),
            Reading::Answer(_, dialect, _) => dialect.kind(),
            Reading::Error(..) | Reading::Over => None,
        };
        let body = StreamError::of_status(502).code(code).message(message).body(kind);
        let error = UpstreamError::new(StatusCode::BAD_GATEWAY, verdict).with_names(Some(code), None);
        self.refuse(|head| refusal::of_error(head, error.with_message(message), body.into()))
    }

    fn refuse(&mut self, refuse: impl FnOnce(Parts) -> Response<Bytes>) -> Decision {
        // The head goes into the refusal, and an empty one stands in its place.
        match self.head.replace(Response::new(()).into_parts().0) {
            Some(head) => Decision::Refuse(refuse(head)),
            None => Decision::Release(BodyWatch::Nothing),
        }
    }

    fn fault(&self, fault: StreamFault) {
        self.config.emitter.emit(&Event::StreamFailed { fault });
    }
}

const RETRY: Verdict = Verdict::new(NextStep::retry(None), Health::Failure).with_matter(Matter::Upstream);
const NO_MEMORY: Verdict = Verdict::new(NextStep::GiveUp, Health::Ignored).with_matter(Matter::Ours);
const ANOTHER: Verdict = Verdict::new(NextStep::TryAnother, Health::Success).with_matter(Matter::Request);
