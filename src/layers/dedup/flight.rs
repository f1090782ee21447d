use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use super::grace::{GraceCall, GraceTask};
use super::layer::{Config, DedupLayer};
use crate::body::boxed;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::flight::ReaderId;
use crate::policy::storable::KeySource;
use crate::proto::grpc;
use crate::rejection::Rejection;
use crate::rt::clock;
use crate::rt::deadline::{Deadline, SharedDeadline};
use crate::rt::sync::{Mutex, lock};
use crate::store::{Appended, Drive, Driven, Head, Lease, Log, Part, Recorder};

/// A call to the upstream that several listen to.
///
/// # Who polls it?
///
/// Whoever listens and has read all there is. The call is *taken out* of its slot, polled without any lock, and put
/// back. The waker that is left with the upstream is the log's, and wakes all who wait: to wake one of them would make
/// the others depend on that one being polled, which its own consumer may never do. Somebody who comes while the call
/// is out looks in vain, notes that, and is woken when it is back and something happened meanwhile. Where it had nothing,
/// it is not asked again before it has said that it has.
///
/// No task is spawned for that. Only when the last listener leaves, one [`GraceTask`] is.
pub(super) struct Flight<F, B, E, L> {
    slot: Mutex<Slot<F, B, E, L>>,
    log: Log,
    /// The log's waker: what is left with the upstream.
    bell: Waker,
    deadline: Option<SharedDeadline>,
    config: Arc<Config>,
}

enum Slot<F, B, E, L> {
    Parked {
        run: Pin<Box<Run<F, B, L>>>,
        /// It had nothing, and the bell had rung so often when it was asked: until it rings again, it has nothing.
        asleep: Option<u64>,
    },
    /// Somebody polls it.
    Out {
        /// Somebody else wanted to.
        wanted: bool,
    },
    /// It failed before its head. The error is the leader's.
    Failed(E),
    /// It is over, or was given up.
    Gone,
}

pin_project! {
    /// The call itself, with what must be done while it goes on.
    struct Run<F, B, L> {
        #[pin]
        source: Source<F, B>,
        // `None`: all is told.
        told: Option<ResponseRecorder<L>>,
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<F, B> {
        Call { #[pin] call: F },
        Body { #[pin] body: B },
        Over,
    }
}

/// What is told of a call, and kept.
struct ResponseRecorder<L> {
    recorder: Recorder,
    lease: Option<L>,
    named: KeySource,
    /// Its answer is one to be kept, as far as is known.
    keep: bool,
    /// There was no room for it to grow.
    storage_full: bool,
    /// Bytes of the body that are still to come, where its head says so.
    missing: Option<u64>,
    /// Its status is still to come, without which it broke off.
    owes_status: bool,
    config: Arc<Config>,
}

/// What a poll led to.
enum Step<E> {
    /// The head was told; with `over`, there is no body to it.
    Head { over: bool },
    /// A part was told; with `over`, it was the last.
    Part { told: Appended, over: bool },
    /// The body is over.
    Complete,
    /// The body broke off.
    BodyFailed(BoxError),
    /// The call came to nothing.
    CallFailed(E),
}

// === impl Flight ===

impl<F, B, E, L> Flight<F, B, E, L>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + 'static,
    E: Send + 'static,
    L: Lease,
{
    /// Sends it off. `deadline`: that of its leader.
    pub(super) fn launch(
        call: F,
        recorder: Recorder,
        lease: L,
        named: KeySource,
        deadline: Option<SharedDeadline>,
        config: Arc<Config>,
    ) -> Arc<Self> {
        let log = recorder.log();
        let told = ResponseRecorder {
            recorder,
            lease: Some(lease),
            named,
            keep: true,
            storage_full: false,
            missing: None,
            owes_status: false,
            config: config.clone(),
        };
        let run = Box::pin(Run { source: Source::Call { call }, told: Some(told) });
        if let Some(deadline) = &deadline {
            log.until(deadline.clone());
        }
        let bell = log.bell();
        let flight = Arc::new(Self {
            slot: Mutex::new(Slot::Parked { run, asleep: None }),
            log: log.clone(),
            bell,
            deadline,
            config,
        });
        log.attach(flight.clone());
        flight
    }

    /// The error that ended the call before its head. It can be had once.
    pub(super) fn take_error(&self) -> Option<E> {
        let mut slot = lock(&self.slot);
        match std::mem::replace(&mut *slot, Slot::Gone) {
            Slot::Failed(err) => Some(err),
            other => {
                *slot = other;
                None
            }
        }
    }

    fn take(&self) -> Option<Pin<Box<Run<F, B, L>>>> {
        let mut slot = lock(&self.slot);
        match std::mem::replace(&mut *slot, Slot::Out { wanted: false }) {
            // To ask it for each of a thousand listeners would change nothing.
            Slot::Parked { run, asleep: Some(rings) } if rings == self.log.rings() => {
                *slot = Slot::Parked { run, asleep: Some(rings) };
                None
            }
            Slot::Parked { run, .. } => Some(run),
            Slot::Out { .. } => {
                *slot = Slot::Out { wanted: true };
                None
            }
            over => {
                *slot = over;
                None
            }
        }
    }

    fn replace(&self, slot: Slot<F, B, E, L>) -> Slot<F, B, E, L> {
        std::mem::replace(&mut *lock(&self.slot), slot)
    }

    /// It is over: the upstream is let go of, and then everybody is told.
    fn land(&self, run: Pin<Box<Run<F, B, L>>>, slot: Slot<F, B, E, L>, tell: impl FnOnce(ResponseRecorder<L>)) {
        self.replace(slot);
        if let Some(told) = Run::drop_upstream(run) {
            tell(told);
        }
    }

    /// Puts it back. Whether somebody wanted it in the meantime.
    fn park(&self, run: Pin<Box<Run<F, B, L>>>, asleep: Option<u64>) -> bool {
        matches!(self.replace(Slot::Parked { run, asleep }), Slot::Out { wanted: true })
    }
}

impl<F, B, E, L> Drive for Flight<F, B, E, L>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + 'static,
    E: Send + 'static,
    L: Lease,
{
    fn drive(&self, reader: Option<ReaderId>) -> Driven {
        let Some(mut run) = self.take() else { return Driven::Wait };
        let rings = self.log.rings();
        // If the upstream panics, what it was is dropped with the recorder, which tells everybody.
        let step = {
            let _entered = Deadline::enter_any(self.deadline.as_ref().and_then(SharedDeadline::latest));
            run.as_mut().poll(&mut Context::from_waker(&self.bell), reader)
        };
        let Poll::Ready(step) = step else {
            // It rang while it was out: who came for that found nothing, and must come again.
            if self.park(run, Some(rings)) && self.log.rings() != rings {
                self.log.ring();
            }
            return Driven::Wait;
        };
        match step {
            Step::Head { over: false } => {
                self.park(run, None);
                self.log.ring();
                Driven::Progress
            }
            Step::Part { told, over: false } => {
                if self.park(run, None) || told.waited_for {
                    self.log.ring();
                }
                told.part.map_or(Driven::Progress, Driven::Part)
            }
            Step::Part { told, over: true } => {
                self.land(run, Slot::Gone, ResponseRecorder::complete);
                told.part.map_or(Driven::Progress, Driven::Part)
            }
            Step::Head { over: true } | Step::Complete => {
                self.land(run, Slot::Gone, ResponseRecorder::complete);
                Driven::Progress
            }
            Step::BodyFailed(why) => {
                self.land(run, Slot::Gone, |told| told.fail(why));
                Driven::Progress
            }
            Step::CallFailed(err) => {
                // In its place before its owner is told to look for it.
                self.land(run, Slot::Failed(err), |told| told.recorder.fail("the call that was shared failed"));
                Driven::Progress
            }
        }
    }

    fn on_abandoned(self: Arc<Self>) {
        let forever = self.config.finish_abandoned;
        let patient = forever || !self.config.grace.is_zero() || self.is_wanted();
        match Handle::try_current() {
            Ok(runtime) if patient && self.can_continue() => {
                runtime.spawn(GraceTask::new(self));
            }
            _ => self.abandon(),
        }
    }
}

impl<F, B, E, L> GraceCall for Flight<F, B, E, L>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + 'static,
    E: Send + 'static,
    L: Lease,
{
    fn log(&self) -> &Log {
        &self.log
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn is_wanted(&self) -> bool {
        match &*lock(&self.slot) {
            Slot::Parked { run, .. } => {
                run.told.as_ref().and_then(|told| told.lease.as_ref()).is_some_and(Lease::is_wanted)
            }
            _ => false,
        }
    }

    fn abandon(&self) {
        if self.log.give_up() {
            if let Slot::Parked { run, .. } = self.replace(Slot::Gone) {
                drop(run);
                self.config.emitter.emit(&Event::FlightAbandoned);
            }
        }
    }
}

impl<F, B, E, L> fmt::Debug for Flight<F, B, E, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

// === impl Run ===

impl<F, B, E, L> Run<F, B, L>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError> + 'static,
    L: Lease,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, reader: Option<ReaderId>) -> Poll<Step<E>> {
        let mut this = self.project();
        let Some(told) = this.told else { return Poll::Pending };
        match this.source.as_mut().project() {
            SourceProj::Call { call } => Poll::Ready(match ready!(call.poll(cx)) {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let over = body.is_end_stream();
                    told.head(head, body.size_hint());
                    this.source.set(Source::Body { body });
                    Step::Head { over }
                }
                Err(err) => Step::CallFailed(err),
            }),
            SourceProj::Body { mut body } => Poll::Ready(match ready!(boxed::poll_frame(body.as_mut(), cx)) {
                Some(Ok(frame)) => {
                    let told = told.frame(frame, reader);
                    Step::Part { told, over: body.is_end_stream() }
                }
                Some(Err(why)) => Step::BodyFailed(why),
                None => Step::Complete,
            }),
            SourceProj::Over => Poll::Pending,
        }
    }
}

impl<F, B, L> Run<F, B, L> {
    /// Drops the upstream, and leaves what is told of it.
    fn drop_upstream(mut self: Pin<Box<Self>>) -> Option<ResponseRecorder<L>> {
        let mut this = self.as_mut().project();
        this.source.set(Source::Over);
        this.told.take()
    }
}

// === impl ResponseRecorder ===

impl<L: Lease> ResponseRecorder<L> {
    fn head(&mut self, head: http::response::Parts, size: SizeHint) {
        self.keep = {
            let refused = head.extensions.get::<Rejection>().is_some();
            self.named.keeps_head(head.status, &head.headers, refused)
        };
        self.missing = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        self.owes_status = grpc::owes_status(&head.headers);
        self.recorder.head(Head::live(head, size, clock::now()));
        if !self.keep {
            // Those who wait for it hear it. Who comes from now on is to try anew.
            self.recorder.stop_recording();
            self.release();
        }
        // It may be all there is.
        self.count(self.recorder.head_cost(), true);
    }

    fn frame(&mut self, frame: Frame<Bytes>, reader: Option<ReaderId>) -> Appended {
        if let Some(data) = frame.data_ref() {
            // An overrun shows as one: no length is this long.
            self.missing = self.missing.map(|missing| missing.wrapping_sub(data.len() as u64));
        }
        if let Some(trailers) = frame.trailers_ref() {
            self.keep &= self.named.keeps_trailers(trailers);
            self.owes_status &= grpc::status(trailers).is_none();
        }
        let told = self.recorder.append(Part::of(frame), reader);
        self.count(told.cost, told.recording);
        told
    }

    /// What is held costs so much now.
    fn count(&mut self, cost: usize, recording: bool) {
        let fits = self.lease.as_mut().is_none_or(|lease| lease.resize(cost));
        if fits == self.storage_full {
            self.storage_full = !fits;
            self.recorder.set_storage_full(self.storage_full);
        }
        if self.keep && (self.storage_full || !recording) {
            self.outgrown();
        }
    }

    /// The answer is too long to be recorded.
    #[cold]
    fn outgrown(&mut self) {
        self.keep = false;
        // A key that a caller gave is held to the end: who uses it again must not do it again. Without one, whoever
        // comes next may lead others.
        if self.named == KeySource::ByFingerprint {
            self.release();
        }
        let reason = "an answer that is too long to be recorded: nobody else can join";
        self.config.emitter.emit(&Event::Bypassed { layer: DedupLayer::NAME, reason });
    }

    fn release(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.release();
        }
    }

    /// Keeps it, if it is to be kept: before anybody is told that it is over, so that whoever was told finds it.
    fn complete(mut self) {
        let whole = self.missing.is_none_or(|missing| missing == 0) && !self.owes_status;
        if self.keep && whole && self.recorder.is_recording() {
            if let Some(lease) = self.lease.take() {
                lease.keep(clock::now(), self.config.window);
            }
        }
        self.free();
        self.recorder.finish();
    }

    fn fail(mut self, why: BoxError) {
        self.free();
        self.recorder.fail(why);
    }

    /// Frees the key. What slow readers make us hold still counts.
    fn free(&mut self) {
        if let Some(mut lease) = self.lease.take() {
            lease.release();
            self.recorder.leave_account(lease);
        }
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
