use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::config::Config;
use super::service::LastGood;
use super::similar::Similar;
use super::stored::AnswerStore;
use super::template::UnansweredRequest;
use crate::call::{Memory, Tenant, TenantHash};
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::store::SharedLastGood;

/// Returns the last whole answer to the same request when the upstreams give none.
///
/// When a provider is down for an hour, retries and fallbacks are spent, and the caller gets an error. For many requests an
/// answer exists: the one of ten minutes ago. This layer keeps the whole answers of LLM APIs, and returns one, marked as
/// old, in place of an error; a stream is answered by a stream.
///
/// # When to use it, and when not
///
/// Where an old answer is better than none: assistants, suggestions, summaries, classification. Not where the answer must be
/// of now, or where a caller would act on it as if it were.
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
/// *Exactly* the same: tenant, method, host, path, query, the headers that make the answer, those in which applications name
/// a conversation or a user (`x-conversation-id`, `x-session-id`, `x-thread-id`, `x-user-id`,
/// [`fingerprint_header`](Self::fingerprint_header) adds more), and every byte of the body: model, system prompt, earlier
/// turns, tools, schema, `user` and `metadata`.
///
/// *[Normalized](Self::normalized)*: the same, but for how the last message, which must be one text of the user's, opens and
/// ends: the width of its spaces; where it opens with one of the words that put a question or a request in English, the capital
/// of that word, a greeting or a "please" before it, and the mark that goes with it (`?` after "what", `.` after "explain").
/// All other words and marks are the same: elsewhere a capital makes a name (`Polish` nails), and what is polite is perhaps what
/// is asked about. Nothing is done to what may be code, a quotation or a list.
///
/// **No answer is returned to another tenant.** The tenant is the [`Tenant`](crate::Tenant) in the request's extensions;
/// where there is none, the request's credentials; and what the setting [`tenant`](Self::tenant) adds to either. A request
/// without any passes.
///
/// *[Similar](Self::similar)*: opt-in, by an embedder, with guards, and labelled.
///
/// # What is kept
///
/// Answers to a POST to a generation path of a dialect that [`proto::dialect`](crate::proto::dialect) knows: a 200 that is
/// known to be whole, and no error. Where a [`StreamGuardLayer`](crate::StreamGuardLayer) inside has found how the answer
/// [ended](crate::Ending), that counts; else the layer reads the answer itself. An answer that was cut at a limit, filtered or
/// refused is not kept. Nor is one of a request that the server keeps something of: `store`, `conversation`,
/// `previous_response_id`, `background` and the like; Responses without `"store": false`.
///
/// It is kept for an hour ([`ttl`](Self::ttl)) in 64 MiB ([`capacity`](Self::capacity)), of which one tenant has an eighth,
/// without `Set-Cookie` and what belongs to a connection. A newer answer takes the place of the older.
///
/// `Cache-Control` is obeyed. Of the answer: `no-store`, `private` and `no-cache` (but on an event stream, where every server
/// writes it for proxies) keep nothing; `stale-if-error`, `must-revalidate` and `s-maxage` limit the age. Of the request:
/// `no-store` does without the layer, `no-cache` takes nothing that was kept, `max-age` limits the age.
///
/// # When it is returned
///
/// - The upstream failed, or takes no more (5xx, 429, a broken connection), or a layer inside refused (open circuit, queue
///   full, paced, no first byte in time): what came of all retries and fallbacks, before any byte of an answer went out. The
///   [classifier](Self::classifier) decides, by [`Health`](crate::verdict::Health) and [`Matter`](crate::verdict::Matter).
/// - 250 ms before the call's [`Deadline`](crate::Deadline) (a quarter of the time of a short call) when there is no head yet.
///   The call is dropped then.
///
/// Never for what the caller did wrong: 400, 401, 403, 404, 413, 422, a quota that is spent.
///
/// The response says what it is: `Age`, `Cache-Status: buttress; hit; ttl=-600; detail=last-good-exact` (RFC 9211),
/// [`ServedBy`](crate::ServedBy) `last-good`, and [`Stale`](crate::Stale) in its extensions. Neither this layer nor a
/// [`DedupLayer`](crate::DedupLayer) keeps such a response again.
///
/// # Place in the stack
///
/// Outside of fallbacks and retries, so that it sees what came of all of them; inside [`DedupLayer`](crate::DedupLayer) and
/// [`DeadlineLayer`](crate::DeadlineLayer). After authentication, where that is a layer too.
///
/// # What happens when
///
/// - *There is no earlier answer*: the operator's [template](Self::template) is returned; without one, the upstream's answer, or
///   error, as it is.
/// - *The answer breaks off after its first byte*: the caller gets the error; this layer has no part in it.
/// - *An answer longer than [`max_answer`](Self::max_answer)* (1 MiB), or that has trailers or a content encoding: not kept.
/// - *The caller leaves before the end*: not kept.
/// - *The [memory](Self::memory) is spent*: not kept.
/// - *A request body longer than [`max_body_bytes`](Self::max_body_bytes)* (2 MiB), or that takes longer to come than
///   [`read_timeout`](Self::read_timeout) (30 s): it streams on, and the layer does nothing, with an event.
/// - *Other methods and paths, upgrades, [`NoStore`](crate::NoStore)*: they pass untouched.
/// - *The inner service is not ready*: its future waits for it, after the request was read.
///
/// # Cancel safety
///
/// Dropping the future drops the call; dropping the body drops what was recorded.
///
/// # Errors
///
/// The service's own, unchanged. Its type must be an [`Error`](std::error::Error); for a
/// [`BoxError`](crate::error::BoxError), put an [`AnyErrorLayer`](crate::AnyErrorLayer) between.
///
/// # Cost
///
/// For a call whose answer may be kept: its body is read before the upstream is called, and hashed (twice with the normal
/// form); two allocations; a copy of the answer's bytes; one short lock at its end. Without a stream guard inside, the answer
/// is parsed once, at its end. What passes costs a look at the method and the path.
#[derive(Clone, Debug)]
pub struct LastGoodLayer {
    store: Arc<AnswerStore>,
    config: Arc<Config>,
}

/// What all answers may take.
const CAPACITY: usize = 64 * 1024 * 1024;

// === impl LastGoodLayer ===

impl LastGoodLayer {
    /// Keeps answers for an hour in 64 MiB of memory.
    #[must_use]
    pub fn new() -> Self {
        Self { store: Arc::new(AnswerStore::new(CAPACITY)), config: Arc::default() }
    }

    /// A layer of the same type that lets everything pass.
    #[must_use]
    pub fn disabled() -> Self {
        Self { store: Arc::new(AnswerStore::new(0)), config: Arc::new(Config { enabled: false, ..Config::default() }) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Forgets the answers that are kept for a tenant that was [authenticated](Tenant). Returns how many there were.
    ///
    /// A call in flight goes on, and its answer is kept.
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

    /// Forgets all answers that are kept, likewise.
    pub fn forget_all(&self) -> usize {
        self.store.with(|answers| answers.forget(None)).len()
    }

    /// How old an answer may become. Default: an hour.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|config| config.ttl = ttl)
    }

    /// Shares the answers with other processes: one that this process does not have is asked for, when a call has failed,
    /// before a [similar](Self::similar) one or the [template](Self::template). That takes at most half a second, and half of
    /// what is left to the deadline. Shortly before a deadline only what this process has is returned. Where the others cannot
    /// be asked, it is as without this setting. Each answer that is kept is sent to them, behind the call.
    ///
    /// `FleetLastGood` in the crate `tower-buttress-redis` does so over Redis.
    #[must_use]
    pub fn share(self, peers: Arc<dyn SharedLastGood>) -> Self {
        self.with(|config| config.peers = Some(peers))
    }

    /// How many bytes all answers may take; one tenant's an eighth of them. Default: 64 MiB. What was kept before is
    /// forgotten.
    #[must_use]
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.store = Arc::new(AnswerStore::new(bytes));
        self
    }

    /// The longest answer that is kept, in bytes. Default: 1 MiB.
    #[must_use]
    pub fn max_answer(self, bytes: usize) -> Self {
        self.with(|config| config.max_answer = bytes)
    }

    /// Whether a last message that opens in another spelling is the same. Default: yes.
    #[must_use]
    pub fn normalized(self, normalized: bool) -> Self {
        self.with(|config| config.normalized = normalized)
    }

    /// Returns the answer to a request whose last message is similar, where there is none to the same request. Default: off.
    ///
    /// **A similar question may have another answer.** The answer is labelled: [`StaleKind::Similar`](crate::StaleKind), and the
    /// header `x-buttress-similarity`, which a front end should show ("this is an earlier answer to a similar question"). All
    /// else of the two requests is equal, `user` and `metadata` included, and so is what an answer
    /// [hangs on](Similar::agree). Messages of 12 to 4,000 characters, one text of the user's; never where JSON or a call of a
    /// tool is asked for.
    ///
    /// The embedder is asked when an answer has been kept, in the background, and when a call has failed; not before a
    /// deadline, where there is no time. If it fails, there is no similar answer.
    #[must_use]
    pub fn similar(self, similar: Similar) -> Self {
        self.with(|config| config.similar = Some(similar))
    }

    /// Returns a text of the operator's where nothing that was kept will do: "We are at our limit. Your question is not lost."
    /// Default: none.
    ///
    /// It is sent as an answer of the dialect asked, as a stream where one was asked for, and marked as
    /// [`StaleKind::Template`](crate::StaleKind). `None` leaves the failure as it is. Not to a request for JSON, or for a call of
    /// a tool: a program reads that.
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

    /// How long before its deadline a call is answered from memory; at most a quarter of the time that it has. Default: 250 ms.
    #[must_use]
    pub fn reserve(self, reserve: Duration) -> Self {
        self.with(|config| config.reserve = reserve)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_body_bytes = bytes)
    }

    /// How long a request body may take to come. Default: 30 s.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// The memory in which what is held for all calls is counted together: request bodies while they are read, and the answers
    /// that are kept, with their heads and, for [similar](Self::similar) requests, the last message and its vector. Where it is
    /// spent, a new answer takes the place of those whose time is over, and then of its tenant's own oldest. Default: 512 MiB of
    /// the layer's own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// Tells requests apart by this header too.
    #[must_use]
    pub fn fingerprint_header(self, name: HeaderName) -> Self {
        self.with(|config| {
            if !config.headers.contains(&name) {
                config.headers.push(name);
            }
        })
    }

    /// Tells tenants apart by what `tenant` returns, beside their credentials. `None` or an empty name: the request passes. See
    /// [`DedupLayer::tenant`](crate::DedupLayer::tenant).
    #[must_use]
    pub fn tenant<T, F>(self, tenant: F) -> Self
    where
        F: Fn(&Parts) -> Option<T> + Send + Sync + 'static,
        T: AsRef<[u8]>,
    {
        let name = move |parts: &Parts, hand_on: &mut dyn FnMut(&[u8])| {
            if let Some(tenant) = tenant(parts) {
                hand_on(tenant.as_ref());
            }
        };
        self.with(|config| config.tenant = Some(Arc::new(name)))
    }

    /// The classifier, which says what an answer means. Default: [`verdict::Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.with(|config| config.classifier = Classifier::new(classifier))
    }

    /// Tells `observer` of every answer that was returned from memory, and of what the layer could not treat.
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
        LastGood::new(inner, Arc::clone(&self.store), Arc::clone(&self.config))
    }
}
