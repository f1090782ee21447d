use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;

use super::config::{IdleActivity, NAME};
use crate::error::{BoxError, IdleBodyElapsed};
use crate::event::{Emitter, Event};
use crate::policy::idle::Idle;
use crate::proto::sse::Scanner;
use crate::rt::clock;
use crate::rt::timeout::StreamTimeout;

/// The silence of a body, and its limit.
#[derive(Debug)]
pub struct Silence {
    /// `None`: no limit, since the layer is off.
    limit: Option<Duration>,
    idle: Idle,
    timeout: StreamTimeout,
    /// Set if only events count.
    scanner: Option<Scanner>,
    emitter: Emitter,
}

// === impl Silence ===

impl Silence {
    pub(super) fn new(limit: Option<Duration>, activity: IdleActivity, emitter: Emitter) -> Self {
        let scanner = (activity == IdleActivity::SseEvents).then(Scanner::new);
        Self { limit, idle: Idle::default(), timeout: StreamTimeout::default(), scanner, emitter }
    }

    /// Whether activity shows only inside frames.
    #[inline]
    pub(super) fn is_by_events(&self) -> bool {
        self.scanner.is_some()
    }

    /// The upstream was active.
    #[inline]
    pub(super) fn alive(&mut self) {
        self.idle.alive();
    }

    /// The upstream sent this frame.
    pub(super) fn judge(&mut self, frame: &Frame<Bytes>) {
        let alive = match (&mut self.scanner, frame.data_ref()) {
            (Some(scanner), Some(data)) => scanner.finds_fields(data),
            _ => true,
        };
        if alive {
            self.idle.alive();
        } else {
            self.idle.interrupted_within(self.limit.unwrap_or(Duration::MAX), clock::now());
        }
    }

    /// Ready when the silence has taken too long.
    #[inline]
    pub(super) fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        // The instant only moves later: a running timer fires soon enough.
        let runs = if self.idle.is_waiting() {
            self.timeout.will_wake(cx)
        } else {
            let now = clock::now();
            self.idle.waiting(|| now);
            self.timeout.will_wake_from(now, cx)
        };
        if runs { Poll::Pending } else { self.poll_timer(limit, cx) }
    }

    #[cold]
    fn poll_timer(&mut self, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.idle.until(limit).map_or(Poll::Pending, |at| self.timeout.poll_until(at, cx))
    }

    #[cold]
    pub(super) fn elapsed(&self) -> BoxError {
        let after = self.limit.unwrap_or_default();
        self.emitter.emit(&Event::BodyTimedOut { layer: NAME, after });
        IdleBodyElapsed::new(after).into()
    }
}
