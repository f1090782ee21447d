//! Records an answer, and decides whether it is stored.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

use super::config::{Config, NAME};
use crate::body::ending::Ending;
use crate::call::{Reservation, Stale};
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::broadcast::ReaderId;
use crate::policy::storable::{self, KeySource, Storable};
use crate::proto::fingerprint::Fingerprint;
use crate::proto::grpc::{self, GrpcFraming, WebTrailersReader};
use crate::proto::retry_after;
use crate::rejection::Rejection;
use crate::rt::clock;
use crate::store::answers::AnswerInFlight;
use crate::store::{AppendedPart, BodyPart, Head, Lease, Recorder, ResponseLog, Retention};

/// Records the answer to a shared call, and holds the lease of its key.
// What each frame reads and writes stands first: with many streams, each frame fetches these cache lines from memory.
#[repr(C)]
pub(super) struct ResponseRecorder<L> {
    recorder: Recorder,
    /// How it is stored, as far as known.
    storable: Storable,
    /// The store has no more room.
    storage_full: bool,
    /// Its gRPC status is still expected; without it, it broke off.
    owes_status: bool,
    /// Its end does not prove that it is complete.
    has_unproven_end: bool,
    source: KeySource,
    /// Finds the gRPC status in the body of a gRPC-Web answer. Boxed, since other answers have none.
    web_trailers: Option<Box<WebTrailersReader>>,
    /// The remaining bytes of the body, if its head names the length.
    missing: Option<u64>,
    /// Its share of the memory of all calls.
    reservation: Reservation,
    lease: Option<L>,
    /// How long it is stored.
    window: Duration,
    /// A stream guard inside reports its end here.
    ending: Option<Ending>,
    tenant: Fingerprint,
    /// For callers that come back.
    answer: Option<AnswerInFlight>,
    config: Arc<Config>,
}

// === impl ResponseRecorder ===

impl<L: Lease> ResponseRecorder<L> {
    pub(super) fn new(
        recorder: Recorder,
        lease: L,
        reservation: Reservation,
        source: KeySource,
        window: Duration,
        (tenant, answer): (Fingerprint, Option<AnswerInFlight>),
        config: Arc<Config>,
    ) -> Self {
        Self {
            recorder,
            lease: Some(lease),
            reservation,
            source,
            window,
            storable: Storable::Guaranteed,
            storage_full: false,
            missing: None,
            owes_status: false,
            web_trailers: None,
            has_unproven_end: false,
            ending: None,
            tenant,
            answer,
            config,
        }
    }

    pub(super) fn log(&self) -> ResponseLog {
        self.recorder.log()
    }

    pub(super) fn head(&mut self, head: http::response::Parts, size: SizeHint) {
        let is_ours = head.extensions.get::<Rejection>().is_some() || Stale::in_extensions(&head.extensions).is_some();
        let may_retry = retry_after::should_retry(&head.headers) == Some(true);
        self.storable = self.source.of_head(head.status, &head.headers, is_ours, may_retry);
        self.missing = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        self.expect_status(&head.headers);
        self.has_unproven_end = storable::has_unproven_end(&head.headers);
        self.ending = head.extensions.get().cloned();
        // All readers share these extensions, but each has its own place in the stream.
        if let Some(ending) = &self.ending {
            ending.stop_numbers();
        }
        let is_success = head.status.is_success() && !is_ours && grpc::is_success_at_head(&head.headers);
        // Before a reader sees the head: it then reads the URL.
        let is_held = self.answer.as_ref().is_some_and(|answer| answer.on_head(head.status, &head.headers));
        self.recorder.head(Head::live(head, size, clock::now()));
        if is_success {
            self.accepted();
        }
        if self.storable == Storable::No {
            // Waiting callers and callers that come back read it. A new caller with the same request makes another call.
            if !is_held {
                self.recorder.stop_recording();
            }
            self.release();
        }
        // The head may be the whole answer.
        self.count(self.recorder.head_cost(), true);
    }

    pub(super) fn frame(&mut self, frame: Frame<Bytes>, reader: Option<ReaderId>) -> AppendedPart {
        if let Some(data) = frame.data_ref() {
            // Too many bytes wrap around to a length that never matches.
            self.missing = self.missing.map(|missing| missing.wrapping_sub(data.len() as u64));
            if let Some(trailers) = self.web_trailers.as_mut().and_then(|reader| reader.read(data)) {
                self.trailers(&trailers);
            }
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers(trailers);
        }
        let appended = self.recorder.append(BodyPart::of(frame), reader);
        self.count(appended.cost, appended.is_recorded);
        appended
    }

    /// Expects a status after this head, if it belongs to a gRPC answer without one.
    fn expect_status(&mut self, head: &HeaderMap) {
        let framing = grpc::framing(head).filter(|_| grpc::status(head).is_none());
        self.owes_status = framing.is_some();
        self.web_trailers = (framing == Some(GrpcFraming::Web)).then(Box::default);
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.storable = self.storable.min(self.source.of_grpc_status(trailers));
        if let Some(status) = grpc::status(trailers).filter(|_| self.owes_status) {
            self.owes_status = false;
            if status == grpc::OK {
                self.accepted();
            }
        }
    }

    /// Sets the held memory to `cost` bytes.
    fn count(&mut self, cost: usize, is_recorded: bool) {
        // Both must be asked.
        let fits = self.lease.as_mut().is_none_or(|lease| lease.resize(cost)) & self.reservation.set(cost);
        if fits == self.storage_full {
            self.storage_full = !fits;
            self.recorder.set_storage_full(self.storage_full);
        }
        if self.storable != Storable::No && (self.storage_full || !is_recorded) {
            self.on_outgrown();
        }
    }

    /// The answer exceeds the recording limit.
    #[cold]
    fn on_outgrown(&mut self) {
        self.storable = Storable::No;
        // A caller's key stays taken to the end: a repetition must not execute again. Without a key, the next caller may
        // lead others.
        if self.source == KeySource::ByFingerprint {
            self.release();
        }
        let reason = "an answer is too long to record: no other caller can join";
        self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }

    fn accepted(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.accepted();
        }
        match (&self.answer, &self.config.answers) {
            (Some(answer), _) => answer.accepted(),
            (None, Some(answers)) => answers.know(self.tenant),
            (None, None) => {}
        }
    }

    fn release(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.release();
        }
    }

    /// Whether the complete answer is known to be complete: by its length, its gRPC status, or a format that marks its
    /// end. A message stream may have its full length and still contain an answer that broke off: only a
    /// [`StreamGuardLayer`](crate::StreamGuardLayer) inside knows its end.
    fn is_whole(&self) -> bool {
        let is_complete = self.missing.is_none_or(|missing| missing == 0) && !self.owes_status;
        let end = self.ending.as_ref().and_then(Ending::get);
        is_complete && (!self.has_unproven_end || self.source.keeps(end))
    }

    /// Completes the answer. It is stored before any reader sees the end, so that such a reader finds the replay.
    pub(super) fn complete(mut self) {
        if self.storable != Storable::No && self.is_whole() && self.recorder.is_recording() {
            if let Some(lease) = self.lease.take() {
                let guaranteed = self.storable == Storable::Guaranteed;
                lease.keep(Retention { now: clock::now(), window: self.window, guaranteed });
            }
        }
        self.end(Recorder::finish);
    }

    pub(super) fn fail(self, why: impl Into<BoxError>) {
        self.end(|recorder| recorder.fail(why));
    }

    /// Ends the call: `end` ends the log. If the answer was not stored, its key is free; the data that slow readers hold
    /// still counts.
    fn end(self, end: impl FnOnce(Recorder)) {
        let Self { recorder, lease, reservation, answer, .. } = self;
        let reservation = match answer {
            Some(answer) => answer.finish(reservation),
            None => Some(reservation),
        };
        if let Some(mut lease) = lease {
            lease.release();
            recorder.leave_charge((lease, reservation));
        }
        end(recorder);
    }
}
