use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::request::FINGERPRINT_HEADERS;
use super::service::Dedup;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::flight::Limits;
use crate::store::MemoryStore;

/// Makes one upstream call of a double click, streams included.
///
/// Users click twice, browsers try again after a timeout, networks send things twice. With a model behind it each copy is
/// billed, and two different answers come back. Here the second caller *joins* the first one's call: the same head and
/// every frame from the first byte, at once what has been, then live. When it is over, its answer is *replayed* for a
/// minute to whoever asks the same.
///
/// # When to use it, and when not
///
/// Before calls that are dear or must not be done twice, on the server's side of whoever clicks. Not where the same words
/// asked twice should give two answers: such a request says so with `Cache-Control: no-cache` ("regenerate"), or the layer
/// is told to look at keys only ([`fingerprints(false)`](Self::fingerprints)). It is no cache: a minute later the upstream
/// is asked again.
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
/// // An upstream that takes a second and never says the same twice.
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
/// # What is the same
///
/// Two requests with the same `Idempotency-Key` (quoted or bare, at most 255 characters), for any unsafe method; if their
/// payloads differ, the later one is refused with a 422. Without a key, for POST only, the SHA-256 of everything that
/// makes the answer: headers that tell requests apart ([`fingerprint_header`](Self::fingerprint_header) adds one), and
/// the body. Either is bound to tenant, method, host, path and query, each field with its length before it, so that no
/// two different requests can be made to look the same.
///
/// **Nobody is shown another tenant's answer.** The [tenant](Self::tenant) is by default the caller's credentials; a
/// request without any is never recognised.
///
/// # Place in the stack
///
/// Outside of fallbacks and retries, so that one flight is one call whatever happens below; inside
/// [`DeadlineLayer`](crate::DeadlineLayer), whose deadline is each caller's own: below this layer the latest of all
/// listeners' holds. After authentication, where that is a layer too.
///
/// What a layer and its clones wrap shares what is known, and is told apart by host and path only: it must lead to the same
/// upstreams. A router that cuts a prefix off the path before it comes here makes two places one: give each a layer of its
/// own there.
///
/// # What happens when
///
/// - *The first caller leaves*: the others go on, from where they are.
/// - *All have left*: the call goes on for [`grace`](Self::grace) (5 s), since browsers try again; whoever comes within it
///   takes it over. Then the upstream is dropped, or the call is [finished](Self::finish_abandoned) all the same.
/// - *The call fails before its head*: the first caller gets its error, the others a 502 that carries a
///   [`Rejection`](crate::Rejection). *In the body*: all of them, where it broke off.
/// - *The upstream panics*: the panic goes to whoever polled it, and the others are told that the call failed.
/// - *An answer that is no 2xx*: those who wait for it hear it. It is replayed to those who gave the same key, unless it
///   says that nothing was executed (408, 421, 425, 429, 503, our own refusals) or that the key is in use (409), and never
///   otherwise.
/// - *A body that broke off, or is shorter or longer than its `Content-Length`, or gRPC without its status*: it is never
///   replayed.
/// - *An answer longer than [`max_response`](Self::max_response)* (1 MiB): those who listen go on together, at the pace of
///   the slowest; nobody else can join. One who does not read for [`lag`](Self::lag) while another waits for it fails with
///   [`DedupLagged`](crate::error::DedupLagged). When all have left there is no grace. A key is held until it is over, and
///   is free then.
/// - *The call is polled* by whoever listens and has read all there is: task-locals and spans in it are those of that caller,
///   who need not be the one that made it.
/// - *The store is full*: a request without a key passes, one with a key is refused with a 503.
/// - *A request body longer than [`max_request`](Self::max_request)* (2 MiB): it streams on, and is not recognised.
/// - *Other methods without a key, upgrades, `Cache-Control: no-cache`*: they pass untouched.
/// - *Replays*: status, headers, frames and trailers as they came, without `Set-Cookie` and what belongs to a connection;
///   `Idempotent-Replayed: true` and `Age` are added.
///
/// # Cancel safety
///
/// Dropping the future or the body stops listening, and nothing else.
///
/// # Errors
///
/// The service's own, to whoever made the call. The body's error is a [`BoxError`](crate::error::BoxError); what broke
/// off the shared call is found in it by [`error::find`](crate::error::find).
///
/// # Cost
///
/// For a request that may be recognised: its body is read before the upstream is called, and hashed while it is read; one
/// look into the store; one allocation for the flight; a lock that nobody holds for long at every frame. Frames are
/// shared, not copied, except short ones, which are copied once, into chunks. One task is spawned when the last listener
/// leaves, for the grace. What passes untouched costs a look at the method and the headers. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct DedupLayer<St = MemoryStore> {
    store: St,
    /// `None`: the layer is off.
    config: Option<Arc<Config>>,
}

/// What becomes of a request whose `Idempotency-Key` is being answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InFlightPolicy {
    /// It hears the answer too.
    #[default]
    Join,
    /// It is refused with a 409, as draft-ietf-httpapi-idempotency-key-header has it. (Most SDKs try again after a 409.)
    Reject,
}

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) tenant: Tenant,
    pub(super) fingerprints: bool,
    pub(super) key_required: bool,
    pub(super) headers: Vec<HeaderName>,
    pub(super) json_canonical: bool,
    pub(super) in_flight: InFlightPolicy,
    pub(super) window: Duration,
    pub(super) grace: Duration,
    pub(super) finish_abandoned: bool,
    /// Of a request body.
    pub(super) max_request: usize,
    pub(super) memory: Memory,
    /// Of an answer.
    pub(super) limits: Limits,
    pub(super) emitter: Emitter,
}

/// How tenants are told apart.
#[derive(Clone)]
pub(super) enum Tenant {
    Credentials,
    By(Arc<NameTenant>),
}

/// Hands on the tenant's name, if there is one.
type NameTenant = dyn Fn(&Parts, &mut dyn FnMut(&[u8])) + Send + Sync;

// === impl DedupLayer ===

impl DedupLayer {
    /// The name of this layer in events.
    pub(super) const NAME: &'static str = "dedup";

    /// Remembers answers for 60 s, in 64 MiB of memory.
    #[must_use]
    pub fn new() -> Self {
        Self { store: MemoryStore::default(), config: Some(Arc::default()) }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { store: MemoryStore::new(0, 0), config: None }
    }
}

impl Default for DedupLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<St> DedupLayer<St> {
    /// Remembers calls elsewhere. Layers that are given the same store share it: they must call the same upstreams.
    #[must_use]
    pub fn store<Other>(self, store: Other) -> DedupLayer<Other> {
        DedupLayer { store, config: self.config }
    }

    /// How long a whole answer is given again to those who ask the same. Default: 60 s.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        self.with(|config| config.window = window)
    }

    /// How long a call goes on when nobody listens any more. Default: 5 s, since browsers try again.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        self.with(|config| config.grace = grace)
    }

    /// Lets every call go on to its end when nobody listens any more. Default: no.
    #[must_use]
    pub fn finish_abandoned(self, finish: bool) -> Self {
        self.with(|config| config.finish_abandoned = finish)
    }

    /// How long a caller who does not read may keep the others waiting, once the answer has outgrown its recording.
    /// Default: 5 s.
    #[must_use]
    pub fn lag(self, lag: Duration) -> Self {
        self.with(|config| config.limits.lag = lag)
    }

    /// The longest answer that can be joined late and replayed, in bytes; each frame counts 64 more than it has.
    /// Default: 1 MiB. Longer ones are shared by those who came in time.
    #[must_use]
    pub fn max_response(self, bytes: usize) -> Self {
        self.with(|config| config.limits.bytes = bytes)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB. Longer ones pass, and are not recognised.
    #[must_use]
    pub fn max_request(self, bytes: usize) -> Self {
        self.with(|config| config.max_request = bytes)
    }

    /// The memory in which the bodies of all calls are counted together. Default: 512 MiB of its own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// What a request with a key is told while that key is being answered. Default: [`InFlightPolicy::Join`].
    ///
    /// Requests without a key always join.
    #[must_use]
    pub fn in_flight(self, in_flight: InFlightPolicy) -> Self {
        self.with(|config| config.in_flight = in_flight)
    }

    /// Refuses requests with an unsafe method and no `Idempotency-Key`, with a 400. Default: no.
    #[must_use]
    pub fn key_required(self, required: bool) -> Self {
        self.with(|config| config.key_required = required)
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

    /// Who asks. Nobody hears what was answered to another tenant, and requests of which this is `None` (or empty) are
    /// not recognised at all.
    ///
    /// Default: the values of `Authorization`, `x-api-key`, `api-key` and `x-goog-api-key` together. Where callers are
    /// told apart by something else (a session's cookie, a client certificate, a header that a proxy sets), say by what:
    /// behind a key that all of them share they would be one tenant.
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
        self.with(|config| config.tenant = Tenant::By(Arc::new(name)))
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

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        if let Some(config) = &mut self.config {
            set(Arc::make_mut(config));
        }
        self
    }
}

impl<S, St: Clone> Layer<S> for DedupLayer<St> {
    type Service = Dedup<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        Dedup::new(inner, self.store.clone(), self.config.clone())
    }
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            tenant: Tenant::Credentials,
            fingerprints: true,
            key_required: false,
            headers: FINGERPRINT_HEADERS.to_vec(),
            json_canonical: false,
            in_flight: InFlightPolicy::Join,
            window: Duration::from_secs(60),
            grace: Duration::from_secs(5),
            finish_abandoned: false,
            max_request: 2 * 1024 * 1024,
            memory: Memory::default(),
            limits: Limits { bytes: 1024 * 1024, lag: Duration::from_secs(5) },
            emitter: Emitter::default(),
        }
    }
}

// === impl Tenant ===

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "Credentials",
            Self::By(_) => "By(..)",
        })
    }
}
