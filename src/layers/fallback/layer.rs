use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::Request;
use tower_layer::Layer;

use super::service::Fallback;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};

/// Asks a backup what the primary cannot answer: another upstream, another model, another credential.
///
/// A retry is for seconds. When an upstream is down for minutes, out of quota, or silent, it is another service that can
/// still serve the call: this layer hands it the same request, before any byte of an answer went to the caller.
///
/// # When to use it, and when not
///
/// Where there is a second upstream that will do. The request may be done twice, by two parties: a primary that answered
/// 500, or did not answer in time, may have done its work (and may charge for it). Where that is not acceptable, give it
/// a [classifier](Self::classifier) that is stricter.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::convert::Infallible;
/// use bytes::Bytes;
/// use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{FallbackLayer, CallBody, ServedBy};
///
/// type Body = CallBody;
/// let primary = service_fn(|_: Request<Body>| async {
///     Ok::<_, Infallible>(Response::builder().status(503).body(Full::<Bytes>::from("down")).unwrap())
/// });
/// let backup = service_fn(|request: Request<Body>| async {
///     // What was meant for the primary has not come here.
///     assert_eq!(request.headers()[AUTHORIZATION], "Bearer backup");
///     Ok::<_, Infallible>(Response::new(request.into_body()))
/// });
///
/// let service = ServiceBuilder::new()
///     .layer(FallbackLayer::new(backup).name("small-model").rewrite(|request| {
///         let (mut head, body) = request.into_parts();
///         head.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer backup"));
///         let body = String::from_utf8_lossy(&body).replace("large", "small");
///         Request::from_parts(head, body.into())
///     }))
///     .service(primary);
///
/// let request = Request::post("/chat")
///     .header(AUTHORIZATION, "Bearer primary")
///     .body(Full::from("model: large"))
///     .unwrap();
/// let response = service.oneshot(request).await.unwrap();
///
/// assert_eq!(ServedBy::of(&response), Some("small-model"));
/// assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "model: small");
/// # }
/// ```
///
/// # Place in the stack
///
/// Outside of retries, so that it sees what came of all of them, and inside [`DeadlineLayer`](crate::DeadlineLayer),
/// which bounds both upstreams together. Layers nest into a chain: the outermost holds the last resort.
///
/// # What is handed to the backup
///
/// The request as it came to this layer, its body replayed from the first byte, whatever the primary has read of it.
/// Without the caller's credentials, unless [`forward_credentials`](Self::forward_credentials) says so: `Authorization`,
/// `x-api-key`, `api-key`, `x-goog-api-key`, `Proxy-Authorization`, `Cookie`, every field whose value is marked
/// [sensitive](http::HeaderValue::set_sensitive), a user in the URI, and the parameters `key`, `api_key`, `api-key`,
/// `apikey`, `access_token`, `token` and `sig` of the query. URI and `Host` are otherwise the primary's: the backup's
/// service puts its own.
///
/// # What happens when
///
/// - *The primary serves the call, or says that nobody can* (a 400): that is the answer.
/// - *The primary fails* ([`Elsewhere`](crate::verdict::NextStep::TryAnother), or a
///   [`Retry`](crate::verdict::NextStep::Retry) that nobody below made; refusals of our own layers too): the backup is
///   asked, and what it says is the answer if it serves the call.
/// - *The backup fails too*, with whatever answer or error: the primary's answer, or error, is returned. (If that answer
///   came before the request body was sent, the backup has taken the body over, and the connection on which the rest of
///   that answer would come may be gone.)
/// - *The request body is larger than [`replay_limit`](Self::replay_limit)*: it streams on untouched, and there is no
///   fallback.
/// - *The deadline of the call has passed, or the request carries [`NoFallback`](crate::NoFallback)*: there is no fallback.
/// - *The caller drops the future or the body*: so is what is inside, on both sides.
/// - *HEAD, 204, 304, trailers*: as everything else. A request that is rewritten loses its trailers.
/// - *An upgrade*: a 101 stands; a handshake that failed goes elsewhere like any request. CONNECT passes untouched.
///
/// # Cancel safety
///
/// Dropping the future drops both calls and the recording.
///
/// # Errors
///
/// The primary's, unchanged; the backup's is never seen. The primary's type must be an [`Error`](std::error::Error); a
/// [`BoxError`](crate::error::BoxError) is none: put `.map_err(error::BoxedError::new)` between.
///
/// # Cost
///
/// A call that the primary serves: a copy of the request's head, and one allocation for a body that streams. Figures:
/// `benches/README.md`.
pub struct FallbackLayer<Bk> {
    config: Config<Bk>,
}

pub(super) struct Config<Bk> {
    /// `None`: the layer is off. Behind a lock, since services need not be `Sync`, and only clones of it are called.
    backup: Option<Arc<Mutex<Bk>>>,
    pub(super) name: Arc<str>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) forward_credentials: bool,
    pub(super) replay_limit: usize,
    pub(super) classifier: Classifier,
    pub(super) emitter: Emitter,
}

#[derive(Clone)]
pub(super) struct Rewrite(pub(super) Arc<dyn Fn(Request<Bytes>) -> Request<Bytes> + Send + Sync>);

/// The name of this layer in events.
pub(super) const NAME: &str = "fallback";
/// As [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer) has it.
const REPLAY_LIMIT: usize = 2 * 1024 * 1024;

// === impl FallbackLayer ===

impl<Bk> FallbackLayer<Bk> {
    /// Asks `backup` what the primary cannot answer.
    #[must_use]
    pub fn new(backup: Bk) -> Self {
        Self::with(Some(backup))
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(None)
    }

    /// The same layer around another backup, made of a clone of this one's.
    pub(crate) fn map_backup<B2>(&self, map: impl FnOnce(Bk) -> B2) -> FallbackLayer<B2>
    where
        Bk: Clone,
    {
        let backup = self.config.backup().map(|backup| Arc::new(Mutex::new(map(backup))));
        FallbackLayer { config: self.config.with_backup(backup) }
    }

    fn with(backup: Option<Bk>) -> Self {
        Self {
            config: Config {
                backup: backup.map(|backup| Arc::new(Mutex::new(backup))),
                name: "backup".into(),
                rewrite: None,
                forward_credentials: false,
                replay_limit: REPLAY_LIMIT,
                classifier: Classifier::default(),
                emitter: Emitter::default(),
            },
        }
    }

    /// The backup's name, for [`ServedBy`](crate::ServedBy) and events. Default: `backup`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Changes the request for the backup: its model, parameters, credentials. The body is read whole for it, from the
    /// caller too if the primary did not; its `Content-Length` is put right afterwards.
    #[must_use]
    pub fn rewrite(mut self, rewrite: impl Fn(Request<Bytes>) -> Request<Bytes> + Send + Sync + 'static) -> Self {
        self.config.rewrite = Some(Rewrite(Arc::new(rewrite)));
        self
    }

    /// Hands the caller's credentials to the backup. Only where both are the same party. Default: no.
    #[must_use]
    pub fn forward_credentials(mut self, forward: bool) -> Self {
        self.config.forward_credentials = forward;
        self
    }

    /// How much of a request body is kept for the backup. Default: 2 MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// What an answer means. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.config.classifier = Classifier::new(classifier);
        self
    }

    /// Tells `observer` of every call that went elsewhere.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.emitter = Emitter::to(observer);
        self
    }
}

impl<Bk> Clone for FallbackLayer<Bk> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone() }
    }
}

impl<S, Bk> Layer<S> for FallbackLayer<Bk> {
    type Service = Fallback<S, Bk>;

    fn layer(&self, inner: S) -> Self::Service {
        Fallback::new(inner, Arc::new(self.config.clone()))
    }
}

impl<Bk> fmt::Debug for FallbackLayer<Bk> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer").field("config", &self.config).finish()
    }
}

// === impl Config ===

impl<Bk> Config<Bk> {
    pub(super) fn is_on(&self) -> bool {
        self.backup.is_some()
    }

    /// A clone of the backup, not ready yet.
    pub(super) fn backup(&self) -> Option<Bk>
    where
        Bk: Clone,
    {
        self.backup.as_ref().map(|backup| backup.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn with_backup<B2>(&self, backup: Option<Arc<Mutex<B2>>>) -> Config<B2> {
        Config {
            backup,
            name: self.name.clone(),
            rewrite: self.rewrite.clone(),
            forward_credentials: self.forward_credentials,
            replay_limit: self.replay_limit,
            classifier: self.classifier.clone(),
            emitter: self.emitter.clone(),
        }
    }
}

impl<Bk> Clone for Config<Bk> {
    fn clone(&self) -> Self {
        self.with_backup(self.backup.clone())
    }
}

impl<Bk> fmt::Debug for Config<Bk> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("on", &self.is_on())
            .field("name", &self.name)
            .field("rewrites", &self.rewrite.is_some())
            .field("forward_credentials", &self.forward_credentials)
            .field("replay_limit", &self.replay_limit)
            .field("observer", &self.emitter)
            .finish_non_exhaustive()
    }
}
