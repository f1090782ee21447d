use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::layer::Config;
use crate::policy::flight::ReaderId;
use crate::rt::clock;
use crate::rt::timer::LazyTimer;
use crate::store::{Drive, Driven, Log, Watched};

/// The task that keeps a call going while nobody listens: browsers try again.
///
/// It ends when somebody listens, when the call is over, or, giving the call up, when its patience is.
pub(super) struct GraceTask {
    flight: Arc<dyn GraceCall>,
    id: ReaderId,
    /// Which time of being alone the patience is for.
    abandon_count: Option<u64>,
    /// `None`: without end.
    until: Option<Instant>,
    timer: LazyTimer,
    over: bool,
}

/// A call that can be kept going.
pub(super) trait GraceCall: Drive {
    fn log(&self) -> &Log;

    fn config(&self) -> &Config;

    /// Whether somebody in another process listens.
    fn is_wanted(&self) -> bool;

    /// Gives the call up, unless somebody listens after all.
    fn abandon(&self);

    /// Whether there is any use in going on without a listener.
    fn can_continue(&self) -> bool {
        self.config().finish_abandoned || self.log().is_recording()
    }
}

/// How often those in other processes are asked after where there is no grace.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// An upstream that is never pending must not keep the executor to itself.
const AT_A_TIME: usize = 64;

// === impl GraceTask ===

impl GraceTask {
    pub(super) fn new(flight: Arc<dyn GraceCall>) -> Self {
        let id = flight.log().keep();
        Self { flight, id, abandon_count: None, until: None, timer: LazyTimer::default(), over: false }
    }

    fn begin_patience(&mut self, patience: Duration) {
        self.until = if self.flight.config().finish_abandoned { None } else { clock::now().checked_add(patience) };
    }

    fn is_patient(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let Some(until) = self.until else { return true };
            if self.timer.poll_until(until, cx).is_pending() {
                return true;
            }
            // It is over here; elsewhere somebody may listen.
            if !self.flight.is_wanted() {
                return false;
            }
            self.begin_patience(self.flight.config().grace.max(ASK_AGAIN));
        }
    }
}

impl Future for GraceTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..AT_A_TIME {
            let Watched::Alone { abandon_count } = this.flight.log().watch(this.id, cx.waker()) else {
                this.over = true;
                return Poll::Ready(());
            };
            if this.abandon_count.replace(abandon_count) != Some(abandon_count) {
                this.begin_patience(this.flight.config().grace);
            }
            if !this.flight.can_continue() {
                return Poll::Ready(());
            }
            match this.flight.drive(None) {
                Driven::Progress | Driven::Part(_) => {}
                Driven::Wait if this.is_patient(cx) => return Poll::Pending,
                Driven::Wait => return Poll::Ready(()),
            }
        }
        if !this.is_patient(cx) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for GraceTask {
    // Also when the runtime ends, or the upstream panics.
    fn drop(&mut self) {
        self.flight.log().leave(self.id);
        if !self.over {
            self.flight.abandon();
        }
    }
}
