use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tower_layer::Layer;

use super::config::{Config, Rewrite};
use super::service::Fallback;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::layer_classifier::LayerClassifier;
use crate::rt::settings::LayerSettings;

/// Asks a backup when the primary cannot answer: another upstream, another model, another credential.
///
/// Retries bridge seconds. When an upstream is down for minutes, out of quota, or silent, another service can still serve
/// the call: this layer sends it the same request, before any byte of an answer went to the caller.
///
/// # When to use it, and when not
///
/// Where a second upstream is good enough. Both upstreams may execute the request: a primary that answered 500, or did
/// not answer in time, may have done its work (and may charge for it). If that is not acceptable, give the layer a
/// stricter [classifier](Self::classifier).
///
/// **Put a backup with the operator's credential behind authentication.** While the primary is down, all calls go to the
/// backup, also those of strangers. See [whose account](#on-whose-account-the-backup-serves).
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
///     // The caller's credential stays with the primary.
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
/// Outside retries, so that it sees their final result, and inside [`DeadlineLayer`](crate::DeadlineLayer), which bounds
/// both upstreams together. Layers nest into a chain: the outermost holds the last resort. A backup with its own circuit
/// breaker is skipped while its circuit is open.
///
/// # What is sent to the backup
///
/// The request as this layer received it, its body replayed from the first byte. The layer removes the caller's
/// credentials, and all else that [`withhold`](crate::proto::credentials::withhold) knows by its name as a secret, unless
/// [`forward_credentials`](Self::forward_credentials) is set. A field that only the backup needs, such as the key of a gateway that
/// both upstreams share, is set by the backup's service, as URI and `Host` are, which remain
/// the primary's: the backup's service sets its own.
///
/// # On whose account the backup serves
///
/// A caller whose credential the primary refused must not be served on the operator's account. So each failure has a
/// cause ([`Matter`](crate::verdict::Matter)). A failure that the caller could provoke goes to the backup only with the
/// same credential, or for an authenticated caller:
///
/// | Failure of | Caller unknown | [`Authenticated`](crate::Authenticated) | [`own_credentials`](Self::own_credentials), or forwarded |
/// |---|---|---|---|
/// | the upstream: a 5xx, a broken connection, a connect timeout | backup | backup | backup |
/// | the request: a 413; a layer of this crate: an open circuit, a first-byte timeout | primary's answer | backup | backup |
/// | the credential: 401, 402, 403, 407, 429 | primary's answer | primary's answer | backup |
///
/// "Forwarded" means that [`forward_credentials`](Self::forward_credentials) is set, the request carries a credential,
/// and the [rewrite](Self::rewrite) has neither replaced it nor added one. A request without a credential comes from an
/// unknown caller. The server's `x-should-retry` does not change the table.
///
/// A 408, 409 or 425 counts as the upstream's failure, and a stranger can provoke one too: a 408 with a slow upload. So a
/// backup with the operator's credential belongs behind authentication.
///
/// # What happens when
///
/// - *The primary serves the call, or its answer says that no upstream can* (a 400): the layer returns its answer.
/// - *The primary fails* ([`TryAnother`](crate::verdict::NextStep::TryAnother), or a
///   [`Retry`](crate::verdict::NextStep::Retry) that no layer inside made; also refusals of this crate's layers): the
///   layer asks the backup, if the table allows it, and returns its answer if the backup serves the call.
/// - *The backup fails too*: the layer returns the primary's answer, or error. (If that answer came before the request
///   body was sent, the backup has taken the body over, and the primary's connection may close before the rest of the
///   answer.)
/// - *The request body is larger than [`replay_limit`](Self::replay_limit)*: it streams on untouched, and there is no
///   fallback.
/// - *The request is to be [rewritten](Self::rewrite), and the rest of its body takes longer than
///   [`read_timeout`](Self::read_timeout)*: there is no fallback.
/// - *The deadline of the call has passed, or the request carries [`NoFallback`](crate::NoFallback)*: there is no
///   fallback.
/// - *The request is [pinned](crate::PinTo)*: the layer asks only that upstream. If the request is pinned to the backup
///   and it gives no answer, the caller gets a 502, [`UpstreamFailed`](crate::RejectionKind::UpstreamFailed).
/// - *The caller drops the future or the body*: the layer drops both upstream calls.
/// - *HEAD, 204, 304, trailers*: as everything else. A rewritten request loses its trailers.
/// - *An upgrade*: a 101 is returned; a failed handshake goes to the backup like any request. CONNECT passes untouched.
///
/// If the backup could help and is not asked, an [`Event::Bypassed`](crate::Event::Bypassed) says why.
///
/// # Cancel safety
///
/// Dropping the future drops both calls and the recording.
///
/// # Errors
///
/// The primary's, unchanged; never the backup's. The primary's error type must be an [`Error`](std::error::Error); for a
/// [`BoxError`](crate::error::BoxError), which is not, put `.map_err(error::BoxedError::new)` between.
///
/// # Cost
///
/// A call that the primary serves: a copy of the request's head, and one allocation for a body that streams. Figures:
/// `benches/README.md`.
pub struct FallbackLayer<Bk> {
    config: LayerSettings<Config<Bk>>,
}

// === impl FallbackLayer ===

impl<Bk> FallbackLayer<Bk> {
    /// Asks `backup` when the primary cannot answer.
    #[must_use]
    pub fn new(backup: Bk) -> Self {
        Self::with(Some(backup))
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(None)
    }

    /// Returns the same layer with another backup, made from a clone of this one's.
    pub(crate) fn map_backup<B2>(self, map: impl FnOnce(Bk) -> B2) -> FallbackLayer<B2>
    where
        Bk: Clone,
    {
        let backup = self.config.backup().map(|backup| Arc::new(Mutex::new(map(backup))));
        FallbackLayer { config: LayerSettings::new(self.config.with_backup(backup)) }
    }

    fn with(backup: Option<Bk>) -> Self {
        Self { config: LayerSettings::new(Config::new(backup)) }
    }

    /// The backup's name, for [`ServedBy`](crate::ServedBy), [`PinTo`](crate::PinTo) and events. Default: `backup`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Changes the request for the backup: its model, parameters, credentials. The layer reads the body to its end for
    /// it, from the caller too if the primary did not, and corrects `Content-Length` afterwards. Digests and signatures
    /// of the caller's body stay if the body is unchanged.
    #[must_use]
    pub fn rewrite(mut self, rewrite: impl Fn(Request<Bytes>) -> Request<Bytes> + Send + Sync + 'static) -> Self {
        self.config.rewrite = Some(Rewrite(Arc::new(rewrite)));
        self
    }

    /// Sends the caller's credentials to the backup too. Only if the same party runs both upstreams. Default: no.
    #[must_use]
    pub fn forward_credentials(mut self, forward: bool) -> Self {
        self.config.forward_credentials = forward;
        self
    }

    /// Declares that all calls are this application's own: the primary's credential is its own, as in a client, or the
    /// backup takes no credential. The layer then asks the backup whatever the failure was. Default: no.
    ///
    /// Do not set it if callers bring their own credentials: a caller whose key was refused, is limited, or has no credit
    /// would be served on the operator's account.
    #[must_use]
    pub fn own_credentials(mut self, own: bool) -> Self {
        self.config.own_credentials = own;
        self
    }

    /// The number of bytes of a request body that are kept for the backup. Default: 2 MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// How long the rest of a request that is to be [rewritten](Self::rewrite) may take, from when the primary has
    /// failed. After that the layer returns the primary's answer. Default: 30 s.
    #[must_use]
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.config.read_timeout = timeout;
        self
    }

    /// The memory that counts the bodies of all calls together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// Sets the classifier, which judges answers. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.config.classifier = LayerClassifier::own(classifier);
        self
    }

    /// Takes the classifier of the stack, if it has none of its own.
    pub(crate) fn or_classifier(mut self, of_stack: &Classifier) -> Self {
        if !of_stack.is_standard() {
            // For the services that are made from now on.
            let settings = &mut *self.config;
            settings.classifier.adopt(of_stack);
        }
        self
    }

    /// Reports calls that went to the backup, or could have and did not, to `observer`.
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
        Fallback::new(inner, self.config.for_service())
    }
}

impl<Bk> fmt::Debug for FallbackLayer<Bk> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FallbackLayer").field("config", &self.config).finish()
    }
}
