use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Response};
use http_body::Body;

use super::config::{FirstByteEvent, NAME};
use super::withheld::FirstKind;
use crate::body::request::UploadWatch;
use crate::event::{Emitter, Event};
use crate::proto::event_stream::EventStream;
use crate::proto::{bodiless, media_type};
use crate::rejection::{RejectionFormat, RejectionKind};
use crate::rt::clock;
use crate::rt::timeout::Timeout;

/// The limit of the wait, and the event that ends it.
#[derive(Debug)]
pub(super) struct FirstByteLimit {
    limit: Duration,
    /// If `limit` is for answers that do not stream: the limit in case this one streams.
    if_stream: Option<Duration>,
    /// The answer streams after all: when its first event must have come.
    stream_until: Option<Instant>,
    until: FirstByteEvent,
    upload: UploadWatch,
    timeout: Timeout,
    pub(super) format: RejectionFormat,
    emitter: Emitter,
}

/// The resolution of tokio's timers: a nearer instant may be the present one.
const TICK: Duration = Duration::from_millis(1);

// === impl FirstByteLimit ===

impl FirstByteLimit {
    pub(super) fn new(
        limit: Duration,
        until: FirstByteEvent,
        upload: UploadWatch,
        format: RejectionFormat,
        emitter: Emitter,
    ) -> Self {
        let timeout = Timeout::default();
        Self { limit, if_stream: None, stream_until: None, until, upload, timeout, format, emitter }
    }

    /// `limit` is for an answer that does not stream. If it does, its first data must come within `if_stream` after its
    /// head.
    pub(super) fn unless_stream(mut self, if_stream: Duration) -> Self {
        self.if_stream = Some(if_stream);
        self
    }

    /// The part of this response's body that is still waited for: `None` if its head is enough.
    pub(super) fn after_head<B: Body>(&mut self, response: &Response<B>) -> Option<FirstKind> {
        // A status from 400 on can be acted on, and a refusal would lose its headers.
        let failed = response.status().as_u16() >= 400;
        let bodiless = bodiless::with_status(response.status()) || response.body().is_end_stream();
        if self.until == FirstByteEvent::Headers || failed || bodiless {
            return None;
        }
        let stream = EventStream::of(response.headers());
        if let Some(limit) = self.if_stream.filter(|_| stream != EventStream::No) {
            self.stream_until = clock::now().checked_add(limit);
        }
        Some(if self.until == FirstByteEvent::Data {
            FirstKind::Data
        } else {
            self.first_of(stream, response.headers())
        })
    }

    fn first_of(&self, stream: EventStream, headers: &HeaderMap) -> FirstKind {
        match stream {
            EventStream::Plain => FirstKind::Event(Box::default()),
            EventStream::No if media_type::is_json(headers) => FirstKind::Text,
            EventStream::No => FirstKind::Data,
            EventStream::Encoded => {
                let reason = "a compressed event stream is judged by its data";
                self.emitter.emit(&Event::Bypassed { layer: NAME, reason });
                FirstKind::Data
            }
        }
    }

    /// Ready while the upstream waits for the request's sender.
    pub(super) fn poll_sender(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.upload.poll_sender(cx)
    }

    /// Ready when the wait for the upstream has taken too long.
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.upload.waiting_since() else { return self.look_again(cx) };
        let until = since.checked_add(self.limit).into_iter().chain(self.stream_until).min();
        until.map_or(Poll::Pending, |at| self.timeout.poll_until(at, cx))
    }

    /// While the upload has no data ready, the upstream is not late, and cannot be before this long.
    fn look_again(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let soonest = clock::now().checked_add(self.limit.max(TICK));
        soonest.map_or(Poll::Pending, |at| self.timeout.poll_until(at, cx))
    }

    #[cold]
    pub(super) fn refused(&self, kind: RejectionKind) {
        self.emitter.emit(&Event::Refused { kind });
    }
}
