use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use super::config::{Calls, Config};
use super::service::Observe;

/// Gives each call an identity, with which all layers inside tell of it, and tells how the call ended.
///
/// # When to use it, and when not
///
/// Once, around a stack whose events, log lines or figures are looked at: it adds what they lack, the answer to "which call?".
/// Where nothing observes them, it does nothing that is needed.
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
/// # What it tells
///
/// - Every [`Observer`](crate::Observer) inside is given the [`CallInfo`](crate::CallInfo) with each event. So is the
///   request's [`Extensions`](http::Extensions), for services of the user's own.
/// - With the feature `tracing`: a span `call` (INFO) around all that happens, with `id`, `stack`, `method` and `host`, and at
///   the end one line (DEBUG) with the status, how the call ended, its attempts, its model, and how long it took.
/// - With the feature `metrics`: `tower_buttress_first_data_seconds` (by `stack`), from the request to the first data of the
///   answer's body, and `tower_buttress_call_seconds` (by `stack`, `status`: `2xx` .., and `end`: `complete`, `failed` or
///   `cancelled`), from the request to the end of the body.
///
/// # Attempts
///
/// A layer made by [`attempts`](Self::attempts) stands inside the retries, around one upstream or its client. With the feature
/// `tracing` it opens a span `attempt` (INFO) inside that of the call, with `upstream` and the `attempt`'s number, and at its end tells
/// one line (DEBUG) with the status, how it ended and how long it took. Events of the layers inside are told within it, and of the
/// call that makes the attempt, also where another caller's task drives it, or none.
///
/// # Place in the stack
///
/// Outermost. Where one stack stands within another, each names itself, and the inner one takes the id of the outer one.
///
/// # What happens when
///
/// - *Callers share one upstream call* ([`DedupLayer`](crate::DedupLayer)): an event of it is told of that caller whose task
///   found it.
/// - *A layer works on a task of its own*, after its caller has left: its events are told without a call, but for those of
///   [attempts](Self#attempts).
///
/// # Cancel safety
///
/// Dropping the future or the body drops the call; it is then told as `cancelled`.
///
/// # Errors
///
/// Those of the service inside.
///
/// # Cost
///
/// Two allocations a call, an entry in the request's extensions, and a look at the clock at the start, the first data and the end. A
/// frame costs two moves of a pointer. An attempt costs a look at the clock at both ends, and no allocation but those of its trace.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    config: Option<Config>,
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// Names the stack: in events, spans, and as the label `stack` of figures.
    #[must_use]
    pub fn new(stack: impl Into<Arc<str>>) -> Self {
        let stack = stack.into();
        Self { config: Some(Config::Calls(Calls { stack, request_id: None, trace_context: false })) }
    }

    /// Opens a span for each attempt at an upstream, by this name: see [above](Self#attempts).
    #[must_use]
    pub fn attempts(upstream: impl Into<Arc<str>>) -> Self {
        Self { config: Some(Config::Attempts(upstream.into())) }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { config: None }
    }

    /// Takes a call's id from this header, where it has 1 to 128 letters, digits, `.`, `_` and `-`.
    ///
    /// The caller chooses it then: name a header that only a proxy of yours sets, or accept that callers name
    /// their own calls. Without it, and where the header has nothing of the kind, an id is 16 random hexadecimal digits.
    #[must_use]
    pub fn request_id(mut self, header: HeaderName) -> Self {
        if let Some(Config::Calls(calls)) = &mut self.config {
            calls.request_id = Some(header);
        }
        self
    }

    /// Makes each attempt a span of the caller's trace, where its request has a `traceparent` (W3C Trace Context): it goes on with
    /// the id of the attempt. Default: no, it passes as it came.
    ///
    /// It needs [`attempts`](Self::attempts) inside. The spans have the fields `trace_id`, `span_id` and `parent_id` then; what
    /// collects them must send them where the traces are gathered, or the upstream's spans have a parent that is not there.
    /// `tracestate` is left as it is.
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
        Observe::new(inner, self.config.clone())
    }
}
