use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use tower_layer::Layer;

use super::service::InspectRequest;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::proto::media_type::is_json;

/// Reads a request before it is sent, so that its head can be changed by what its body says.
///
/// LLM APIs say in the body what it is that they are asked for: the model, and whether the answer is to stream. This layer
/// shows the body to a closure, which may then put into the request's extensions what other layers look for there: a
/// [`TimeoutProfile`](crate::TimeoutProfile), [`NoRetry`](crate::NoRetry),
/// [`ExpectsEventStream`](crate::ExpectsEventStream); or change headers, or the URI. The body goes on as it came.
///
/// # When to use it, and when not
///
/// Where a decision takes the body. For one by path or header [`TimeoutProfileLayer`](crate::TimeoutProfileLayer) does, and
/// nothing is held up. A request that must stream as it is written (a long upload, a call that goes both ways) cannot be
/// read first.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::convert::Infallible;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use serde::Deserialize;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{InspectRequestLayer, TimeoutProfile};
///
/// /// All else is skipped.
/// #[derive(Deserialize)]
/// struct Asked<'a> {
///     model: &'a str,
/// }
///
/// let by_model = InspectRequestLayer::new(|head, body| {
///     if let Ok(Asked { model: "o3-pro" }) = serde_json::from_slice(body) {
///         head.extensions.insert(TimeoutProfile::EXTENDED_THINKING);
///     }
/// });
///
/// let upstream = service_fn(|request: Request<_>| async move {
///     let thinks = request.extensions().get() == Some(&TimeoutProfile::EXTENDED_THINKING);
///     Ok::<_, Infallible>(Response::new(thinks))
/// });
/// // Here `.layer(presets::llm_client(TimeoutProfile::STANDARD))` would follow.
/// let service = ServiceBuilder::new().layer(by_model).service(upstream);
///
/// let ask = |body: &'static str| {
///     Request::post("/v1/chat").header("content-type", "application/json").body(Full::<Bytes>::from(body)).unwrap()
/// };
/// let thinks = service.clone().oneshot(ask(r#"{ "messages": [], "model": "o3-pro" }"#)).await.unwrap();
/// assert!(thinks.into_body());
/// let quick = service.oneshot(ask(r#"{ "model": "gpt-5-mini" }"#)).await.unwrap();
/// assert!(!quick.into_body());
/// # }
/// ```
///
/// # Place in the stack
///
/// Outside of the layers that it decides for, which for limits of time and heartbeats is outermost.
///
/// # What happens when
///
/// - *The body is longer than the [limit](Self::limit)*, or *takes longer to come than the [patience](Self::patience)*:
///   the request goes on as it is, what was read in front, with an event; the closure is not called.
/// - *The body fails*: it goes on as one that fails, as the service inside would have seen it.
/// - *The request is not [one to be read](Self::when)*, by default no JSON: it goes on untouched.
/// - *The caller drops the future*: so is what was read, or the call.
/// - *Trailers, content-length, upgrades, responses*: pass.
///
/// # Cancel safety
///
/// Dropping the future drops the request, or the call.
///
/// # Errors
///
/// Those of the service inside.
///
/// # Cost
///
/// The request is held until it is whole, at most the limit, and meanwhile the place that the service inside gave when it was
/// ready. A body of one frame is not copied. A timer, where the body does not come at once.
#[derive(Clone, Debug)]
pub struct InspectRequestLayer {
    // `None`: the layer is off.
    config: Option<Arc<Config>>,
}

type Inspect = Arc<dyn Fn(&mut Parts, &Bytes) + Send + Sync>;
type When = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;

#[derive(Clone)]
pub(super) struct Config {
    pub(super) inspect: Inspect,
    pub(super) when: When,
    pub(super) limit: usize,
    pub(super) memory: Memory,
    pub(super) patience: Duration,
    pub(super) emitter: Emitter,
}

// === impl InspectRequestLayer ===

impl InspectRequestLayer {
    /// The name of this layer in events.
    pub(super) const NAME: &'static str = "inspect-request";

    /// Calls `inspect` with the head and the whole body of each request that is read, before it is sent.
    #[must_use]
    pub fn new(inspect: impl Fn(&mut Parts, &Bytes) + Send + Sync + 'static) -> Self {
        let config = Config {
            inspect: Arc::new(inspect),
            when: Arc::new(|head| is_json(&head.headers) && !head.headers.contains_key(CONTENT_ENCODING)),
            limit: 2 * 1024 * 1024,
            memory: Memory::default(),
            patience: Duration::from_secs(30),
            emitter: Emitter::default(),
        };
        Self { config: Some(Arc::new(config)) }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { config: None }
    }

    /// Which requests are read. Default: those whose content type is JSON (`application/json`, or one with `+json`), and
    /// which are not compressed.
    #[must_use]
    pub fn when(self, when: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.change(|config| config.when = Arc::new(when))
    }

    /// The longest body that is read, in bytes. Default: 2 MiB, which is also what retries keep.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        self.change(|config| config.limit = limit)
    }

    /// The memory in which the bodies of all calls are counted together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.change(|config| config.memory = memory)
    }

    /// How long a body may take to come. Default: 30 s. The limits of time of the layers inside begin afterwards.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        self.change(|config| config.patience = patience)
    }

    /// Tells `observer` of the requests that were not read to their end.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    fn change(mut self, change: impl FnOnce(&mut Config)) -> Self {
        if let Some(config) = &mut self.config {
            change(Arc::make_mut(config));
        }
        self
    }
}

impl<S> Layer<S> for InspectRequestLayer {
    type Service = InspectRequest<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InspectRequest::new(inner, self.config.clone())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("limit", &self.limit)
            .field("patience", &self.patience)
            .field("emitter", &self.emitter)
            .finish_non_exhaustive()
    }
}
