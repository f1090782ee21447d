use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use crate::body::frame_budget::FrameBudget;
use crate::policy::broadcast::ReaderId;
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;
use crate::rt::timeout::Timeout;
use crate::store::answers::UnattendedPlace;
use crate::store::{Drive, Driven, ResponseLog, Watched};

/// The task that keeps a call alive without a caller, since browsers retry.
///
/// It ends when there is a caller again, or the call has ended. It cancels the call at the end of the grace or at the
/// call's deadline, or when a layer outside has cancelled the calls of all callers that may come back.
pub(super) struct GraceTask {
    call: Arc<dyn GraceCall>,
    cancellation: Option<Cancellation>,
    /// Its callers know its URL: the call continues for longer.
    place: Option<UnattendedPlace>,
    id: ReaderId,
    /// The abandonment for which `until` was computed.
    abandon_count: Option<u64>,
    /// `None`: no limit.
    until: Option<Instant>,
    timeout: Timeout,
    is_done: bool,
}

/// A call that can be kept alive.
pub(super) trait GraceCall: Drive {
    fn log(&self) -> &ResponseLog;

    /// A caller that may come back to a call in flight, and whose message was not superseded: its cancellation, or
    /// `Some(None)` if it has none. `None`: there is no such caller.
    fn awaited(&self) -> Option<Option<Cancellation>>;

    /// Whether continuing without a caller is useful.
    fn can_continue(&self) -> bool;

    /// When a call that is abandoned now is cancelled; `None`: never. `is_unattended`: its callers may come back.
    fn grace_end(&self, is_unattended: bool) -> Option<Instant>;

    /// Cancels the call, unless it has a caller after all.
    fn cancel_upstream(&self);
}

// === impl GraceTask ===

impl GraceTask {
    pub(super) fn new(
        call: Arc<dyn GraceCall>,
        cancellation: Option<Cancellation>,
        place: Option<UnattendedPlace>,
    ) -> Self {
        let id = call.log().add_watcher();
        let (abandon_count, until, timeout) = (None, None, Timeout::default());
        Self { call, cancellation, place, id, abandon_count, until, timeout, is_done: false }
    }

    /// Whether no caller that may come back needs the answer.
    fn is_cancelled(&mut self, cx: &mut Context<'_>) -> bool {
        while self.cancellation.as_ref().is_some_and(|cancellation| cancellation.poll(cx).is_ready()) {
            let Some(another) = self.call.awaited() else { return true };
            self.cancellation = another;
        }
        false
    }

    fn has_time_left(&mut self, cx: &mut Context<'_>) -> bool {
        self.until.is_none_or(|until| self.timeout.poll_until(until, cx).is_pending())
    }
}

impl Future for GraceTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut frames = FrameBudget::new();
        while frames.may_read(cx) {
            let Watched::Abandoned { abandon_count } = this.call.log().watch(this.id, cx.waker()) else {
                this.is_done = true;
                return Poll::Ready(());
            };
            if this.abandon_count.replace(abandon_count) != Some(abandon_count) {
                this.until = this.call.grace_end(this.place.is_some());
            }
            if this.is_cancelled(cx)
                || !this.call.can_continue()
                || this.until.is_some_and(|until| until <= clock::now())
            {
                return Poll::Ready(());
            }
            match this.call.drive(None) {
                Driven::Progress | Driven::Part(_) => {}
                Driven::Wait if this.has_time_left(cx) => return Poll::Pending,
                Driven::Wait => return Poll::Ready(()),
            }
        }
        if this.has_time_left(cx) { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for GraceTask {
    // Also when the runtime ends, or the upstream panics.
    fn drop(&mut self) {
        self.call.log().remove_watcher(self.id);
        if !self.is_done {
            self.call.cancel_upstream();
        }
    }
}
