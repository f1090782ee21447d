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
use crate::rt::settings::Settings;

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
/// - *The body is longer than [`max_body_bytes`](Self::max_body_bytes)*, or *takes longer to come than the
///   [`read_timeout`](Self::read_timeout)*: the request goes on as it is, what was read in front, with an event; the closure
///   is not called.
/// - *The body fails*: it goes on as one that fails, as the service inside would have seen it.
/// - *The request is not [one to be read](Self::filter)*, by default no JSON: it goes on untouched.
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
/// None for a body that is in memory but the closure's. Any other is held until it is whole, at most `max_body_bytes`, and the
/// service inside is asked for its readiness after that, so that no place in it (a permit of a concurrency limit) is held by a
/// caller who is still sending. A body of one frame is not copied. A timer, where the body does not come at once.
#[derive(Clone, Debug)]
pub struct InspectRequestLayer {
    config: Settings<Config>,
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
        Self { config: Settings::new(config) }
    }

    /// Marks requests whose answers will be streams with [`ExpectsEventStream`](crate::ExpectsEventStream): those that say
    /// `"stream": true` (to Ollama, those that do not say `false`). Notes their [`Model`](crate::Model): the one that
    /// [the path names](crate::Model::in_path), or else the body. Reads JSON that is posted, unless both are known already; a body
    /// that is in memory is not copied, and no tree is made of it.
    ///
    /// The presets for models have this layer. With it, [`FirstByteTimeoutLayer::answer`] and
    /// [`SseHeartbeatLayer::before_headers`] know what is asked for, and each model has a circuit of its own.
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

    /// Switches the layer on or off; its settings are kept. Default: on. With [`read_all`](Self::read_all) a layer that is off
    /// still reads.
    #[must_use]
    pub fn enabled(self, enabled: bool) -> Self {
        self.with(|config| config.enabled = enabled)
    }

    /// Which requests are read. Default: those whose content type is JSON (`application/json`, or one with `+json`), and
    /// which are not compressed.
    #[must_use]
    pub fn filter(self, filter: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.filter = Arc::new(filter))
    }

    /// Whether other requests are read first, too, without being shown. Default: no.
    ///
    /// A caller that sends its request slowly then holds nothing that others wait for, such as a place in a
    /// [`QueueLayer`](crate::QueueLayer) inside. gRPC calls and upgrades, which may go both ways, are not read, nor is more than
    /// [`max_body_bytes`](Self::max_body_bytes) or for longer than the [`read_timeout`](Self::read_timeout). Where that is all
    /// that is wanted:
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

    /// The longest body that is read, in bytes. Default: 2 MiB, which is also what retries keep.
    #[must_use]
    pub fn max_body_bytes(self, limit: usize) -> Self {
        self.with(|config| config.max_body_bytes = limit)
    }

    /// The memory in which the bodies of all calls are counted together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// How long a body may take to come. Default: 30 s. The limits of time of the layers inside begin afterwards.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// Tells `observer` of the requests that were not read to their end.
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
