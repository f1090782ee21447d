use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Response};
use http_body::{Body, Frame, SizeHint};
use memchr::memmem;

use super::bom::BomStripper;
use super::call_config::CallConfig;
use super::config::NAME;
use super::delayed_end::DelayedEnd;
use super::failure;
use super::head::{self, AnswerKind};
use super::notices::CallNotices;
use super::pending::PendingAnswer;
use super::position::{self, StreamPosition};
use crate::body::boxed::Polled;
use crate::body::ending::Ending;
use crate::error::{BoxError, StreamSilent};
use crate::event::{Emitter, Event};
use crate::policy::heartbeat_frame::HeartbeatFrame;
use crate::policy::heartbeat_schedule::{HeartbeatSchedule, NextAction};
use crate::proto::dialect::Kind;
use crate::proto::sse::Scanner;
use crate::rt::clock;
use crate::rt::timeout::StreamTimeout;

/// Keeps one event stream alive.
#[derive(Debug)]
pub struct HeartbeatState<B> {
    scanner: Scanner,
    /// From a layer inside that tracks ids.
    ids: Option<Ending>,
    schedule: HeartbeatSchedule,
    timeout: StreamTimeout,
    pub(super) mode: Mode<B>,
    /// Whether anything was inserted.
    added: bool,
    /// `None`: no heartbeats.
    frame: Option<HeartbeatFrame>,
    error_events: bool,
    kind: Option<Kind>,
    notices: Option<Box<CallNotices>>,
    /// The next `sequence_number`, in Responses.
    sequence: u64,
    emitter: Emitter,
}

#[derive(Debug)]
pub(super) enum Mode<B> {
    /// Forwards data unchanged.
    Follow,
    /// The head was sent before the answer. With the settings for the answer.
    Pending(Box<(PendingAnswer<B>, CallConfig)>),
    /// A heartbeat went out before the first byte of the stream, which may begin with a byte order mark.
    BomPending(BomStripper),
    /// Only the end of the body is left.
    Last(Box<DelayedEnd>),
    /// There is no more data.
    Over,
}

// === impl HeartbeatState ===

impl<B> HeartbeatState<B> {
    /// Decides how to handle an answer, and adapts its head. `None`: it passes untouched.
    pub(super) fn of_answer(config: &mut CallConfig, answer: &mut Response<B>) -> Option<Self>
    where
        B: Body,
    {
        config.layer.interval?;
        let (kind, error_events) = (AnswerKind::of(answer, config.kind), config.layer.error_events);
        let forbidden = match kind {
            AnswerKind::Other => return None,
            AnswerKind::Untouched(reason) => Some(reason),
            _ if config.no_transform => Some("the caller forbids changes"),
            _ => head::no_transform(answer.headers()).then_some("the upstream forbids changes"),
        };
        if let Some(reason) = forbidden.filter(|_| kind != AnswerKind::JsonLines) {
            config.layer.emitter.emit(&Event::Bypassed { layer: NAME, reason });
        }
        match kind {
            AnswerKind::EventStream if forbidden.is_none() => {
                head::adapt(answer.headers_mut());
                Some(Self::inserting(config, false, answer.extensions()))
            }
            AnswerKind::JsonLines if forbidden.is_none() && (error_events || config.notices.is_some()) => {
                head::forget_bytes(answer.headers_mut());
                Some(Self::inserting(config, true, answer.extensions()))
            }
            AnswerKind::EventStream | AnswerKind::JsonLines if error_events => {
                // The stream must not change. Only an error event replaces its rest.
                let kind = config.kind.filter(|_| kind == AnswerKind::JsonLines).or(config.kind_of_event_stream());
                let schedule = HeartbeatSchedule::new(Duration::MAX, None);
                let ids = position::followed(answer.extensions());
                Some(Self { schedule, ids, ..Self::new(config, None, kind) })
            }
            _ => None,
        }
    }

    /// The head of a stream that begins before its answer, and its state.
    #[cold]
    pub(super) fn begin<F, E>(call: Pin<Box<F>>, mut config: CallConfig) -> Response<Self>
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let json_lines = config.json_lines;
        let early = head::early(json_lines, config.layer.mark_exhausted == Some(true));
        let state = Self::inserting(&mut config, json_lines, &Extensions::new());
        let mode = Mode::Pending(Box::new((PendingAnswer::new(call, json_lines), config)));
        // The status can no longer report an error.
        early.map(|()| Self { error_events: true, mode, ..state })
    }

    /// For a stream that may change.
    fn inserting(config: &mut CallConfig, json_lines: bool, answer: &Extensions) -> Self {
        let notices = config.notices.take();
        if json_lines {
            return Self { notices, ..Self::new(config, None, config.kind) };
        }
        let notices = notices.map(|notices| Box::new(notices.in_event_stream()));
        let state = Self::new(config, config.frame(answer), config.kind_of_event_stream());
        Self { notices, ids: position::followed(answer), ..state }
    }

    fn new(config: &CallConfig, frame: Option<HeartbeatFrame>, kind: Option<Kind>) -> Self {
        let layer = &config.layer;
        Self {
            scanner: Scanner::new(),
            ids: None,
            // A layer that is off builds no state.
            schedule: HeartbeatSchedule::new(layer.interval.unwrap_or(Duration::MAX), layer.max_silence),
            timeout: StreamTimeout::default(),
            mode: Mode::Follow,
            added: false,
            frame,
            error_events: layer.error_events,
            kind,
            notices: None,
            sequence: 0,
            emitter: layer.emitter.clone(),
        }
    }

    /// The upstream has sent nothing. Ready with a notice or a heartbeat; with `None` if the stream must end.
    #[inline]
    pub(super) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(notice) = self.notice(cx) {
            return Poll::Ready(Some(notice));
        }
        let now = self.schedule.waiting(clock::now);
        let Some((at, due)) = self.schedule.due(self.may_beat()) else { return Poll::Pending };
        ready!(match now {
            Some(now) => self.timeout.poll_until_from(now, at, cx),
            None => self.timeout.poll_until(at, cx),
        });
        Poll::Ready((due == NextAction::Beat).then(|| self.beat()))
    }

    /// Whether a stream that began early lacks its first heartbeat, which makes proxies forward the head.
    pub(super) fn owes_beat(&self) -> bool {
        !self.added && self.may_beat()
    }

    /// Whether a heartbeat may be inserted at this position.
    #[inline]
    fn may_beat(&self) -> bool {
        self.frame.as_ref().is_some_and(|frame| self.may_take(frame))
    }

    #[inline]
    fn may_take(&self, frame: &HeartbeatFrame) -> bool {
        frame.may_be_at(&self.scanner, || self.position().has_ids())
    }

    #[inline]
    fn position(&self) -> StreamPosition<'_> {
        StreamPosition { scanner: &self.scanner, ids: self.ids.as_ref() }
    }

    #[inline]
    pub(super) fn follow(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
            if self.ids.is_some() || self.scanner.id_seen() {
                self.scanner.skim(data);
            } else {
                self.scanner.scan(data);
            }
            if self.kind == Some(Kind::OpenAiResponses) {
                self.count(data);
            }
            if let Some(notices) = &mut self.notices {
                notices.on_data(data);
            }
            self.schedule.on_activity();
            self.schedule.sent();
        }
    }

    /// Takes the next `sequence_number` from the layer inside that reads the events; else reads the last one of a chunk.
    /// A quote inside a JSON string is escaped, so text cannot look like the key.
    fn count(&mut self, data: &[u8]) {
        if let Some(next) = self.ids.as_ref().and_then(Ending::next_sequence) {
            self.sequence = next;
            return;
        }
        const KEY: &[u8] = b"\"sequence_number\":";
        let Some(at) = memmem::rfind(data, KEY) else { return };
        let digits = data[at + KEY.len()..].trim_ascii_start().iter().take_while(|byte| byte.is_ascii_digit());
        let number =
            digits.fold(0_u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
        self.sequence = number.saturating_add(1);
    }

    /// Handles the answer to a call whose head was sent early. Returns its body.
    #[cold]
    pub(super) fn answered(&mut self, answer: Response<B>) -> B {
        if let Mode::Pending(pending) = &self.mode {
            let config = &pending.1;
            self.frame = if config.json_lines { None } else { config.frame(answer.extensions()) };
        }
        self.ids = position::followed(answer.extensions());
        self.schedule.on_activity();
        // Heartbeats have gone out.
        self.mode = Mode::BomPending(BomStripper::default());
        answer.into_body()
    }

    /// Handles what the upstream has sent. Returns whether to forward it: data that is withheld or removed completely is
    /// not a frame.
    #[inline]
    pub(super) fn on_ready(&mut self, polled: &mut Polled) -> bool {
        match polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => match &mut self.mode {
                Mode::BomPending(_) => return self.strip(frame),
                _ => self.follow(frame),
            },
            _ => self.on_end(polled),
        }
        true
    }

    /// Handles data that may begin with a byte order mark.
    #[cold]
    fn strip(&mut self, frame: &mut Frame<Bytes>) -> bool {
        let (Mode::BomPending(mark), Some(data)) = (&mut self.mode, frame.data_mut()) else { return true };
        let was_empty = data.is_empty();
        self.schedule.on_activity();
        if let Some(notices) = &mut self.notices {
            notices.on_data(data);
        }
        mark.strip(&mut self.scanner, data);
        if !data.is_empty() {
            self.schedule.sent();
        }
        if !self.scanner.bom_is_possible() {
            self.mode = Mode::Follow;
        }
        was_empty || !data.is_empty()
    }

    /// Handles trailers, an error, or the end.
    #[cold]
    #[inline(never)]
    pub(super) fn on_end(&mut self, polled: &mut Polled) {
        let Poll::Ready(ready) = polled else { return };
        let held = match &mut self.mode {
            Mode::BomPending(mark) => mark.release(),
            _ => Bytes::new(),
        };
        self.mode = Mode::Over;
        let first = match ready {
            Some(Ok(trailers)) => {
                if let Some(trailers) = trailers.trailers_mut().filter(|_| self.added) {
                    head::forget_bytes(trailers);
                }
                held
            }
            Some(Err(err)) => self.error_event(err).unwrap_or(held),
            None => held,
        };
        if !first.is_empty() {
            let last = ready.replace(Ok(Frame::data(first)));
            self.mode = last.map_or(Mode::Over, |last| Mode::Last(Box::new(DelayedEnd::new(last))));
        }
    }

    /// The event that reports `err` to the caller, if it may be inserted here.
    fn error_event(&self, err: &BoxError) -> Option<Bytes> {
        let safe = if self.kind == Some(Kind::Ollama) {
            self.scanner.at_line_start()
        } else {
            self.scanner.block_is_safe() || self.scanner.at_stream_start()
        };
        (self.error_events && safe).then(|| {
            let ids = self.ids.as_ref();
            // A layer inside that reads the events takes precedence over the path. Ollama's own are lines.
            let reported = ids
                .and_then(Ending::kind)
                .filter(|reported| ![Some(*reported), self.kind].contains(&Some(Kind::Ollama)));
            let sequence = ids.and_then(Ending::next_sequence).unwrap_or_default().max(self.sequence);
            failure::event(err, reported.or(self.kind), sequence, self.scanner.ending())
        })
    }

    #[cold]
    pub(super) fn beat(&mut self) -> Bytes {
        let bytes = self
            .frame
            .as_ref()
            .map(|frame| frame.render(self.scanner.ending(), self.position().has_ids()))
            .unwrap_or_default();
        self.emitter.emit(&Event::HeartbeatSent);
        self.insert(bytes)
    }

    /// Returns the next notice, while the upstream is silent. It affects neither the upstream's limits nor its activity.
    #[inline]
    fn notice(&mut self, cx: &Context<'_>) -> Option<Bytes> {
        // Between JSON lines corresponds to where a comment may be between the lines of an event.
        let frame =
            if self.kind == Some(Kind::Ollama) { &HeartbeatFrame::CommentNoBlank } else { &HeartbeatFrame::Comment };
        let notices = self.notices.as_ref().filter(|_| self.may_take(frame))?;
        let bytes = notices.next(self.position(), cx)?;
        Some(self.insert(bytes))
    }

    #[cold]
    fn insert(&mut self, bytes: Bytes) -> Bytes {
        if self.scanner.at_stream_start() && matches!(self.mode, Mode::Follow) {
            self.mode = Mode::BomPending(BomStripper::default());
        }
        self.added = true;
        self.schedule.beat(clock::now());
        bytes
    }

    /// Ends the stream after too long a silence of the upstream.
    #[cold]
    pub(super) fn end(&mut self) -> Polled {
        let after = self.schedule.limit().unwrap_or_default();
        self.emitter.emit(&Event::BodyTimedOut { layer: NAME, after });
        self.fail(StreamSilent::new(after).into())
    }

    /// Ends the stream with `err`. Drops a call that is pending.
    #[cold]
    pub(super) fn fail(&mut self, err: BoxError) -> Polled {
        let mut ended = Poll::Ready(Some(Err(err)));
        self.on_end(&mut ended);
        ended
    }
}

// === impl Mode ===

impl<B> Mode<B> {
    /// Whether nothing follows the inner body.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Pending(_) => false,
            Self::Last(last) => last.is_over(),
            Self::BomPending(mark) => mark.is_empty(),
            Self::Follow | Self::Over => true,
        }
    }

    /// The size of the body, given that of the inner one; `is_over`: it has ended.
    pub(super) fn size(&self, inner: SizeHint, is_over: bool) -> SizeHint {
        let least = match self {
            Self::Over => return inner,
            _ if is_over => return SizeHint::with_exact(0),
            Self::Follow => inner.lower(),
            // A mark may be removed.
            Self::BomPending(_) => inner.lower().saturating_sub(3),
            Self::Pending(_) | Self::Last(_) => 0,
        };
        let mut size = SizeHint::new();
        size.set_lower(least);
        size
    }
}

#[cfg(test)]
#[cfg(feature = "llm")]
mod tests {
    use http::Request;
    use http_body_util::Empty;

    use super::super::config::Config;
    use super::*;

    fn state(ending: Ending) -> HeartbeatState<Empty<Bytes>> {
        let config = Config { interval: Some(Duration::from_secs(1)), ..Config::disabled() };
        let mut request = Request::new(());
        *request.uri_mut() = http::Uri::from_static("/v1/responses");
        let mut config = CallConfig::new(&config, &mut request);
        let mut answer = Response::new(Empty::<Bytes>::new());
        answer.extensions_mut().insert(ending);
        HeartbeatState::inserting(&mut config, false, answer.extensions())
    }

    pub(super) fn follow(state: &mut HeartbeatState<Empty<Bytes>>, number: u64) -> u64 {
        let event = format!("data: {{\"type\":\"response.in_progress\",\"sequence_number\":{number}}}\n\n");
        state.follow(&Frame::data(event.into()));
        state.sequence
    }

    #[test]
    fn the_number_of_the_next_event_is_that_of_a_layer_inside_as_long_as_one_reads_the_events() {
        let ending = Ending::new().following_ids();
        let mut state = state(ending.clone());
        assert_eq!(follow(&mut state, 3), 4, "no layer has read a number");
        ending.note_sequence(70);
        assert_eq!(follow(&mut state, 4), 70, "the event is not searched");
        ending.note_splice();
        assert_eq!((state.sequence, follow(&mut state, 5)), (70, 6));
    }
}
