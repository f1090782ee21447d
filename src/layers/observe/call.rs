//! A call or an attempt in flight, and the report at its end.

use std::fmt;
use std::sync::Arc;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use std::time::Instant;

use http::{Extensions, StatusCode};

#[cfg(feature = "tracing")]
use tracing::{Level, level_filters::LevelFilter};

use super::figures::Figures;
use super::outcome::CallEnd;
#[cfg(feature = "tracing")]
use super::trace::CallSpan;
use super::trace::TraceSpan;
use crate::call::{Attempt, CallInfo, EnteredCall};
#[cfg(feature = "tracing")]
use crate::event::span;
use crate::rt::clock;

/// From the request to the end of the answer's body, or until it is dropped.
pub struct ObservedCall {
    info: Option<CallInfo>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
    /// `None`: nothing is measured, or it is one of the call's attempts.
    #[cfg(feature = "metrics")]
    figures: Option<Figures>,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    began: Instant,
    /// Not one of its attempts.
    #[cfg(feature = "tracing")]
    is_call: bool,
    /// Whether the layers inside share one reading of the clock for a poll.
    reads_once: bool,
    status: Option<StatusCode>,
    has_data: bool,
    end: CallEnd,
}

// === impl ObservedCall ===

impl ObservedCall {
    #[cfg_attr(
        not(all(feature = "metrics", feature = "tracing")),
        expect(unused_variables, reason = "there is no span, or nothing to measure with")
    )]
    pub(super) fn new(
        info: CallInfo,
        figures: Option<&Figures>,
        trace_span: Option<TraceSpan>,
        extensions: &mut Extensions,
    ) -> Self {
        #[cfg(feature = "tracing")]
        let span = match info.has_late_spans() {
            true => tracing::Span::none(),
            false => in_trace(span::of_call(&info), trace_span),
        };
        #[cfg(feature = "tracing")]
        if !span.is_disabled() {
            extensions.insert(CallSpan(span.clone()));
        }
        Self {
            #[cfg(feature = "tracing")]
            span,
            #[cfg(feature = "metrics")]
            figures: figures.cloned(),
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            began: info.started(),
            reads_once: info.has_late_spans(),
            info: Some(info),
            #[cfg(feature = "tracing")]
            is_call: true,
            status: None,
            has_data: false,
            end: CallEnd::Cancelled,
        }
    }

    #[cfg_attr(not(feature = "tracing"), expect(unused_variables, reason = "there is no span"))]
    pub(super) fn attempt(
        upstream: &Arc<str>,
        attempt: Attempt,
        trace_span: Option<TraceSpan>,
        extensions: &Extensions,
    ) -> Self {
        let info = CallInfo::in_extensions(extensions).cloned().or_else(CallInfo::current);
        let info = info.map(|info| info.at(upstream.clone(), attempt.0));
        Self {
            #[cfg(feature = "tracing")]
            span: attempt_span(info.as_ref(), upstream, attempt, trace_span, extensions),
            #[cfg(feature = "metrics")]
            figures: None,
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            began: clock::now(),
            info,
            #[cfg(feature = "tracing")]
            is_call: false,
            reads_once: false,
            status: None,
            has_data: false,
            end: CallEnd::Cancelled,
        }
    }

    /// Makes this the current call while `work` runs.
    #[inline]
    pub(super) fn within<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let _once = self.reads_once.then(clock::read_once);
        #[cfg(feature = "tracing")]
        let _span = self.span.enter();
        let _entered = EnteredCall::new(&mut self.info);
        work()
    }

    pub(super) fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    #[inline]
    pub(super) fn sent_data(&mut self) {
        if !self.has_data {
            self.has_data = true;
            self.first_data();
        }
    }

    #[cold]
    #[cfg_attr(not(feature = "metrics"), expect(clippy::unused_self, reason = "there is nothing to measure with"))]
    fn first_data(&self) {
        #[cfg(feature = "metrics")]
        if let Some(figures) = &self.figures {
            figures.first_data(self.elapsed());
        }
    }

    pub(super) fn ended(&mut self, end: CallEnd) {
        self.end = end;
    }

    #[cfg(any(feature = "metrics", feature = "tracing"))]
    fn elapsed(&self) -> std::time::Duration {
        clock::now().saturating_duration_since(self.began)
    }

    #[cfg(feature = "tracing")]
    fn log_end(&self) {
        if LevelFilter::current() < Level::DEBUG {
            return;
        }
        let (status, end) = (self.status.map(|status| status.as_u16()), self.end.as_str());
        let elapsed_ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        let late = self.info.as_ref().map(span::late);
        let _span = late.as_ref().filter(|span| !span.is_disabled()).unwrap_or(&self.span).enter();
        if !self.is_call {
            tracing::debug!(status, end, elapsed_ms, "attempt ended");
        } else if let Some(info) = &self.info {
            let (attempts, model) = (info.attempt(), info.model());
            tracing::debug!(status, end, attempts, model, elapsed_ms, "call ended");
        }
    }
}

impl fmt::Debug for ObservedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedCall").finish_non_exhaustive()
    }
}

impl Drop for ObservedCall {
    fn drop(&mut self) {
        #[cfg(feature = "tracing")]
        self.log_end();
        #[cfg(feature = "metrics")]
        if let Some(figures) = &self.figures {
            figures.ended(self.status, self.end, self.elapsed());
        }
    }
}

/// Inside the call's span, also if another task makes the attempt.
#[cfg(feature = "tracing")]
fn attempt_span(
    info: Option<&CallInfo>,
    upstream: &str,
    Attempt(attempt): Attempt,
    trace_span: Option<TraceSpan>,
    extensions: &Extensions,
) -> tracing::Span {
    if info.is_some_and(CallInfo::has_late_spans) {
        return tracing::Span::none();
    }
    let _call = extensions.get().map(|CallSpan(span)| span.enter());
    in_trace(span::of_attempt(upstream, attempt), trace_span)
}

#[cfg(feature = "tracing")]
fn in_trace(span: tracing::Span, trace_span: Option<TraceSpan>) -> tracing::Span {
    if let Some(TraceSpan { own, parent }) = trace_span {
        span.record("trace_id", own.trace_id());
        span.record("span_id", own.span_id());
        span.record("parent_id", parent.span_id());
    }
    span
}
