use std::sync::Arc;

use http::HeaderName;
use tower_layer::Layer;

use super::config::Config;
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
/// # Place in the stack
///
/// Outermost. Where one stack stands within another, each names itself, and the inner one takes the id of the outer one.
///
/// # What happens when
///
/// - *Callers share one upstream call* ([`DedupLayer`](crate::DedupLayer)): an event of it is told of that caller whose task
///   found it.
/// - *A layer works on a task of its own*, after its caller has left: its events are told without a call.
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
/// frame costs two moves of a pointer.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    config: Option<Config>,
}

// === impl ObserveLayer ===

impl ObserveLayer {
    /// Names the stack: in events, spans, and as the label `stack` of figures.
    #[must_use]
    pub fn new(stack: impl Into<Arc<str>>) -> Self {
        Self { config: Some(Config { stack: stack.into(), request_id: None }) }
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
        if let Some(config) = &mut self.config {
            config.request_id = Some(header);
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
