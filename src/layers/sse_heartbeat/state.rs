use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Response};
use http_body::Frame;
use memchr::memmem;

use super::bom::BomStripper;
use super::call_config::CallConfig;
use super::config::NAME;
use super::delayed_end::DelayedEnd;
use super::failure;
use super::head;
use super::notices::CallNotices;
use super::pending::PendingAnswer;
use super::position::{self, StreamPosition};
use crate::body::boxed::Polled;
use crate::body::ending::Ending;
use crate::error::{BoxError, StreamSilent};
use crate::event::{Emitter, Event};
use crate::policy::heartbeat_frame::HeartbeatFrame;
use crate::policy::heartbeat_schedule::HeartbeatSchedule;
use crate::proto::dialect::Kind;
use crate::proto::sse::Scanner;
use crate::rt::clock;
use crate::rt::timeout::StreamTimeout;

/// Keeps one event stream alive.
#[derive(Debug)]
pub struct HeartbeatState<B> {
    pub(super) scanner: Scanner,
    /// From a layer inside that tracks ids.
    ids: Option<Ending>,
    pub(super) schedule: HeartbeatSchedule,
    pub(super) timeout: StreamTimeout,
    pub(super) mode: Mode<B>,
    /// Whether anything was inserted. If not, a stream that begins early needs a first heartbeat, which makes proxies
    /// forward the head.
    pub(super) added: bool,
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
    /// For an event stream that has begun.
    pub(super) fn of_stream(config: CallConfig, answer: &Response<B>) -> Self {
        let state = Self::new(&config, config.frame(answer.extensions()), config.kind_of_event_stream());
        Self { notices: config.notices.map(in_event_stream), ids: position::followed(Ending::of(answer)), ..state }
    }

    /// For a stream of JSON lines.
    pub(super) fn of_json_lines(config: CallConfig) -> Self {
        let state = Self::new(&config, None, config.kind);
        Self { notices: config.notices, ..state }
    }

    /// For a stream that must not change. Only an error event replaces its rest.
    pub(super) fn of_unchanged(config: &CallConfig, json_lines: bool, answer: &Response<B>) -> Self {
        let kind = if json_lines { config.kind } else { config.kind_of_event_stream() };
        let schedule = HeartbeatSchedule::new(Duration::MAX, None);
        Self { schedule, ids: position::followed(Ending::of(answer)), ..Self::new(config, None, kind) }
    }

    /// For a stream that begins before its answer.
    pub(super) fn of_pending(call: PendingAnswer<B>, mut config: CallConfig) -> Self {
        let (state, notices) = if config.json_lines {
            (Self::new(&config, None, config.kind), config.notices.take())
        } else {
            let frame = config.frame(&Extensions::new());
            let notices = config.notices.take().map(in_event_stream);
            (Self::new(&config, frame, config.kind_of_event_stream()), notices)
        };
        // The status can no longer report an error.
        Self { error_events: true, notices, mode: Mode::Pending(Box::new((call, config))), ..state }
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

    /// Whether a heartbeat may be inserted at this position.
    #[inline]
    pub(super) fn may_beat(&self) -> bool {
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
            self.schedule.heard();
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

    /// Handles the answer to a call whose head was sent early.
    #[cold]
    pub(super) fn answered(&mut self, answer: &Response<B>) {
        if let Mode::Pending(pending) = &self.mode {
            let config = &pending.1;
            self.frame = if config.json_lines { None } else { config.frame(answer.extensions()) };
        }
        self.ids = position::followed(Ending::of(answer));
        self.schedule.heard();
        // Heartbeats have gone out.
        self.mode = Mode::BomPending(BomStripper::default());
    }

    /// Handles a frame that is not data, and data that may begin with a byte order mark.
    #[cold]
    #[inline(never)]
    pub(super) fn on_unusual(&mut self, polled: &mut Polled) {
        let Poll::Ready(ready) = polled else { return };
        let held = match (&mut self.mode, &mut *ready) {
            (Mode::BomPending(mark), Some(Ok(frame))) if frame.is_data() => {
                self.schedule.heard();
                if let Some(data) = frame.data_mut() {
                    if let Some(notices) = &mut self.notices {
                        notices.on_data(data);
                    }
                    mark.strip(&mut self.scanner, data);
                    if !data.is_empty() {
                        self.schedule.sent();
                    }
                }
                if !self.scanner.bom_is_possible() {
                    self.mode = Mode::Follow;
                }
                return;
            }
            // Data right after a mark that was removed as a whole frame.
            (Mode::Follow, Some(Ok(frame))) if frame.is_data() => return self.follow(frame),
            (Mode::BomPending(mark), _) => mark.release(),
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
    pub(super) fn beat(&mut self) -> Polled {
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
    pub(super) fn notice(&mut self, cx: &Context<'_>) -> Option<Polled> {
        // Between JSON lines corresponds to where a comment may be between the lines of an event.
        let frame =
            if self.kind == Some(Kind::Ollama) { &HeartbeatFrame::CommentNoBlank } else { &HeartbeatFrame::Comment };
        let notices = self.notices.as_ref().filter(|_| self.may_take(frame))?;
        let bytes = notices.next(self.position(), cx)?;
        Some(self.insert(bytes))
    }

    #[cold]
    fn insert(&mut self, bytes: Bytes) -> Polled {
        if self.scanner.at_stream_start() && matches!(self.mode, Mode::Follow) {
            self.mode = Mode::BomPending(BomStripper::default());
        }
        self.added = true;
        self.schedule.beat(clock::now());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
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
        self.on_unusual(&mut ended);
        ended
    }
}

fn in_event_stream(notices: Box<CallNotices>) -> Box<CallNotices> {
    Box::new(notices.in_event_stream())
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
        let config = CallConfig::new(&config, &mut request);
        let mut answer = Response::new(Empty::new());
        answer.extensions_mut().insert(ending);
        HeartbeatState::of_stream(config, &answer)
    }

    fn follow(state: &mut HeartbeatState<Empty<Bytes>>, number: u64) -> u64 {
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
