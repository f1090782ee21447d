use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use tower_layer::Layer;

use super::config::Config;
use super::llm;
use super::service::InspectRequest;
use crate::call::Memory;
use crate::event::{Observer, Observers};
use crate::proto::media_type::is_json;
use crate::rt::settings::LayerSettings;

/// Reads a request's body before the request is sent, so that a closure can change the head by it.
///
/// Callers of LLM APIs name the model, and ask for a stream, in the body. This layer shows the body to a closure. The
/// closure may put into the request's extensions what other layers read there ([`TimeoutProfile`](crate::TimeoutProfile),
/// [`NoRetry`](crate::NoRetry), [`ExpectsEventStream`](crate::ExpectsEventStream)), or change headers, or the URI. The
/// body passes unchanged.
///
/// # When to use it, and when not
///
/// Where a decision needs the body. For a decision by path or header use
/// [`TimeoutProfileLayer`](crate::TimeoutProfileLayer), which delays nothing. A request that must stream while the caller
/// writes it (a long upload, a call in both directions) cannot be read first.
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
/// Outside the layers that it decides for; for time limits and heartbeats that is outermost.
///
/// # What happens when
///
/// - *The body is longer than [`max_body_bytes`](Self::max_body_bytes)*, or *takes longer than the
///   [`read_timeout`](Self::read_timeout)*: the layer forwards the request unchanged, starting with the part that was
///   read, with an event. It does not call the closure.
/// - *The body fails*: the layer forwards a body that fails in the same place.
/// - *The [filter](Self::filter) excludes the request*, by default if it is not JSON: it passes untouched.
/// - *The caller drops the future*: the layer drops the part that was read, or the call.
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
/// For a body in memory, only the closure. The layer buffers any other body, up to `max_body_bytes`, and polls the inner
/// service for readiness afterwards, so a caller that is still sending holds no place in it (a permit of a concurrency
/// limit). A body of one frame is not copied. A timer, if the body is not ready at once.
#[derive(Clone, Debug)]
pub struct InspectRequestLayer {
    config: LayerSettings<Config>,
}

// === impl InspectRequestLayer ===

impl InspectRequestLayer {
    /// Calls `inspect` with the head and the whole body of each request that is read, before it is sent.
    #[must_use]
    pub fn new(inspect: impl Fn(&mut Parts, &Bytes) + Send + Sync + 'static) -> Self {
        let config = Config {
            enabled: true,
            inspect: Arc::new(inspect),
            filter: Arc::new(|head| is_json(&head.headers) && !head.headers.contains_key(CONTENT_ENCODING)),
            read_all: false,
            max_body_bytes: 2 * 1024 * 1024,
            memory: Memory::default(),
            read_timeout: Duration::from_secs(30),
            observers: Observers::default(),
        };
        Self { config: LayerSettings::new(config) }
    }

    /// Marks requests whose answers will stream with [`ExpectsEventStream`](crate::ExpectsEventStream): those with
    /// `"stream": true` (to Ollama, those without `false`). Notes their [`Model`](crate::Model) from the
    /// [path](crate::Model::in_path), or else from the body. Reads the JSON of POST requests, unless both are already
    /// known. A body in memory is neither copied nor parsed into a tree.
    ///
    /// The presets for models have this layer. It tells [`FirstByteTimeoutLayer::answer`] and
    /// [`SseHeartbeatLayer::before_headers`] which requests stream, and gives each model its own circuit.
    ///
    /// [`FirstByteTimeoutLayer::answer`]: crate::FirstByteTimeoutLayer::answer
    /// [`SseHeartbeatLayer::before_headers`]: crate::SseHeartbeatLayer::before_headers
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use std::convert::Infallible;
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_buttress::{ExpectsEventStream, InspectRequestLayer};
    ///
    /// let service = ServiceBuilder::new().layer(InspectRequestLayer::llm()).service(service_fn(
    ///     |request: Request<_>| async move {
    ///         let streams = request.extensions().get::<ExpectsEventStream>().is_some();
    ///         Ok::<_, Infallible>(Response::new(streams))
    ///     },
    /// ));
    /// let request = Request::post("/v1/chat/completions")
    ///     .header("content-type", "application/json")
    ///     .body(Full::<Bytes>::from(r#"{ "model": "m", "messages": [], "stream": true }"#))
    ///     .unwrap();
    /// assert!(service.oneshot(request).await.unwrap().into_body());
    /// # }
    /// ```
    #[must_use]
    pub fn llm() -> Self {
        Self::new(llm::mark).filter(llm::is_unclear)
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new(|_, _| {}).enabled(false)
    }

    /// Switches the layer on or off; its settings are kept. Default: on. With [`read_all`](Self::read_all) a layer that
    /// is off still reads the body.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.with(|config| config.enabled = enabled)
    }

    /// Selects the requests to read. Default: those whose content type is JSON (`application/json`, or a type with
    /// `+json`), and that are not compressed.
    #[must_use]
    pub fn filter(self, filter: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.filter = Arc::new(filter))
    }

    /// Whether the layer reads other requests too, without showing them to the closure. Default: no.
    ///
    /// A caller that sends slowly then holds no place that others wait for, such as one in a
    /// [`QueueLayer`](crate::QueueLayer) inside. The layer does not read gRPC calls and upgrades, which may go in both
    /// directions, nor more than [`max_body_bytes`](Self::max_body_bytes), nor for longer than the
    /// [`read_timeout`](Self::read_timeout). For this effect alone:
    ///
    /// ```
    /// use tower_buttress::InspectRequestLayer;
    ///
    /// let read_first = InspectRequestLayer::new(|_, _| {}).read_all(true);
    /// # let _ = read_first;
    /// ```
    #[must_use]
    pub fn read_all(self, read_all: bool) -> Self {
        self.with(|config| config.read_all = read_all)
    }

    /// The longest body that is read, in bytes. Default: 2 MiB, the limit of retries too.
    #[must_use]
    pub fn max_body_bytes(self, limit: usize) -> Self {
        self.with(|config| config.max_body_bytes = limit)
    }

    /// The memory that counts the bodies of all calls together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// How long a body may take to arrive. Default: 30 s. The time limits of the layers inside start afterwards.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// Reports requests that were not read to their end to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|config| config.observers = Observers::to(observer))
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }
}

impl<S> Layer<S> for InspectRequestLayer {
    type Service = InspectRequest<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let is_on = self.config.enabled || self.config.read_all;
        InspectRequest::new(inner, is_on.then(|| self.config.for_service()))
    }
}
