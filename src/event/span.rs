//! The spans of a call and of its attempts.

use tracing::Span;
use tracing::field::Empty;

use crate::call::CallInfo;

/// The span of a call.
pub(crate) fn of_call(call: &CallInfo) -> Span {
    tracing::info_span!(
        "call",
        id = call.id(),
        stack = call.stack(),
        method = call.method().as_str(),
        host = call.host(),
        trace_id = Empty,
        span_id = Empty,
        parent_id = Empty,
    )
}

/// The span of an attempt, inside the current one.
pub(crate) fn of_attempt(upstream: &str, attempt: u32) -> Span {
    tracing::info_span!("attempt", upstream, attempt, trace_id = Empty, span_id = Empty, parent_id = Empty)
}

/// The spans that a call has only while something is logged: the inner one of them.
pub(crate) fn late(call: &CallInfo) -> Span {
    if !call.has_late_spans() {
        return Span::none();
    }
    let span = of_call(call);
    match call.place() {
        Some((upstream, attempt)) => span.in_scope(|| of_attempt(upstream, attempt)),
        None => span,
    }
}
