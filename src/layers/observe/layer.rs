use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use super::config::{Calls, Config};
use super::figures::Figures;
use super::service::Observe;

/// Gives each call an id, which the events of all layers inside carry, and reports how the call ended.
///
/// # When to use it, and when not
///
/// Once, around a stack whose events, log lines or metrics you read: it adds which call they are about. Without a reader
/// it is not needed.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{CallInfo, DeadlineLayer, Event, ObserveLayer};
///
/// let lines = Arc::new(Mutex::new(Vec::new()));
/// let log = lines.clone();
/// let observer = move |event: &Event, call: Option<&CallInfo>| {
///     let call = call.unwrap();
///     log.lock().unwrap().push(format!("{} {} {}: {event}", call.stack(), call.id(), call.host().unwrap()));
/// };
/// let service = ServiceBuilder::new()
///     .layer(ObserveLayer::new("chat").request_id(http::HeaderName::from_static("x-request-id")))
///     .layer(DeadlineLayer::new(Duration::from_secs(1)).observer(Arc::new(observer)))
///     .service(service_fn(|_: Request<()>| {
///         std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
///     }));
///
/// let request = Request::get("http://model.example/").header("x-request-id", "7f3a").body(()).unwrap();
/// assert_eq!(service.oneshot(request).await.unwrap().status(), 504);
/// assert_eq!(*lines.lock().unwrap(), ["chat 7f3a model.example: refused: deadline-exceeded"]);
/// # }
/// ```
///
/// # What it reports
///
/// - Every [`Observer`](crate::Observer) inside gets the [`CallInfo`](crate::CallInfo) with each event. The layer also
///   puts it into the request's [`Extensions`](http::Extensions), for your own services.
/// - With the feature `tracing`: a span `call` (INFO) around the call, with `id`, `stack`, `method` and `host`, and at
///   the end one line (DEBUG) with the status, how the call ended, its attempts, its model, and its duration.
/// - With the feature `metrics`: `tower_buttress_first_data_seconds` (by `stack`), from the request to the first data of
///   the answer's body, and `tower_buttress_call_seconds` (by `stack`, `status`: `2xx` .., and `end`: `complete`,
///   `failed` or `cancelled`), from the request to the end of the body.
///
/// # Attempts
///
/// Put a layer made by [`attempts`](Self::attempts) inside the retries, around one upstream or its client. With the
/// feature `tracing` it opens a span `attempt` (INFO) inside the call's span, with `upstream` and the `attempt`'s number.
/// At the end of the attempt it logs one line (DEBUG) with the status, how it ended and its duration. Events of the
/// layers inside belong to this span, and to the call that makes the attempt, even if another caller's task drives the
/// attempt.
///
/// # Place in the stack
///
/// Outermost. If one stack contains another, each has its own name, and the inner one takes the id of the outer one.
///
/// # What happens when
///
/// - *Callers share one upstream call* ([`DedupLayer`](crate::DedupLayer)): its events carry the id of the caller whose
///   task polled the call at the time.
/// - *A layer works on its own task* after its caller has left: its events carry no call, except inside
///   [attempts](Self#attempts).
///
/// # Cancel safety
///
/// Dropping the future or the body drops the call; the layer then reports it as `cancelled`.
///
/// # Errors
///
/// Those of the service inside.
///
/// # Cost
///
/// Two allocations per call, an entry in the request's extensions, and a clock read at the start, the first data and the
/// end. A frame costs two pointer moves. An attempt costs two clock reads, and no allocation except for its trace.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    config: Option<Config>,
    /// Those of calls.
    figures: Option<Figures>,
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// Names the stack: in events, spans, and as the label `stack` of metrics.
    #[must_use]
    pub fn new(stack: impl Into<Arc<str>>) -> Self {
        let stack = stack.into();
        Self { figures: Some(Figures::new(&stack)), config: Some(Config::Calls(Calls::new(stack))) }
    }

    /// Opens a span with this name for each attempt at an upstream: see [above](Self#attempts).
    #[must_use]
    pub fn attempts(upstream: impl Into<Arc<str>>) -> Self {
        Self { config: Some(Config::Attempts(upstream.into())), figures: None }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { config: None, figures: None }
    }

    /// Takes a call's id from this header, if it has 1 to 128 letters, digits, `.`, `_` and `-`. Else the id is 16 random
    /// hexadecimal digits.
    ///
    /// The caller then chooses the id: name a header that only your own proxy sets, or accept that callers choose.
    #[must_use]
    pub fn request_id(mut self, header: HeaderName) -> Self {
        if let Some(Config::Calls(calls)) = &mut self.config {
            calls.request_id = Some(header);
        }
        self
    }

    /// Opens the spans of calls and attempts only around the log lines of this crate's layers, instead of around all
    /// work. Default: no.
    ///
    /// For a subscriber that only writes lines: those of the layers are the same, and a call costs less. Lines of others
    /// inside the stack are in no span. The layers then also share one reading of the clock for a poll. Not together with [`trace_context`](Self::trace_context).
    #[must_use]
    pub fn late_spans(mut self, late: bool) -> Self {
        if let Some(Config::Calls(calls)) = &mut self.config {
            calls.late_spans = late;
        }
        self
    }

    /// Makes each attempt a span of the caller's trace, if its request has a `traceparent` (W3C Trace Context): the layer
    /// forwards `traceparent` with the id of the attempt. Default: no, the header passes unchanged.
    ///
    /// It needs [`attempts`](Self::attempts) inside. The spans then have the fields `trace_id`, `span_id` and
    /// `parent_id`. Export them to the same tracing backend, or the parent of the upstream's spans is missing there.
    /// `tracestate` passes unchanged.
    #[must_use]
    pub fn trace_context(mut self, continued: bool) -> Self {
        if let Some(Config::Calls(calls)) = &mut self.config {
            calls.trace_context = continued;
        }
        self
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe::new(inner, (self.config.clone(), self.figures.clone()))
    }
}
