//! Polls the upstream call that several callers share.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::runtime::Handle;

use super::config::Config;
use super::failure::SharedFailure;
use super::grace::{GraceCall, GraceTask};
use super::recorder::ResponseRecorder;
use super::upstream_call::{CallProgress, UpstreamCall};
use crate::call::RetryReport;
use crate::error::BoxError;
use crate::event::Event;
use crate::policy::broadcast::ReaderId;
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::deadline::{Deadline, SharedDeadline};
use crate::rt::sync::{Mutex, lock};
use crate::store::answers::UnattendedPlace;
use crate::store::{Drive, Driven, Lease, ResponseLog};

/// An upstream call that several callers share.
///
/// # Who polls it?
///
/// Any caller that has read everything recorded so far. It *takes* the call out of its slot, polls it outside every lock,
/// and puts it back. The upstream's waker is the log's, and wakes all waiting callers: waking only one would make the
/// others depend on it being polled, which its own consumer may never do. A caller that comes while another polls the
/// call notes that, and is woken when the call is back and something happened meanwhile. A pending call is polled again
/// only after the upstream has woken its waker.
///
/// No task is spawned for that. Only when the last caller leaves, one [`GraceTask`] is.
pub(super) struct SharedCall<F, B, E, L> {
    slot: Mutex<Slot<F, B, E, L>>,
    log: ResponseLog,
    upstream_waker: Waker,
    deadline: Option<SharedDeadline>,
    /// The attempts of the retry layer inside.
    report: RetryReport,
    config: Arc<Config>,
}

enum Slot<F, B, E, L> {
    Idle {
        call: Pin<Box<UpstreamCall<F, B, L>>>,
        /// The call was pending at this count of the upstream's wake-ups: it stays pending until the next one.
        pending_at: Option<u64>,
    },
    /// A caller polls it.
    Polling {
        /// Another caller came meanwhile.
        has_missed: bool,
    },
    /// It failed before its head. The leader gets the error.
    Failed(E),
    /// It has ended, or was cancelled.
    Gone,
}

// === impl SharedCall ===

impl<F, B, E, L> SharedCall<F, B, E, L>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
    E: Send + 'static,
    L: Lease,
{
    /// Makes the call. `deadline`: the leader's, which later callers extend.
    pub(super) fn launch(
        call: F,
        recorder: ResponseRecorder<L>,
        deadline: Option<SharedDeadline>,
        report: RetryReport,
        config: Arc<Config>,
    ) -> Arc<Self> {
        let log = recorder.log();
        let call = UpstreamCall::new(call, recorder);
        let upstream_waker = log.upstream_waker();
        let slot = Mutex::new(Slot::Idle { call, pending_at: None });
        let shared = Arc::new(Self { slot, log: log.clone(), upstream_waker, deadline, report, config });
        log.attach(shared.clone());
        shared
    }

    fn take(&self) -> Option<Pin<Box<UpstreamCall<F, B, L>>>> {
        let mut slot = lock(&self.slot);
        match std::mem::replace(&mut *slot, Slot::Polling { has_missed: false }) {
            // It has not been woken since the last poll.
            Slot::Idle { call, pending_at: Some(wakes) } if wakes == self.log.wake_count() => {
                *slot = Slot::Idle { call, pending_at: Some(wakes) };
                None
            }
            Slot::Idle { call, .. } => Some(call),
            Slot::Polling { .. } => {
                *slot = Slot::Polling { has_missed: true };
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

    /// Puts the call back. Returns whether another caller came in the meantime. A call that was stopped meanwhile is
    /// dropped.
    fn put_back(&self, call: Pin<Box<UpstreamCall<F, B, L>>>, pending_at: Option<u64>) -> bool {
        let mut slot = lock(&self.slot);
        if let Slot::Polling { has_missed } = *slot {
            *slot = Slot::Idle { call, pending_at };
            return has_missed;
        }
        drop(slot);
        drop(call);
        false
    }

    /// Returns a place among the calls without a listener, if callers may come back.
    fn leave_unattended(&self) -> Option<UnattendedPlace> {
        self.config.answers.as_ref()?.leave_unattended(self.log.number()?)
    }

    /// Ends the call: drops the upstream first, then ends the log.
    fn finish(
        &self,
        call: Pin<Box<UpstreamCall<F, B, L>>>,
        slot: Slot<F, B, E, L>,
        record: impl FnOnce(ResponseRecorder<L>),
    ) {
        self.replace(slot);
        if let Some(recorder) = UpstreamCall::drop_upstream(call) {
            record(recorder);
        }
    }
}

impl<F, B, E, L> SharedCall<F, B, E, L> {
    /// Takes the error that ended the call before its head, once.
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
}

impl<F, B, E, L> Drive for SharedCall<F, B, E, L>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
    E: Send + 'static,
    L: Lease,
{
    fn drive(&self, reader: Option<ReaderId>) -> Driven {
        let Some(mut call) = self.take() else { return Driven::Wait };
        let wakes = self.log.wake_count();
        // If the upstream panics, the call is dropped with the recorder, which ends the log with an error.
        let step = {
            let _entered = Deadline::enter_any(self.deadline.as_ref().and_then(SharedDeadline::latest));
            call.as_mut().poll(&mut Context::from_waker(&self.upstream_waker), reader)
        };
        let Poll::Ready(step) = step else {
            // The upstream woke its waker meanwhile: a caller that came then found the slot empty, and must come again.
            if self.put_back(call, Some(wakes)) && self.log.wake_count() != wakes {
                self.log.wake_readers();
            }
            return Driven::Wait;
        };
        match step {
            CallProgress::Head { is_last: false } => {
                self.put_back(call, None);
                self.log.wake_readers();
                Driven::Progress
            }
            CallProgress::Part { appended, is_last: false } => {
                if self.put_back(call, None) || appended.must_wake {
                    self.log.wake_readers();
                }
                appended.part.map_or(Driven::Progress, Driven::Part)
            }
            CallProgress::Part { appended, is_last: true } => {
                self.finish(call, Slot::Gone, ResponseRecorder::complete);
                appended.part.map_or(Driven::Progress, Driven::Part)
            }
            CallProgress::Head { is_last: true } | CallProgress::Complete => {
                self.finish(call, Slot::Gone, ResponseRecorder::complete);
                Driven::Progress
            }
            CallProgress::BodyFailed(why) => {
                self.finish(call, Slot::Gone, |recorder| recorder.fail(why));
                Driven::Progress
            }
            CallProgress::CallFailed(err) => {
                // The error must be in place before the leader is woken.
                let failure = SharedFailure::new(self.report.clone());
                self.finish(call, Slot::Failed(err), |recorder| recorder.fail(failure));
                Driven::Progress
            }
        }
    }

    fn on_abandoned(self: Arc<Self>, mut cancellation: Option<Cancellation>) {
        let mut is_cancelled = cancellation.as_ref().is_some_and(Cancellation::is_cancelled);
        let another = if is_cancelled { self.awaited() } else { None };
        if let Some(another) = another {
            (cancellation, is_cancelled) = (another, false);
        }
        let place = if is_cancelled { None } else { self.leave_unattended() };
        let has_grace = place.is_some() || self.config.finish_abandoned || !self.config.grace.is_zero();
        match Handle::try_current() {
            Ok(runtime) if has_grace && !is_cancelled && self.can_continue() => {
                runtime.spawn(GraceTask::new(self, cancellation, place));
            }
            _ => self.cancel_upstream(),
        }
    }

    fn on_stopped(&self) {
        // A caller that polls it at the moment finds that it is gone.
        let call = self.replace(Slot::Gone);
        drop(call);
    }
}

impl<F, B, E, L> GraceCall for SharedCall<F, B, E, L>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Send + 'static,
    E: Send + 'static,
    L: Lease,
{
    fn log(&self) -> &ResponseLog {
        &self.log
    }

    fn awaited(&self) -> Option<Option<Cancellation>> {
        self.config.answers.as_ref()?.awaited(self.log.number()?)
    }

    fn can_continue(&self) -> bool {
        self.config.finish_abandoned || self.log.is_recording()
    }

    fn grace_end(&self, is_unattended: bool) -> Option<Instant> {
        let deadline = self.deadline.as_ref().and_then(SharedDeadline::latest).map(Deadline::instant);
        let window = self.config.answers.as_ref().filter(|_| is_unattended).map(|answers| answers.settings().window);
        let grace = (!self.config.finish_abandoned).then_some(window.unwrap_or(self.config.grace));
        let grace = grace.and_then(|grace| clock::now().checked_add(grace));
        [deadline, grace].into_iter().flatten().min()
    }

    fn cancel_upstream(&self) {
        if self.log.cancel() {
            if let Slot::Idle { call, .. } = self.replace(Slot::Gone) {
                drop(call);
                self.config.emitter.emit(&Event::FlightAbandoned);
            }
        }
    }
}

impl<F, B, E, L> fmt::Debug for SharedCall<F, B, E, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_tests;
