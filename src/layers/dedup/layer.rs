use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::config::{Config, InFlightPolicy};
use super::service::Dedup;
use crate::call::{Memory, Tenant, TenantHash};
use crate::event::{Emitter, Observer};
use crate::store::MemoryStore;
use crate::store::answers::{Resumable, ResumableAnswers};

/// Makes one upstream call for duplicate requests, streams included.
///
/// Users click twice, browsers retry after a timeout, networks deliver twice. A model provider bills each copy, and
/// returns two different answers. With this layer the second request *joins* the first one's call: it gets the same head
/// and every frame from the first byte, the recorded part at once, then live. After its end the answer is *replayed* for
/// a while to identical requests.
///
/// # When to use it, and when not
///
/// On the server's side of the callers, before calls that are expensive or must not be executed twice. Not where the same
/// request should get two different answers: such a request sends `Cache-Control: no-cache` ("regenerate"), or turn off
/// recognition by content ([`fingerprints(false)`](Self::fingerprints)). It is no cache: after 2 s, or 60 s for a key,
/// the layer calls the upstream again.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{DedupLayer, DedupRole};
///
/// // An upstream that takes a second and never gives the same answer twice.
/// static CALLS: AtomicU32 = AtomicU32::new(0);
/// let upstream = service_fn(|_: Request<_>| async {
///     tokio::time::sleep(Duration::from_secs(1)).await;
///     let answer = format!("answer {}", CALLS.fetch_add(1, Ordering::Relaxed));
///     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(answer)))
/// });
/// let service = ServiceBuilder::new().layer(DedupLayer::new()).service(upstream);
///
/// let click = || {
///     let request = Request::post("/chat").header("authorization", "Bearer alice").body(Full::<Bytes>::from("hello"));
///     service.clone().oneshot(request.unwrap())
/// };
/// let (first, second) = tokio::join!(click(), click());
/// let (first, second) = (first.unwrap(), second.unwrap());
/// assert_eq!(second.extensions().get(), Some(&DedupRole::Joined));
/// assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "answer 0");
/// assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "answer 0");
///
/// let third = click().await.unwrap();
/// assert_eq!(third.headers()["idempotent-replayed"], "true");
/// assert_eq!(third.into_body().collect().await.unwrap().to_bytes(), "answer 0");
/// # }
/// ```
///
/// # Which requests are the same
///
/// Requests with the same `Idempotency-Key` (quoted or bare, at most 255 characters), for any unsafe method; if their
/// payloads differ, the layer refuses the later one with a 422. Without a key, for POST only, requests with the same
/// SHA-256 over everything that determines the answer: the body, and headers that distinguish requests
/// ([`fingerprint_header`](Self::fingerprint_header) adds one). Both are bound to tenant, method, host, path and query,
/// each field with its length before it, so two different requests never hash the same input.
///
/// **The layer never returns an answer to another tenant.** The tenant is the [`Tenant`](crate::Tenant) in the request's
/// extensions, set by the layer that authenticated the caller, or else the request's credentials; the setting
/// [`tenant`](Self::tenant) adds to either. A request without a tenant passes without dedup.
///
/// # What is stored, and for how long
///
/// | Answer | With an `Idempotency-Key` | Without |
/// |---|---|---|
/// | 2xx | for the [`window`](Self::window) (60 s), never evicted | 2 s, the double click; for the window if the request is [`stateless`](Self::stateless) |
/// | 400, 422, unless with `x-should-retry: true` | for the window, as long as there is room | no |
/// | any other, and refusals of this crate | no: the key is free again | no |
///
/// The layer stores only answers that are known to be complete: by their `Content-Length`, their gRPC status, or a format
/// that marks its end. The end of an event stream (or of newline-delimited JSON) proves nothing, nor does its length: the
/// layer stores it only if a `StreamGuardLayer` (feature `llm`) inside has seen the model end its answer. Without that
/// layer, or if the answer broke off, contained an error, or ended for an unknown reason, callers share it while it is in
/// flight, and it is not stored. Without a key, an answer that the model refused or a filter blocked is not stored
/// either.
///
/// # Place in the stack
///
/// Outside fallbacks and retries, so that a shared call includes all of them. Inside
/// [`DeadlineLayer`](crate::DeadlineLayer), whose deadline is each caller's own: below this layer the latest deadline of
/// all callers applies. After authentication, if that is a layer too.
///
/// All services of a layer and its clones share their answers, and distinguish upstreams by host and path only: they must
/// lead to the same upstreams. If a router strips a prefix off the path before the layer, two routes look the same: give
/// each its own layer.
///
/// # What happens when
///
/// - *The first caller leaves*: the other callers continue reading.
/// - *All have left*: the call continues for [`grace`](Self::grace) (5 s), since browsers retry; an identical request in
///   that time takes the call over. After it, or at the call's deadline, the layer drops the upstream call. With
///   [`finish_abandoned`](Self::finish_abandoned) the call continues to its end, or its deadline.
/// - *The call fails before its head*: the first caller gets its error, the others a 502 that carries a
///   [`Rejection`](crate::Rejection). *In the body*: all callers get the error, where the body broke off.
/// - *The upstream panics*: the caller whose task polled it panics; for the others the call failed.
/// - *An answer is longer than [`max_response`](Self::max_response)* (1 MiB): its readers continue together, at the pace
///   of the slowest; no other caller can join. A caller that does not read for [`lag`](Self::lag) while another waits for
///   it fails with [`DedupLagged`](crate::error::DedupLagged). When all have left there is no grace. The key stays taken
///   until the answer has ended.
/// - *A caller has much more time* than the latest deadline sent upstream (in a deadline header, whichever layer writes
///   it): more than twice as much plus 10 s. It does not join that call, but makes its own. With a key it always joins.
/// - *Any caller that has read everything so far polls the upstream call*: it may run inside another caller's task, whose
///   task-locals and spans apply.
/// - *The inner service is not ready*: the layer still reads and claims requests. Only the request that makes a call
///   waits for readiness, inside the shared call.
/// - *The store is full*, or has no room left for this tenant: the call passes without dedup, with an event. With
///   [`strict_keys`](Self::strict_keys) the layer refuses a request with a key with a 503, also if the store fails.
/// - *A request body is longer than [`max_body_bytes`](Self::max_body_bytes)* (2 MiB), or takes longer than
///   [`read_timeout`](Self::read_timeout) (30 s): it streams on without dedup, with an event.
/// - *A request with a key passes without dedup* for one of these reasons: its response has the header
///   `idempotency-key-ignored`: `store-full`, `body-too-large` or `body-too-slow`.
/// - *Other methods without a key, upgrades, `Cache-Control: no-cache`, [`NoStore`](crate::NoStore)*: they pass
///   untouched.
/// - *Callers that were cut off*: they can come back, if that is [set](Self::resumable).
/// - *Replays*: status, headers, frames and trailers as the upstream sent them, without `Set-Cookie` and hop-by-hop
///   headers; [`ServedBy`](crate::ServedBy) and [`Attempts`](crate::Attempts) are those of the original call; the layer
///   adds `Idempotent-Replayed: true` and `Age`.
///
/// # Cancel safety
///
/// Dropping the future or the body leaves the call to the other callers.
///
/// # Errors
///
/// The service's own, to the request that made the call. The body's error is a [`BoxError`](crate::error::BoxError);
/// [`error::find`](crate::error::find) finds the original error of the shared call in it.
///
/// # Cost
///
/// A request that may be recognised: the layer reads and hashes its body before it calls the upstream; one store look-up;
/// one allocation for the call; a short lock at every frame. Callers share frames; only short frames are copied, once,
/// into blocks. The layer spawns one task when the last caller leaves, for the grace. Other requests cost a look at the
/// method and the headers. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct DedupLayer<St = MemoryStore> {
    store: St,
    config: Arc<Config>,
}

// === impl DedupLayer ===

impl DedupLayer {
    /// Stores answers in 64 MiB of memory.
    #[must_use]
    pub fn new() -> Self {
        Self { store: MemoryStore::default(), config: Arc::default() }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { store: MemoryStore::new(0, 0), config: Arc::new(Config { enabled: false, ..Config::default() }) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Removes the stored answers of an [authenticated](Tenant) tenant, also those that callers could come back to.
    /// Returns their number.
    ///
    /// A call in flight continues, and its answer is stored.
    ///
    /// ```
    /// use tower_buttress::{DedupLayer, Tenant};
    ///
    /// let layer = DedupLayer::new();
    /// assert_eq!(layer.forget(&Tenant::new("acme")), 0);
    /// ```
    pub fn forget(&self, tenant: &Tenant) -> usize {
        self.store.forget(tenant) + self.forget_offered(Some(TenantHash::of(tenant)))
    }

    /// Removes all stored answers, in the same way.
    pub fn forget_all(&self) -> usize {
        self.store.forget_all() + self.forget_offered(None)
    }

    fn forget_offered(&self, owner: Option<TenantHash>) -> usize {
        self.config.answers.as_ref().map_or(0, |answers| answers.forget(owner))
    }
}

impl Default for DedupLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<St> DedupLayer<St> {
    /// Uses another store. Layers with the same store share its answers: they must call the same upstreams.
    #[must_use]
    pub fn store<Other>(self, store: Other) -> DedupLayer<Other> {
        DedupLayer { store, config: self.config }
    }

    /// How long a complete answer is replayed: to a request with an `Idempotency-Key`, and to a
    /// [`stateless`](Self::stateless) one. Default: 60 s.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        self.with(|config| config.window = window)
    }

    /// How long a complete answer is replayed to a request without a key. Default: 2 s, the time of a double click: later
    /// the user may mean the same words again. Never longer than the [`window`](Self::window).
    #[must_use]
    pub fn fingerprint_window(self, window: Duration) -> Self {
        self.with(|config| config.fingerprint_window = window)
    }

    /// Selects requests, by head and body, that change no state at the upstream. Their answers are replayed for the whole
    /// [`window`](Self::window) also without a key. Default: none.
    ///
    /// A chat completion is stateless: its body has the whole conversation. A request that continues a conversation that
    /// the server stores is not: the same words twice are two turns.
    ///
    /// The layer calls it once per upstream call, with at most [`max_body_bytes`](Self::max_body_bytes).
    #[must_use]
    pub fn stateless(self, stateless: impl Fn(&Parts, &[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.stateless = Some(Arc::new(stateless)))
    }

    /// Lets callers that were cut off come back to their answer, in flight or complete, and to answers that take long.
    /// Default: no.
    ///
    /// # What a caller does
    ///
    /// It sends its request with an `Idempotency-Key`. If the answer is an event stream, its head has a
    /// `Content-Location`, and its events have ids. After a break, the caller sends a `GET` to that URL with its
    /// `Last-Event-ID`, or `?last_event_id=`, and reads the rest: the recorded part at once, then live.
    /// `examples/resumable.mjs` is a ten-line client around `fetch`, `examples/resumable.rs` a client in Rust; a
    /// browser's `EventSource` at that URL does it by itself.
    ///
    /// | At that URL | Answer |
    /// |---|---|
    /// | `GET` | 200: the event stream after that event; without an id, all of it |
    /// | `GET`, and nothing is left of a complete stream | 204: an `EventSource` stops |
    /// | `GET`, with an id that this stream does not have | 412, [`EventIdUnknown`](crate::RejectionKind::EventIdUnknown) |
    /// | `GET`, and the answer does not exist (any more), or only its error is left | 410, [`AnswerGone`](crate::RejectionKind::AnswerGone) |
    /// | `HEAD` | the head that a `GET` returns; `Range` and conditions are not applied |
    /// | `DELETE` | 204: the layer stops the call for all its readers, and removes its answer |
    ///
    /// **Coming back sends nothing to the upstream.** The layer answers only at `<prefix>/<token>`: other `DELETE`
    /// requests pass.
    ///
    /// # Who may read
    ///
    /// Every caller that has the URL: its token is 128 random bits, and an `EventSource` can send no credential. The
    /// layer stores only a hash of it. Up to 16 callers of one answer get a token of their own; callers that join later
    /// get the answer without a URL. If a request there has a credential, or the extension [`Tenant`](crate::Tenant), it
    /// must be of the same tenant; any other gets a 410. Only the first caller gets `Set-Cookie`.
    ///
    /// # What happens when
    ///
    /// - *The last caller leaves*: the call continues for the [`window`](Resumable::window) (5 minutes), or to its
    ///   deadline, in place of the [`grace`](Self::grace). A tenant has 8 such calls at a time, all tenants together 256
    ///   ([`unattended`](Resumable::unattended), or an [adjustable limit](Resumable::unattended_total)); beyond that,
    ///   leaving ends a call as without this setting. Tenants without a 2xx so far, and without a
    ///   [`Tenant`](crate::Tenant) in the extensions, share one tenant's limits, here and below.
    /// - *A 202 promised the answer*: the call keeps one of these places to its end. Callers that read its answer and
    ///   leave again do not change that; each visit extends the call by another window.
    /// - *A caller comes back*: it reads until the deadline of the call, whatever its own deadline is, and does not
    ///   extend it.
    /// - *A newer message replaces the call's own message* (a [`SupersedeLayer`](crate::SupersedeLayer) outside), also
    ///   after a 202: the call ends for that caller, and ends completely if no caller with a message of another
    ///   conversation reads, or may come back. A complete answer stays readable. A reader at another process reads the
    ///   answer to its end.
    /// - *The call ends*: its answer stays readable for the window. If it broke off, readers get the part before the
    ///   break, and the error.
    /// - *The answer is longer than [`max_response`](Resumable::max_response)* (8 MiB), or the memory for it is spent:
    ///   its current readers continue; for others it is gone.
    /// - *A tenant has 2,048 answers to come back to, or all tenants have 16,384*: the next answer gets no
    ///   `Content-Location`, until a window has passed.
    /// - *The dialect has no event ids* (Gemini's): a caller that comes back reads from the beginning.
    /// - *The upstream's stream has ids*: the layer replaces them by its own, and the upstream never sees those.
    /// - *Comments*: pass, without the blank line after them, from which clients that know an id would make an empty
    ///   event.
    /// - *A `SseHeartbeatLayer` outside has sent the head early*: the caller gets no URL.
    /// - *Several processes*: with a [store](Self::store) that shares answers, such as `RedisStore` of the crate
    ///   `tower-buttress-redis`, all of this works at any process, while the process that makes the call lives. Without
    ///   such a store, an answer is only at its own process. A request that joins the call of another process gets no
    ///   URL: it joins again by repeating the request.
    ///
    /// # Answers later
    ///
    /// With [`respond_async`](Resumable::respond_async), a request with `Prefer: respond-async, wait=10` (1 to 60 s; 1 s
    /// by default) that has no answer by then gets a 202 with the URL in `Location`, a `Retry-After`, and
    /// `Preference-Applied`. It needs no key. The answer, a success or not, will be there for the window: a `GET` waits
    /// for it, or with the same preference gets another 202. The layer removes the preference from the upstream request.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
    /// use std::convert::Infallible;
    /// use std::time::Duration;
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_buttress::{DedupLayer, Resumable};
    ///
    /// let upstream = service_fn(|_: Request<_>| async {
    ///     tokio::time::sleep(Duration::from_secs(30)).await;
    ///     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("a long answer")))
    /// });
    /// let resumable = Resumable::at("/answers").respond_async(true);
    /// let service = ServiceBuilder::new().layer(DedupLayer::new().resumable(resumable)).service(upstream);
    ///
    /// let ask = Request::post("/chat").header("authorization", "Bearer a").header("prefer", "respond-async, wait=5");
    /// let response = service.clone().oneshot(ask.body(Full::<Bytes>::from("hello")).unwrap()).await.unwrap();
    /// assert_eq!(response.status(), 202);
    ///
    /// let location = response.headers()["location"].to_str().unwrap();
    /// let answer = service.oneshot(Request::get(location).body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    /// assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "a long answer");
    /// # }
    /// ```
    ///
    /// # Set again
    ///
    /// On a layer that is already resumable, new settings apply to later calls. Existing answers stay, each for its own
    /// window, and clones of both layers find them.
    #[must_use]
    pub fn resumable(self, resumable: Resumable) -> Self {
        self.with(|config| {
            let answers = match &config.answers {
                Some(answers) => answers.configured(resumable),
                None => ResumableAnswers::new(resumable),
            };
            config.answers = Some(Arc::new(answers));
        })
    }

    /// How long a call continues after its last caller has left. Default: 5 s, since browsers retry.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        self.with(|config| config.grace = grace)
    }

    /// Lets every call continue to its end, or its deadline, after its last caller has left. Default: no.
    #[must_use]
    pub fn finish_abandoned(self, finish: bool) -> Self {
        self.with(|config| config.finish_abandoned = finish)
    }

    /// How long a caller that does not read may delay the other readers, once the answer exceeds
    /// [`max_response`](Self::max_response). Default: 5 s.
    #[must_use]
    pub fn lag(self, lag: Duration) -> Self {
        self.with(|config| config.limits.lag = lag)
    }

    /// The longest answer that can be joined late and replayed, in bytes; each frame counts 64 bytes more than its
    /// length. Short frames of a stream that one caller reads are held together, in blocks of up to 4 KiB: each block counts
    /// as a frame, and callers that join late get it as one. Default: 1 MiB. A longer answer is shared by the callers that
    /// joined in time.
    #[must_use]
    pub fn max_response(self, bytes: usize) -> Self {
        self.with(|config| config.limits.bytes = bytes)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB. Longer requests pass without dedup.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_body_bytes = bytes)
    }

    /// How long a request body may take to arrive. Default: 30 s. Slower requests pass without dedup.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// The memory that counts the data of all calls together: request bodies while they are read and sent, answers in
    /// flight. When it is spent, requests pass without dedup, and answers can no longer be joined. Default: 512 MiB of
    /// the layer's own. The [store](Self::store) counts stored answers.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// What the layer does with a request whose key is in flight. Default: [`InFlightPolicy::Join`].
    ///
    /// Requests without a key always join.
    #[must_use]
    pub fn in_flight(self, policy: InFlightPolicy) -> Self {
        self.with(|config| config.in_flight = policy)
    }

    /// Refuses requests with an unsafe method and no `Idempotency-Key` with a 400. Default: no.
    #[must_use]
    pub fn key_required(self, required: bool) -> Self {
        self.with(|config| config.key_required = required)
    }

    /// Refuses a request with an `Idempotency-Key` with a 503 if the store has no room for it, or fails. Default: no, the
    /// request passes, and its response has the header `idempotency-key-ignored` if the store has no room.
    ///
    /// For calls that must not be executed twice, even at the cost of a refusal.
    #[must_use]
    pub fn strict_keys(self, strict: bool) -> Self {
        self.with(|config| config.strict_keys = strict)
    }

    /// Whether a POST without an `Idempotency-Key` is recognised by its content. Default: yes.
    #[must_use]
    pub fn fingerprints(self, fingerprints: bool) -> Self {
        self.with(|config| config.fingerprints = fingerprints)
    }

    /// Distinguishes requests without a key by this header too.
    #[must_use]
    pub fn fingerprint_header(self, name: HeaderName) -> Self {
        self.with(|config| {
            if !config.headers.contains(&name) {
                config.headers.push(name);
            }
        })
    }

    /// Distinguishes tenants by the result of `tenant` too, beside their credentials. The layer never shares a response
    /// across tenants. `None` or an empty name: no dedup for the request.
    ///
    /// For callers whose credentials do not identify them: a session's cookie, a client certificate, a header that a
    /// proxy sets. It can split a tenant, and never merges two credentials into one tenant: any caller can write a
    /// header. To merge several credentials, set [`Tenant`](crate::Tenant) where they are authenticated.
    ///
    /// ```
    /// use tower_buttress::DedupLayer;
    ///
    /// #[derive(Clone)]
    /// struct UserId(u64);
    ///
    /// let layer = DedupLayer::new()
    ///     .tenant(|request| request.extensions.get::<UserId>().map(|user| user.0.to_be_bytes()));
    /// # let _ = layer;
    /// ```
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

    /// Treats JSON bodies as equal that differ only in the order of members. Default: no.
    ///
    /// The order of arrays and the spelling of numbers count. A body that is not JSON, or names a member twice, is
    /// compared as bytes. It costs more than the hash itself.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    #[must_use]
    pub fn json_canonical(self, canonical: bool) -> Self {
        self.with(|config| config.json_canonical = canonical)
    }

    /// Reports requests that joined, were replayed, refused, or passed without dedup to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|config| config.emitter = Emitter::to(observer))
    }

    /// Whether a request with `Prefer: respond-async` may get a 202.
    pub(crate) fn applies_respond_async(&self) -> bool {
        let answers = self.config.answers.as_ref().filter(|_| self.config.enabled);
        answers.is_some_and(|answers| answers.settings().respond_async)
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

impl<S, St: Clone> Layer<S> for DedupLayer<St> {
    type Service = Dedup<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        Dedup::new(inner, (self.store.clone(), self.config.clone()))
    }
}
