//! The trace state in a request's extensions, from the call to its attempts.

use http::Request;

use crate::proto::trace_context::TraceContext;

/// The place of a call in its caller's trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace(TraceContext);

/// The span of a call: its attempts are inside it, in whichever task.
#[cfg(feature = "tracing")]
#[derive(Clone, Debug)]
pub(super) struct CallSpan(pub(super) tracing::Span);

/// A span of a trace, and its parent.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tracing"), expect(dead_code, reason = "spans have it as a field"))]
pub(super) struct TraceSpan {
    pub(super) own: TraceContext,
    pub(super) parent: TraceContext,
}

// === impl Trace ===

impl Trace {
    /// Begins a call's span inside its caller's, if enabled.
    pub(super) fn begin<B>(request: &mut Request<B>, asked: bool) -> Option<TraceSpan> {
        // A stack around this one may have begun a span, which attempts of this stack would send to the upstream.
        request.extensions_mut().remove::<Self>();
        if !asked {
            return None;
        }
        let trace_span = inside(TraceContext::of(request.headers())?);
        request.extensions_mut().insert(Self(trace_span.own));
        Some(trace_span)
    }

    /// Begins an attempt's span inside its call's, and sends it to the upstream.
    pub(super) fn attempt<B>(request: &mut Request<B>) -> Option<TraceSpan> {
        let Self(call) = request.extensions().get().copied()?;
        let trace_span = inside(call);
        trace_span.own.mark(request.headers_mut());
        Some(trace_span)
    }
}

fn inside(parent: TraceContext) -> TraceSpan {
    TraceSpan { own: parent.child(fastrand::u64(..)), parent }
}
