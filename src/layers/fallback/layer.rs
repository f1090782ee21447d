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
use crate::rt::settings::Settings;

/// Asks a backup what the primary cannot answer: another upstream, another model, another credential.
///
/// A retry is for seconds. When an upstream is down for minutes, out of quota, or silent, another service can still serve
/// the call: this layer sends it the same request, before any byte of an answer went to the caller.
///
/// # When to use it, and when not
///
/// Where there is a second upstream that will do. The request may be executed twice, by two parties: a primary that answered
/// 500, or did not answer in time, may have done its work (and may charge for it). Where that is not acceptable, give the
/// layer a [classifier](Self::classifier) that is stricter.
///
/// **A backup with the operator's credential belongs behind authentication.** While the primary is down, everybody's calls
/// go to the backup, a stranger's too. See [whose account](#on-whose-account-the-backup-serves).
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
/// Outside of retries, so that it sees what came of all of them, and inside [`DeadlineLayer`](crate::DeadlineLayer),
/// which bounds both upstreams together. Layers nest into a chain: the outermost holds the last resort. A backup with a
/// circuit breaker of its own is passed over while its circuit is open.
///
/// # What is sent to the backup
///
/// The request as it came to this layer, its body replayed from the first byte, however much the primary has read of it.
/// The caller's credentials are left out, unless [`forward_credentials`](Self::forward_credentials) is set:
/// `Authorization`, `x-api-key`, `api-key`, `x-goog-api-key`, `Proxy-Authorization`, `Cookie`, every field whose value is
/// marked [sensitive](http::HeaderValue::set_sensitive), OpenAI's key among the protocols of a WebSocket, a user in the URI, and the
/// parameters `key`, `api_key`, `api-key`, `apikey`, `access_token`, `token` and `sig` of the query. URI and `Host` are otherwise the
/// primary's: the backup's service sets its own.
///
/// # On whose account the backup serves
///
/// A caller whose credential the primary refused must not be served with the operator's. So each failure is somebody's
/// [matter](crate::verdict::Matter), and what the caller could provoke goes to the backup only if it is asked with the same
/// credential, or for a caller that is known:
///
/// | Failure | Nothing known | [`Authenticated`](crate::Authenticated) | [`own_credentials`](Self::own_credentials), or forwarded |
/// |---|---|---|---|
/// | the upstream's: a 5xx, a broken connection, a connect timeout | backup | backup | backup |
/// | the request's: a 413; ours: an open circuit, a first-byte timeout | primary's answer | backup | backup |
/// | the credential's: 401, 402, 403, 407, 429 | primary's answer | primary's answer | backup |
///
/// "Forwarded" means that [`forward_credentials`](Self::forward_credentials) is set, the request carries a credential, and
/// the [rewrite](Self::rewrite) has neither replaced it nor added one. A request without any credential is one of which
/// nothing is known. The server's `x-should-retry` changes nothing about it.
///
/// # What happens when
///
/// - *The primary serves the call, or says that nothing can* (a 400): its answer is returned.
/// - *The primary fails* ([`TryAnother`](crate::verdict::NextStep::TryAnother), or a
///   [`Retry`](crate::verdict::NextStep::Retry) that no layer inside made; refusals of our own layers too): the backup is
///   asked, if it may be, and its answer is returned if it serves the call.
/// - *The backup fails too*, with whatever answer or error: the primary's answer, or error, is returned. (If that answer
///   came before the request body was sent, the backup has taken the body over, and the connection on which the rest of
///   that answer would come may be gone.)
/// - *The request body is larger than [`replay_limit`](Self::replay_limit)*: it streams on untouched, and there is no
///   fallback.
/// - *The request is to be [rewritten](Self::rewrite), and the rest of its body takes longer than
///   [`read_timeout`](Self::read_timeout)*: there is no fallback.
/// - *The deadline of the call has passed, or the request carries [`NoFallback`](crate::NoFallback)*: there is no fallback.
/// - *The request is [pinned](crate::PinTo)*: only that upstream is asked. If the backup it is pinned to gives no answer,
///   the caller gets a 502, [`UpstreamFailed`](crate::RejectionKind::UpstreamFailed).
/// - *The caller drops the future or the body*: what is inside is dropped with it, on both sides.
/// - *HEAD, 204, 304, trailers*: as everything else. A request that is rewritten loses its trailers.
/// - *An upgrade*: a 101 is returned; a handshake that failed goes to the backup like any request. CONNECT passes untouched.
///
/// Where the backup could help and is not asked, an [`Event::Bypassed`](crate::Event::Bypassed) says why.
///
/// # Cancel safety
///
/// Dropping the future drops both calls and the recording.
///
/// # Errors
///
/// The primary's, unchanged; the backup's are not returned. The primary's type must be an [`Error`](std::error::Error); a
/// [`BoxError`](crate::error::BoxError) is not one: put `.map_err(error::BoxedError::new)` between.
///
/// # Cost
///
/// A call that the primary serves: a copy of the request's head, and one allocation for a body that streams. Figures:
/// `benches/README.md`.
pub struct FallbackLayer<Bk> {
    config: Settings<Config<Bk>>,
}

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
    pub(crate) fn map_backup<B2>(self, map: impl FnOnce(Bk) -> B2) -> FallbackLayer<B2>
    where
        Bk: Clone,
    {
        let backup = self.config.backup().map(|backup| Arc::new(Mutex::new(map(backup))));
        FallbackLayer { config: Settings::new(self.config.with_backup(backup)) }
    }

    fn with(backup: Option<Bk>) -> Self {
        Self { config: Settings::new(Config::new(backup)) }
    }

    /// The backup's name, for [`ServedBy`](crate::ServedBy), [`PinTo`](crate::PinTo) and events. Default: `backup`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Changes the request for the backup: its model, parameters, credentials. The body is read whole for it, from the
    /// caller too if the primary did not; its `Content-Length` is put right afterwards. The digests and signatures of the
    /// caller's body are kept where the body is the same afterwards.
    #[must_use]
    pub fn rewrite(mut self, rewrite: impl Fn(Request<Bytes>) -> Request<Bytes> + Send + Sync + 'static) -> Self {
        self.config.rewrite = Some(Rewrite(Arc::new(rewrite)));
        self
    }

    /// Sends the caller's credentials to the backup too. Only where both are the same party. Default: no.
    #[must_use]
    pub fn forward_credentials(mut self, forward: bool) -> Self {
        self.config.forward_credentials = forward;
        self
    }

    /// Says that all calls are this application's own: the credential that the primary is asked with is its own, as in a
    /// client, or the backup takes no credential. Then the backup is asked whatever the primary failed with. Default: no.
    ///
    /// Do not set it where callers bring credentials of their own: each whose key was refused, is limited, or has no credit
    /// would be served on the operator's account.
    #[must_use]
    pub fn own_credentials(mut self, own: bool) -> Self {
        self.config.own_credentials = own;
        self
    }

    /// How many bytes of a request body are kept for the backup. Default: 2 MiB.
    #[must_use]
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.config.replay_limit = bytes;
        self
    }

    /// How long a request that is to be [rewritten](Self::rewrite) may take to come to its end, from when the primary has
    /// failed. Then the primary's answer is returned. Default: 30 s.
    #[must_use]
    pub fn read_timeout(mut self, timeout: Duration) -> Self {
        self.config.read_timeout = timeout;
        self
    }

    /// The memory in which the bodies of all calls are counted together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.config.memory = memory;
        self
    }

    /// The classifier, which says what an answer means. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.config.classifier = Classifier::new(classifier);
        self
    }

    /// Tells `observer` of every call that went to the backup, or could have and did not.
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
