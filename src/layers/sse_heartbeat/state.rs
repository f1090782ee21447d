use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use super::bom::BomStripper;
use super::delayed_end::DelayedEnd;
use super::failure;
use super::frame::HeartbeatFrame;
use super::head;
use super::layer::{Config, SseHeartbeatLayer};
use crate::body::boxed::Polled;
use crate::error::{BoxError, StreamSilent};
use crate::event::{Emitter, Event};
use crate::policy::heartbeat_schedule::HeartbeatSchedule;
use crate::proto::sse::Scanner;
use crate::rt::clock;
use crate::rt::timeout::Timeout;

/// What keeps one event stream alive.
#[derive(Debug)]
pub(super) struct HeartbeatState {
    pub(super) scanner: Scanner,
    pub(super) schedule: HeartbeatSchedule,
    pub(super) timeout: Timeout,
    pub(super) mode: Mode,
    /// Whether anything was added.
    added: bool,
    pub(super) frame: HeartbeatFrame,
    error_events: bool,
    emitter: Emitter,
}

#[derive(Debug)]
pub(super) enum Mode {
    /// The stream is followed.
    Follow,
    /// A heartbeat went out before the first byte of the stream, which may begin with a mark.
    Opened(BomStripper),
    /// What comes next and last.
    Last(Box<DelayedEnd>),
    /// There is no more data.
    Over,
}

// === impl HeartbeatState ===

impl HeartbeatState {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            scanner: Scanner::new(),
            // One that is off is not asked.
            schedule: HeartbeatSchedule::new(config.interval.unwrap_or(Duration::MAX), config.max_silence),
            timeout: Timeout::default(),
            mode: Mode::Follow,
            added: false,
            frame: config.frame.clone(),
            error_events: config.error_events,
            emitter: config.emitter.clone(),
        }
    }

    #[inline]
    pub(super) fn follow(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
            self.scanner.scan(data);
            self.schedule.heard();
            self.schedule.sent();
        }
    }

    /// What is not just data, or data that may begin with a mark.
    #[cold]
    #[inline(never)]
    pub(super) fn read(&mut self, polled: &mut Polled) {
        let Poll::Ready(ready) = polled else { return };
        let held = match (&mut self.mode, &mut *ready) {
            (Mode::Opened(mark), Some(Ok(frame))) if frame.is_data() => {
                self.schedule.heard();
                if let Some(data) = frame.data_mut() {
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
            // What comes at once behind a mark of which nothing was left.
            (Mode::Follow, Some(Ok(frame))) if frame.is_data() => return self.follow(frame),
            (Mode::Opened(mark), _) => mark.release(),
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

    /// Tells of `err`, where an event may be inserted.
    fn error_event(&self, err: &BoxError) -> Option<Bytes> {
        let safe = self.scanner.block_is_safe() || self.scanner.at_stream_start();
        (self.error_events && safe).then(|| failure::event(err, self.scanner.ending()))
    }

    #[cold]
    pub(super) fn beat(&mut self) -> Polled {
        let bytes = self.frame.render(&self.scanner);
        if self.scanner.at_stream_start() && matches!(self.mode, Mode::Follow) {
            self.mode = Mode::Opened(BomStripper::default());
        }
        self.added = true;
        self.schedule.beat(clock::now());
        self.emitter.emit(&Event::HeartbeatSent);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    #[cold]
    pub(super) fn end(&mut self) -> Polled {
        let mut ended = Poll::Ready(Some(Err(self.silence())));
        self.read(&mut ended);
        ended
    }

    /// There has been nothing for too long.
    #[cold]
    pub(super) fn silence(&self) -> BoxError {
        let after = self.schedule.limit().unwrap_or_default();
        self.emitter.emit(&Event::BodyTimedOut { layer: SseHeartbeatLayer::NAME, after });
        StreamSilent::new(after).into()
    }
}
