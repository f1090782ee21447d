use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::config::{Config, Similar};
use super::service::LastGood;
use super::stored::AnswerStore;
use crate::call::{Memory, Tenant, TenantHash};
use crate::event::{Emitter, Observer};
use crate::policy::last_good::template::UnansweredRequest;
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::layer_classifier::LayerClassifier;
use crate::store::SharedLastGood;

/// Returns the last complete answer to the same request when the upstreams give none.
///
/// When a provider is down for an hour, retries and fallbacks are exhausted, and the caller gets an error. For many
/// requests an answer from ten minutes ago exists. This layer stores the complete answers of LLM APIs, and returns one,
/// marked as old, in place of an error; a request for a stream gets a stream.
///
/// # When to use it, and when not
///
/// Where an old answer is better than none: assistants, suggestions, summaries, classification. Not where the answer must
/// be current, or where a caller would act on it as if it were.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_buttress::{LastGoodLayer, Stale, StaleKind};
///
/// static DOWN: AtomicBool = AtomicBool::new(false);
/// let upstream = service_fn(|_: Request<_>| async {
///     let response = Response::builder().header("content-type", "application/json");
///     let (status, body) = match DOWN.load(Ordering::Relaxed) {
///         false => (200, r#"{"choices":[{"index":0,"message":{"content":"Paris"},"finish_reason":"stop"}]}"#),
///         true => (503, "{}"),
///     };
///     Ok::<_, Infallible>(response.status(status).body(Full::<Bytes>::from(body)).unwrap())
/// });
/// let service = LastGoodLayer::new().layer(upstream);
///
/// let ask = |question: &str| {
///     let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{question}"}}]}}"#);
///     let request = Request::post("/v1/chat/completions").header("authorization", "Bearer alice");
///     service.clone().oneshot(request.body(Full::<Bytes>::from(body)).unwrap())
/// };
/// let first = ask("What is the capital of France?").await.unwrap();
/// assert_eq!(Stale::of(&first), None);
/// first.into_body().collect().await.unwrap();
///
/// DOWN.store(true, Ordering::Relaxed);
/// tokio::time::advance(Duration::from_secs(600)).await;
/// let later = ask("what is the capital of France").await.unwrap();
/// assert_eq!(later.status(), 200);
/// assert_eq!(later.headers()["age"], "600");
/// assert_eq!(Stale::of(&later).unwrap().kind, StaleKind::Normalized);
///
/// // Another question has no answer.
/// assert_eq!(ask("What is the capital of Spain?").await.unwrap().status(), 503);
/// # }
/// ```
///
/// # Which requests are the same
///
/// *Exactly* the same: tenant, method, host, path, query, the headers that determine the answer, those that name a
/// conversation or a user (`x-conversation-id`, `x-session-id`, `x-thread-id`, `x-user-id`,
/// [`fingerprint_header`](Self::fingerprint_header) adds more), and every byte of the body: model, system prompt, earlier
/// turns, tools, schema, `user` and `metadata`.
///
/// *[Normalized](Self::normalized)*: the same, except for the opening and end of the last message, which must be one text
/// of the user's. Ignored are the width of its spaces and, if it opens with one of the words that begin an English
/// question or request, the capital of that word, a greeting or a "please" before it, and the mark that belongs to it
/// (`?` after "what", `.` after "explain"). All other words and marks must agree: elsewhere a capital makes a name
/// (`Polish` nails), and a polite word may be the topic. Text that may be code, a quotation or a list is not normalized.
///
/// **The layer never returns an answer to another tenant.** The tenant is the [`Tenant`](crate::Tenant) in the request's
/// extensions, or else the request's credentials; the setting [`tenant`](Self::tenant) adds to either. A request without
/// a tenant passes.
///
/// *[Similar](Self::similar)*: opt-in, by an embedder, with guards, and labelled.
///
/// # What is stored
///
/// Answers to a POST to a generation path of a dialect that [`proto::dialect`](crate::proto::dialect) knows: a 200 that
/// is complete and no error. If a [`StreamGuardLayer`](crate::StreamGuardLayer) inside has found how the answer
/// [ended](crate::Ending), that counts; else the layer reads the answer itself. It does not store an answer that was cut
/// at a limit, filtered or refused. Nor an answer to a request that stores state at the server: `store`, `conversation`,
/// `previous_response_id`, `background` and the like; Responses without `"store": false`.
///
/// An answer is stored for an hour ([`ttl`](Self::ttl)) in 64 MiB ([`capacity`](Self::capacity)), of which one tenant
/// gets an eighth, without `Set-Cookie` and hop-by-hop headers. A newer answer replaces an older one.
///
/// The layer obeys `Cache-Control`. Of the answer: `no-store`, `private` and `no-cache` (except on an event stream, where
/// every server writes it for proxies) prevent storing; `stale-if-error`, `must-revalidate` and `s-maxage` limit the age.
/// Of the request: `no-store` bypasses the layer, `no-cache` ignores stored answers, `max-age` limits the age.
///
/// # When it is returned
///
/// - The upstream failed or is overloaded (5xx, 429, a broken connection), or a layer inside refused (open circuit, queue
///   full, paced, no first byte in time): after all retries and fallbacks, before any byte of an answer was forwarded.
///   The [classifier](Self::classifier) decides, by [`Health`](crate::verdict::Health) and
///   [`Matter`](crate::verdict::Matter).
/// - 250 ms before the call's [`Deadline`](crate::Deadline) (a quarter of the time of a short call) if there is no head
///   yet. The layer then drops the call.
///
/// Never for a fault of the caller: 400, 401, 403, 404, 413, 422, a spent quota.
///
/// The response is marked: `Age`, `Cache-Status: buttress; hit; ttl=-600; detail=last-good-exact` (RFC 9211),
/// [`ServedBy`](crate::ServedBy) `last-good`, and [`Stale`](crate::Stale) in its extensions. Neither this layer nor a
/// [`DedupLayer`](crate::DedupLayer) stores such a response again.
///
/// # Place in the stack
///
/// Outside fallbacks and retries, so that it sees their final result; inside [`DedupLayer`](crate::DedupLayer) and
/// [`DeadlineLayer`](crate::DeadlineLayer). After authentication, if that is a layer too.
///
/// # What happens when
///
/// - *There is no earlier answer*: the layer returns the operator's [template](Self::template); without one, the
///   upstream's answer, or error, unchanged.
/// - *The answer breaks off after its first byte*: the caller gets the error; this layer does nothing.
/// - *An answer is longer than [`max_answer`](Self::max_answer)* (1 MiB), or has trailers or a content encoding: not
///   stored.
/// - *The caller leaves before the end*: not stored.
/// - *The [memory](Self::memory) is spent*: not stored.
/// - *A request body is longer than [`max_body_bytes`](Self::max_body_bytes)* (2 MiB), or takes longer than
///   [`read_timeout`](Self::read_timeout) (30 s): it streams on without the layer, with an event.
/// - *Other methods and paths, upgrades, [`NoStore`](crate::NoStore)*: they pass untouched.
/// - *The inner service is not ready*: the layer reads the request, then the future waits for readiness.
///
/// # Cancel safety
///
/// Dropping the future drops the call; dropping the body drops the recording.
///
/// # Errors
///
/// The service's own, unchanged. Its type must be an [`Error`](std::error::Error); for a
/// [`BoxError`](crate::error::BoxError), put an [`AnyErrorLayer`](crate::AnyErrorLayer) between.
///
/// # Cost
///
/// A call whose answer may be stored: the layer reads and hashes its body before it calls the upstream (two hashes with
/// the normal form); two allocations; a copy of the answer's bytes; one short lock at its end. Without a stream guard
/// inside, the layer parses the answer once, at its end. Other calls cost a look at the method and the path.
#[derive(Clone, Debug)]
pub struct LastGoodLayer {
    store: Arc<AnswerStore>,
    config: Arc<Config>,
}

/// The limit for all answers together.
const CAPACITY: usize = 64 * 1024 * 1024;

// === impl LastGoodLayer ===

impl LastGoodLayer {
    /// Stores answers for an hour in 64 MiB of memory.
    #[must_use]
    pub fn new() -> Self {
        Self { store: Arc::new(AnswerStore::new(CAPACITY)), config: Arc::default() }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { store: Arc::new(AnswerStore::new(0)), config: Arc::new(Config { enabled: false, ..Config::default() }) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Removes the stored answers of an [authenticated](Tenant) tenant. Returns their number.
    ///
    /// A call in flight continues, and its answer is stored.
    ///
    /// ```
    /// use tower_buttress::{LastGoodLayer, Tenant};
    ///
    /// let layer = LastGoodLayer::new();
    /// assert_eq!(layer.forget(&Tenant::new("acme")), 0);
    /// ```
    pub fn forget(&self, tenant: &Tenant) -> usize {
        self.store.with(|answers| answers.forget(Some(TenantHash::of(tenant)))).len()
    }

    /// Removes all stored answers, in the same way.
    pub fn forget_all(&self) -> usize {
        self.store.with(|answers| answers.forget(None)).len()
    }

    /// The highest age of an answer. Default: 1 hour.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|config| config.ttl = ttl)
    }

    /// Shares the answers with other processes. When a call has failed and this process has no answer, the layer asks the
    /// others, before a [similar](Self::similar) answer or the [template](Self::template), for at most 0.5 s and half of
    /// the time to the deadline. Shortly before a deadline it returns only answers of this process. If the others cannot
    /// be reached, it works as without this setting. It sends each stored answer to them after the call.
    ///
    /// `FleetLastGood` in the crate `tower-buttress-redis` does so over Redis.
    #[must_use]
    pub fn share(self, peers: Arc<dyn SharedLastGood>) -> Self {
        self.with(|config| config.peers = Some(peers))
    }

    /// The bytes for all answers; one tenant gets an eighth of them. Default: 64 MiB. Setting it drops the stored
    /// answers.
    #[must_use]
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.store = Arc::new(AnswerStore::new(bytes));
        self
    }

    /// The longest answer that is stored, in bytes. Default: 1 MiB.
    #[must_use]
    pub fn max_answer(self, bytes: usize) -> Self {
        self.with(|config| config.max_answer = bytes)
    }

    /// Whether last messages that differ only in the spelling of their opening are the same. Default: yes.
    #[must_use]
    pub fn normalized(self, normalized: bool) -> Self {
        self.with(|config| config.normalized = normalized)
    }

    /// Returns the answer to a request with a similar last message, if there is none to the same request. Default: off.
    ///
    /// **A similar question may have another answer.** The answer is labelled: [`StaleKind::Similar`](crate::StaleKind),
    /// and the header `x-buttress-similarity`, which a front end should show ("this is an earlier answer to a similar
    /// question"). Everything else in the two requests is equal, also `user` and `metadata`, and the words on which an
    /// answer [depends](Similar::agree). Messages have 12 to 4,000 characters, in one text of the user's; never for
    /// requests for JSON or a tool call.
    ///
    /// The layer calls the embedder in the background after it has stored an answer, and when a call has failed; not
    /// shortly before a deadline. If the embedder fails, there is no similar answer.
    #[must_use]
    pub fn similar(self, similar: Similar) -> Self {
        self.with(|config| config.similar = Some(similar))
    }

    /// Returns a text of the operator's if no stored answer fits: "We are at our limit. Your question is not lost."
    /// Default: none.
    ///
    /// The layer sends it as an answer of the request's dialect, as a stream if the request asked for one, and marks it
    /// as [`StaleKind::Template`](crate::StaleKind). `None` leaves the failure unchanged. Never for a request for JSON or
    /// a tool call, whose answer a program reads.
    ///
    /// ```
    /// use tower_buttress::LastGoodLayer;
    ///
    /// let layer = LastGoodLayer::new().template(|request| match request.model().as_deref() {
    ///     Some("support-bot") => Some("I cannot answer at the moment. Please write to support@example.com.".to_owned()),
    ///     _ => None,
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn template(self, template: impl Fn(&UnansweredRequest) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.template = Some(Arc::new(template)))
    }

    /// How long before its deadline the layer answers a call from memory; at most a quarter of the call's time. Default:
    /// 250 ms.
    #[must_use]
    pub fn reserve(self, reserve: Duration) -> Self {
        self.with(|config| config.reserve = reserve)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_body_bytes = bytes)
    }

    /// How long a request body may take to arrive. Default: 30 s.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// The memory that counts the data of all calls together: request bodies while they are read, and the stored answers,
    /// with their heads and, for [similar](Self::similar) requests, the last message and its vector. When it is spent, a
    /// new answer replaces expired answers, and then its tenant's own oldest. Default: 512 MiB of the layer's own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// Distinguishes requests by this header too.
    #[must_use]
    pub fn fingerprint_header(self, name: HeaderName) -> Self {
        self.with(|config| {
            if !config.headers.contains(&name) {
                config.headers.push(name);
            }
        })
    }

    /// Distinguishes tenants by the result of `tenant` too, beside their credentials. `None` or an empty name: the
    /// request passes. See [`DedupLayer::tenant`](crate::DedupLayer::tenant).
    #[must_use]
    pub fn tenant<T, F>(self, tenant: F) -> Self
    where
        F: Fn(&Parts) -> Option<T> + Send + Sync + 'static,
        T: AsRef<[u8]>,
    {
        let name = move |parts: &Parts, sink: &mut dyn FnMut(&[u8])| {
            if let Some(tenant) = tenant(parts) {
                sink(tenant.as_ref());
            }
        };
        self.with(|config| config.tenant = Some(Arc::new(name)))
    }

    /// Sets the classifier, which judges answers. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.with(|config| config.classifier = LayerClassifier::own(classifier))
    }

    /// Takes the classifier of the stack, if it has none of its own.
    pub(crate) fn or_classifier(self, of_stack: &Classifier) -> Self {
        self.with(|config| config.classifier.adopt(of_stack))
    }

    /// Reports answers from memory, and requests and answers that the layer could not handle, to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|config| config.emitter = Emitter::to(observer))
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

impl Default for LastGoodLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for LastGoodLayer {
    type Service = LastGood<S>;

    fn layer(&self, inner: S) -> Self::Service {
        LastGood::new(inner, (Arc::clone(&self.store), Arc::clone(&self.config)))
    }
}
