//! A call under way, and what is told of it at its end.

use http::StatusCode;

use crate::call::{CallInfo, Entered};

/// From the request to the end of the answer's body, or until the call is dropped.
pub(super) struct ObservedCall {
    info: Option<CallInfo>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
    status: Option<StatusCode>,
    has_data: bool,
    end: End,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The answer was handed on whole.
    Complete,
    /// The service failed, or the body.
    Failed,
    /// The future or the body was dropped before its end.
    Cancelled,
}

// === impl ObservedCall ===

impl ObservedCall {
    pub(super) fn new(info: CallInfo) -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: span(&info),
            info: Some(info),
            status: None,
            has_data: false,
            end: End::Cancelled,
        }
    }

    /// Makes this the call that is told of, while `work` runs.
    #[inline]
    pub(super) fn within<T>(&mut self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _span = self.span.enter();
        let _entered = Entered::new(&mut self.info);
        work()
    }

    pub(super) fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    #[inline]
    pub(super) fn data(&mut self) {
        if !self.has_data {
            self.has_data = true;
            self.first_data();
        }
    }

    #[cold]
    fn first_data(&self) {
        self.measure("tower_buttress_first_data_seconds", None);
    }

    pub(super) fn ended(&mut self, end: End) {
        self.end = end;
    }

    #[cfg(feature = "metrics")]
    fn measure(&self, name: &'static str, end: Option<End>) {
        let Some(info) = &self.info else { return };
        let seconds = elapsed(info).as_secs_f64();
        let stack = info.stack().to_owned();
        let Some(end) = end else {
            return metrics::histogram!(name, "stack" => stack).record(seconds);
        };
        let status = class(self.status);
        metrics::histogram!(name, "stack" => stack, "status" => status, "end" => end.as_str()).record(seconds);
    }

    #[cfg(not(feature = "metrics"))]
    #[expect(clippy::unused_self, reason = "there is nothing to measure with")]
    const fn measure(&self, _name: &'static str, _end: Option<End>) {}
}

impl Drop for ObservedCall {
    fn drop(&mut self) {
        #[cfg(feature = "tracing")]
        if let Some(info) = &self.info {
            let (status, elapsed) = (self.status.map(|status| status.as_u16()), elapsed(info));
            let _span = self.span.enter();
            tracing::debug!(
                status,
                end = self.end.as_str(),
                attempts = info.attempt(),
                model = info.model(),
                elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                "call ended"
            );
        }
        self.measure("tower_buttress_call_seconds", Some(self.end));
    }
}

#[cfg(any(feature = "metrics", feature = "tracing"))]
fn elapsed(info: &CallInfo) -> std::time::Duration {
    crate::rt::clock::now().saturating_duration_since(info.started())
}

#[cfg(feature = "tracing")]
fn span(info: &CallInfo) -> tracing::Span {
    tracing::info_span!(
        "call",
        id = info.id(),
        stack = info.stack(),
        method = info.method().as_str(),
        host = info.host()
    )
}

#[cfg(feature = "metrics")]
fn class(status: Option<StatusCode>) -> &'static str {
    match status.map(|status| status.as_u16() / 100) {
        None => "none",
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => "other",
    }
}

// === impl End ===

impl End {
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
