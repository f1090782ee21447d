use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::answers::ResumableAnswers;
use super::config::{Config, InFlightPolicy};
use super::resumable::Resumable;
use super::service::Dedup;
use crate::call::{Memory, Tenant, TenantHash};
use crate::event::{Emitter, Observer};
use crate::store::MemoryStore;

/// Makes one upstream call of a double click, streams included.
///
/// Users click twice, browsers try again after a timeout, networks send things twice. With a model behind it each copy is
/// billed, and two different answers come back. Here the second request *joins* the first one's call: it gets the same
/// head and every frame from the first byte, at once what was received already, then live. For a while after its end, the
/// answer is *replayed* to requests that ask the same.
///
/// # When to use it, and when not
///
/// On the server's side of the callers, before calls that are expensive or must not be executed twice. Not where the same
/// request should get two different answers: such a request says so with `Cache-Control: no-cache` ("regenerate"), or the
/// layer is told to look at keys only ([`fingerprints(false)`](Self::fingerprints)). It is no cache: two seconds later, or
/// a minute later for a key, the upstream is called again.
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
/// payloads differ, the later one is refused with a 422. Without a key, for POST only, requests with the same SHA-256 of
/// everything that makes the answer: headers that tell requests apart ([`fingerprint_header`](Self::fingerprint_header)
/// adds one), and the body. Both are bound to tenant, method, host, path and query, each field with its length before it,
/// so that no two different requests can be made to look the same.
///
/// **No answer is shown to another tenant.** The tenant is the [`Tenant`](crate::Tenant) in the request's extensions,
/// which is set by what authenticated the caller; where there is none, the request's credentials; and what the setting
/// [`tenant`](Self::tenant) adds to either. A request without any is not recognised.
///
/// # What is kept, and for how long
///
/// | Answer | With an `Idempotency-Key` | Without |
/// |---|---|---|
/// | 2xx | for the [`window`](Self::window) (60 s), whatever room others need | 2 s, the double click; for the window where the request is [`stateless`](Self::stateless) |
/// | 400, 422, unless with `x-should-retry: true` | for the window, as long as there is room | no |
/// | any other, and our own refusals | no: the key is free again | no |
///
/// Only answers that are known to be whole are kept: by their `Content-Length`, their gRPC status, or because they are of a
/// kind whose end says so. The end of an event stream (or of newline-delimited JSON) proves nothing, nor does its length: it
/// is kept where the `StreamGuardLayer` of the feature `llm`, inside of this layer, has seen the model end its answer. It is
/// shared while it is in flight, and not kept, where there is none, where the answer broke off or told of an error, and
/// where the reason of its end is unknown. Without a key, what the model refused or a filter held back is not kept either.
///
/// # Place in the stack
///
/// Outside of fallbacks and retries, so that one shared call is one call whatever happens below; inside
/// [`DeadlineLayer`](crate::DeadlineLayer), whose deadline is each caller's own: below this layer the latest of all
/// callers' holds. After authentication, where that is a layer too.
///
/// All services that a layer and its clones make share what is known, and a request is told apart by host and path only:
/// the layer must lead to the same upstreams. A router that cuts a prefix off the path before the layer makes two places
/// one: give each a layer of its own there.
///
/// # What happens when
///
/// - *The first caller leaves*: the others go on from where they are.
/// - *All have left*: the call goes on for [`grace`](Self::grace) (5 s), since browsers try again; a request that comes
///   within it takes the call over. Then, or at the call's deadline, the upstream is dropped. With
///   [`finish_abandoned`](Self::finish_abandoned) the call goes on to its end, or its deadline.
/// - *The call fails before its head*: the first caller gets its error, the others a 502 that carries a
///   [`Rejection`](crate::Rejection). *In the body*: all of them get the error, where it broke off.
/// - *The upstream panics*: the caller whose task polled it panics, the others are told that the call failed.
/// - *An answer longer than [`max_response`](Self::max_response)* (1 MiB): those who read it go on together, at the pace of
///   the slowest; no other caller can join. A caller that does not read for [`lag`](Self::lag) while another waits for it fails
///   with [`DedupLagged`](crate::error::DedupLagged). When all have left there is no grace. A key is held until the
///   answer has ended, and is free then.
/// - *A caller that has far more time* than the upstream was told last (in a deadline header, whether this crate's layers write
///   it outside of this layer or below it), more than twice that and 10 s: it does not join the call of a hasty one, but makes
///   its own. With a key it joins all the same.
/// - *The upstream call is polled* by any caller that has read everything so far: it may run inside another caller's task,
///   whose task-locals and spans apply.
/// - *The inner service is not ready*: requests are read and claimed all the same. Only the request that makes a call waits
///   for it, in the call that the others share.
/// - *The store is full*, or has no room left for this tenant: the call passes as if the layer were not there, with an
///   event. With [`strict_keys`](Self::strict_keys) a request with a key is refused with a 503.
/// - *A request body longer than [`max_body_bytes`](Self::max_body_bytes)* (2 MiB), or that takes longer to come than
///   [`read_timeout`](Self::read_timeout) (30 s): it streams on and is not recognised, with an event.
/// - *A request with a key passes unrecognised*, for one of these reasons: its response says so in the header
///   `idempotency-key-ignored`: `store-full`, `body-too-large` or `body-too-slow`.
/// - *Other methods without a key, upgrades, `Cache-Control: no-cache`, [`NoStore`](crate::NoStore)*: they pass untouched.
/// - *Callers that were cut off*: they can come back, where that is [set](Self::resumable).
/// - *Replays*: status, headers, frames and trailers as they came, without `Set-Cookie` and what belongs to a connection;
///   [`ServedBy`](crate::ServedBy) and [`Attempts`](crate::Attempts) are those of the call that was made;
///   `Idempotent-Replayed: true` and `Age` are added.
///
/// # Cancel safety
///
/// Dropping the future or the body leaves the call to the others, and does nothing else.
///
/// # Errors
///
/// The service's own, to the request that made the call. The body's error is a [`BoxError`](crate::error::BoxError); what
/// ended the shared call is found in it by [`error::find`](crate::error::find).
///
/// # Cost
///
/// For a request that may be recognised: its body is read before the upstream is called, and hashed while it is read; one
/// look into the store; one allocation for the call; a short lock at every frame. Frames are shared, not copied, except
/// short ones, which are copied once, into chunks. One task is spawned when the last caller leaves, for the grace. What
/// passes untouched costs a look at the method and the headers. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct DedupLayer<St = MemoryStore> {
    store: St,
    config: Arc<Config>,
}

// === impl DedupLayer ===

impl DedupLayer {
    /// Keeps answers in 64 MiB of memory.
    #[must_use]
    pub fn new() -> Self {
        Self { store: MemoryStore::default(), config: Arc::default() }
    }

    /// A layer of the same type that lets everything pass.
    #[must_use]
    pub fn disabled() -> Self {
        Self { store: MemoryStore::new(0, 0), config: Arc::new(Config { enabled: false, ..Config::default() }) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Forgets the answers that are kept for a tenant that was [authenticated](Tenant), those that callers could come
    /// back to among them. Returns how many there were.
    ///
    /// A call in flight goes on, and its answer is kept.
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

    /// Forgets all answers that are kept, likewise.
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
    /// Keeps calls in another store. Layers with the same store share it: they must call the same upstreams.
    #[must_use]
    pub fn store<Other>(self, store: Other) -> DedupLayer<Other> {
        DedupLayer { store, config: self.config }
    }

    /// How long a whole answer is replayed: to a request with an `Idempotency-Key`, and to one that is
    /// [`stateless`](Self::stateless). Default: 60 s.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        self.with(|config| config.window = window)
    }

    /// How long a whole answer is replayed to a request without a key. Default: 2 s, the time of a double click: the
    /// same words said again later may well be meant. Never longer than the [`window`](Self::window).
    #[must_use]
    pub fn fingerprint_window(self, window: Duration) -> Self {
        self.with(|config| config.fingerprint_window = window)
    }

    /// Which requests, by head and body, leave nothing behind at the upstream but their answer. An answer to such a request
    /// is replayed for the whole [`window`](Self::window) also without a key. Default: none.
    ///
    /// A chat completion is one: the whole conversation is in its body. One that goes on with a conversation that the server
    /// keeps is none: the same words said twice are two turns.
    ///
    /// It is called once for each call that is made, with at most [`max_body_bytes`](Self::max_body_bytes).
    #[must_use]
    pub fn stateless(self, stateless: impl Fn(&Parts, &[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.stateless = Some(Arc::new(stateless)))
    }

    /// Lets callers that were cut off come back to their answer, live or ended, and to answers that take long. Default: no.
    ///
    /// # What a caller does
    ///
    /// It sends its request with an `Idempotency-Key`. If the answer is an event stream, its head has a `Content-Location`, and
    /// its events have ids. Cut off, the caller sends a `GET` to that URL with the `Last-Event-ID` that it has, or
    /// `?last_event_id=`, and reads the rest: what was recorded meanwhile at once, then live. `examples/resumable.mjs` is a
    /// client of ten lines around `fetch`, `examples/resumable.rs` one in Rust; a browser's `EventSource` at that URL does it by itself.
    ///
    /// | At that URL | Answer |
    /// |---|---|
    /// | `GET` | 200: the event stream behind that event; all of it without an id |
    /// | `GET`, and nothing is left of a stream that has ended | 204: an `EventSource` stops |
    /// | `GET`, with an id that is none of this stream's | 412, [`EventIdUnknown`](crate::RejectionKind::EventIdUnknown) |
    /// | `GET`, and there is no such answer (any more), or nothing is left of it but its error | 410, [`AnswerGone`](crate::RejectionKind::AnswerGone) |
    /// | `HEAD` | the head that a `GET` returns; `Range` and conditions are not applied |
    /// | `DELETE` | 204: the call is stopped for all its readers, and its answer is forgotten |
    ///
    /// **Nothing is asked of the upstream by coming back**, and nothing but what is at `<prefix>/<token>` is answered by this
    /// layer: a `DELETE` of the upstream's own passes.
    ///
    /// # Who may read
    ///
    /// Every caller that has the URL: its token is 128 random bits, of which only a hash is held, and an `EventSource` can send
    /// nothing else. Each caller is given a token of its own, up to 16 callers of one answer: those that join later read it, and
    /// get no URL.
    /// Where a request there has a credential, or the extension
    /// [`Tenant`](crate::Tenant), it must be that of the same tenant; for any other the answer is not there. `Set-Cookie` is for
    /// the first caller alone.
    ///
    /// # What happens when
    ///
    /// - *The last caller leaves*: the call goes on for the [`window`](Resumable::window) (5 minutes), or to its deadline, in
    ///   place of the [`grace`](Self::grace). A tenant has 8 such calls at a time, all have 256
    ///   ([`unattended`](Resumable::unattended), or a [limit that moves](Resumable::unattended_total)); beyond that leaving ends
    ///   a call as without this setting. Tenants that have had no 2xx yet, and that no [`Tenant`](crate::Tenant) in the extensions
    ///   names, have one share together, here and below.
    /// - *A call was promised by a 202*: it has one of these places to its end. Callers that look for its answer, and leave again,
    ///   do not cost it that, and each has it go on for another window.
    /// - *A caller comes back*: it reads until the deadline of the call, which it does not put off, whatever its own is.
    /// - *A newer message takes the place of its own* (a [`SupersedeLayer`](crate::SupersedeLayer) outside), also behind a 202:
    ///   the call ends for it, and wholly where no caller with a message of another conversation listens, or may come back. An answer that has
    ///   ended can still be read. One that reads at another process hears the answer to its end.
    /// - *The call ends*: what it answered can be read for the window, also where it broke off: then up to there, and its error.
    /// - *The answer is longer than [`max_response`](Resumable::max_response)* (8 MiB), or there is no memory left for it: those
    ///   who read it go on; to others it is gone.
    /// - *A tenant has 2,048 answers that can be come back to, or all have 16,384*: the next is an answer like any other, without a
    ///   `Content-Location`, until the window of one has passed.
    /// - *The dialect does not bear ids* (Gemini's): there are none. A caller that comes back reads from the beginning.
    /// - *The stream has ids of its own*: the caller gets ours, and the upstream never sees them.
    /// - *Comments*: they stay, without a blank line behind them, of which clients that know an id make an empty event.
    /// - *A `SseHeartbeatLayer` outside has begun before the head*: the caller is not told where its answer is.
    /// - *Several processes*: with a [store](Self::store) that shares answers, such as `RedisStore` of the crate
    ///   `tower-buttress-redis`, all of this holds at any of them, for as long as the process that makes the call lives. Without
    ///   one, an answer is at the process that gave it. Whose request joins the call of another process is told no URL: it joins
    ///   again with the same request.
    ///
    /// # Answers later
    ///
    /// With [`respond_async`](Resumable::respond_async), a request that says `Prefer: respond-async, wait=10` (1 to 60 seconds; 1
    /// where it says none) and has no answer by then gets a 202 with the URL in `Location`, a `Retry-After`, and
    /// `Preference-Applied`. It needs no key. The answer will be there, whatever it is, for the window: a `GET` waits for it, or
    /// with the same preference gets another 202. The preference is taken off what goes to the upstream.
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
    /// On a layer that has it already, other settings hold for the calls that come: the answers that are there stay, each for the
    /// window that it was given, and clones of both layers find them.
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

    /// How long a call goes on when its last caller has left. Default: 5 s, since browsers try again.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        self.with(|config| config.grace = grace)
    }

    /// Lets every call go on to its end, or its deadline, when its last caller has left. Default: no.
    #[must_use]
    pub fn finish_abandoned(self, finish: bool) -> Self {
        self.with(|config| config.finish_abandoned = finish)
    }

    /// How long a caller that does not read may keep the others waiting, once the answer has outgrown its recording.
    /// Default: 5 s.
    #[must_use]
    pub fn lag(self, lag: Duration) -> Self {
        self.with(|config| config.limits.lag = lag)
    }

    /// The longest answer that can be joined late and replayed, in bytes; each frame counts 64 more than it has.
    /// Default: 1 MiB. Longer ones are shared by those who joined in time.
    #[must_use]
    pub fn max_response(self, bytes: usize) -> Self {
        self.with(|config| config.limits.bytes = bytes)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB. Requests with longer ones pass, and are not
    /// recognised.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_body_bytes = bytes)
    }

    /// How long a request body may take to come. Default: 30 s. Requests with slower ones pass, and are not recognised.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// The memory in which what is held for all calls is counted together: request bodies while they are read and sent,
    /// answers while they are in flight. When it is spent, requests pass unrecognised, and answers can no longer be joined.
    /// Default: 512 MiB of the layer's own. Answers that are kept are counted by the [store](Self::store).
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// What becomes of a request whose key is in flight. Default: [`InFlightPolicy::Join`].
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

    /// Refuses a request with an `Idempotency-Key` with a 503 where the store has no room for it. Default: no, it passes,
    /// and says so in its response's header `idempotency-key-ignored`.
    ///
    /// For calls that must rather not be executed than be executed twice.
    #[must_use]
    pub fn strict_keys(self, strict: bool) -> Self {
        self.with(|config| config.strict_keys = strict)
    }

    /// Whether a POST without an `Idempotency-Key` is recognised by what it says. Default: yes.
    #[must_use]
    pub fn fingerprints(self, fingerprints: bool) -> Self {
        self.with(|config| config.fingerprints = fingerprints)
    }

    /// Tells requests without a key apart by this header too.
    #[must_use]
    pub fn fingerprint_header(self, name: HeaderName) -> Self {
        self.with(|config| {
            if !config.headers.contains(&name) {
                config.headers.push(name);
            }
        })
    }

    /// Tells tenants apart by what `tenant` returns, beside their credentials. Responses are never shared across tenants.
    /// `None` or an empty name: the request is not recognised.
    ///
    /// For callers whose credentials do not say who they are: a session's cookie, a client certificate, a header that a
    /// proxy sets. It may tell more of them apart, and never makes one tenant of two credentials: a header can be written
    /// by any caller. Several credentials are one tenant where what authenticated them sets [`Tenant`](crate::Tenant).
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
        let name = move |parts: &Parts, hand_on: &mut dyn FnMut(&[u8])| {
            if let Some(tenant) = tenant(parts) {
                hand_on(tenant.as_ref());
            }
        };
        self.with(|config| config.tenant = Some(Arc::new(name)))
    }

    /// Recognises JSON whose members come in another order. Default: no.
    ///
    /// The order of arrays and the spelling of numbers count. What is no JSON, or names a member twice, is taken as
    /// bytes. It costs more than the hash itself.
    #[cfg(feature = "json")]
    #[cfg_attr(docsrs, doc(cfg(feature = "json")))]
    #[must_use]
    pub fn json_canonical(self, canonical: bool) -> Self {
        self.with(|config| config.json_canonical = canonical)
    }

    /// Tells `observer` of every request that joined, was replayed, refused, or not recognised.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|config| config.emitter = Emitter::to(observer))
    }

    /// Whether a request that prefers to be answered later may get a 202.
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
        Dedup::new(inner, self.store.clone(), self.config.clone())
    }
}
