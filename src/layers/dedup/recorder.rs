//! What is recorded of an answer, and whether it is kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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
use crate::proto::{grpc, retry_after};
use crate::rejection::Rejection;
use crate::rt::clock;
use crate::store::answers::AnswerInFlight;
use crate::store::{Appended, BodyPart, Head, Lease, Recorder, ResponseLog, Retention};

/// Records the answer to a shared call, and has its key.
pub(super) struct ResponseRecorder<L> {
    recorder: Recorder,
    lease: Option<L>,
    /// The share of all calls' memory.
    reservation: Reservation,
    source: KeySource,
    /// How long it is kept, if it is.
    window: Duration,
    /// How it is kept, as far as is known.
    storable: Storable,
    /// The store had no room for more.
    storage_full: bool,
    /// Bytes of the body that are still to come, where its head says so.
    missing: Option<u64>,
    /// Its gRPC status is still to come, without which it broke off.
    owes_status: bool,
    /// Its end looks the same whether it is whole or not.
    has_unproven_end: bool,
    /// What a stream guard inside knows of its end.
    ending: Option<Ending>,
    tenant: Fingerprint,
    /// For those who come back.
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
        self.owes_status = grpc::owes_status(&head.headers);
        self.has_unproven_end = storable::has_unproven_end(&head.headers);
        self.ending = head.extensions.get().cloned();
        // All readers have these extensions, and each its own place in the stream.
        if let Some(ending) = &self.ending {
            ending.stop_numbers();
        }
        let is_success = head.status.is_success() && self.storable != Storable::No;
        // Before a reader is told of the head: it asks where the answer is.
        let is_held = self.answer.as_ref().is_some_and(|answer| answer.on_head(head.status, &head.headers));
        self.recorder.head(Head::live(head, size, clock::now()));
        if is_success && !self.owes_status {
            self.accepted();
        }
        if self.storable == Storable::No {
            // Those who wait for it read it, and those who come back to it. A caller that comes with the same request from now
            // on makes another call.
            if !is_held {
                self.recorder.stop_recording();
            }
            self.release();
        }
        // The head may be all there is.
        self.count(self.recorder.head_cost(), true);
    }

    pub(super) fn frame(&mut self, frame: Frame<Bytes>, reader: Option<ReaderId>) -> Appended {
        if let Some(data) = frame.data_ref() {
            // An overrun shows as one: no length is this long.
            self.missing = self.missing.map(|missing| missing.wrapping_sub(data.len() as u64));
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.storable = self.storable.min(self.source.of_grpc_status(trailers));
            if self.owes_status && grpc::status(trailers).is_some() {
                self.owes_status = false;
                if self.storable != Storable::No {
                    self.accepted();
                }
            }
        }
        let appended = self.recorder.append(BodyPart::of(frame), reader);
        self.count(appended.cost, appended.is_recorded);
        appended
    }

    /// What is held takes `cost` bytes now.
    fn count(&mut self, cost: usize, is_recorded: bool) {
        // Both are asked, whatever one of them says.
        let fits = self.lease.as_mut().is_none_or(|lease| lease.resize(cost)) & self.reservation.set(cost);
        if fits == self.storage_full {
            self.storage_full = !fits;
            self.recorder.set_storage_full(self.storage_full);
        }
        if self.storable != Storable::No && (self.storage_full || !is_recorded) {
            self.on_outgrown();
        }
    }

    /// The answer is too long to be recorded.
    #[cold]
    fn on_outgrown(&mut self) {
        self.storable = Storable::No;
        // A caller's key is held to the end: a request that uses it again must not be executed again. Without one, the
        // next caller may lead others.
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

    /// Whether the answer that has ended is known to be whole: by its length, by its gRPC status, or because it is of a kind
    /// whose end says so. A stream of messages may be complete by its length and still hold an answer that broke off: of
    /// its end only a [`StreamGuardLayer`](crate::StreamGuardLayer) inside knows.
    fn is_whole(&self) -> bool {
        let is_complete = self.missing.is_none_or(|missing| missing == 0) && !self.owes_status;
        let end = self.ending.as_ref().and_then(Ending::get);
        is_complete && (!self.has_unproven_end || self.source.keeps(end))
    }

    /// The answer has ended. It is kept, if it is to be, before any reader is told of the end: one that knows of it
    /// finds the replay.
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

    /// Ends the call: `end` tells the readers. Where the answer was not kept, its key is free, and what slow readers make us
    /// hold still counts.
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
