use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::request::Parts;
use tower_layer::Layer;

use super::Supersede;
use super::config::{Config, NameConversation, Peers};
use super::handle::SupersedeHandle;
use super::key;
use super::shared::{MOST_IDLE, Shared, SupersedeStats};
use crate::call::{Memory, Tenant};
use crate::event::{Emitter, Observer};
use crate::policy::supersede::SupersedeMode;
use crate::store::supersede::SupersedePeers;

/// Ends what is under way for a conversation when its user sends another message.
///
/// Who goes on typing, or presses "send" again with other words, does not want the first answer any more; its tokens are paid
/// all the same. Browsers do not always close the connection of an answer that is not shown any more, and what stands between keeps
/// it. Here the newer message says so, whatever became of the older one's connection.
///
/// # When to use it, and when not
///
/// For chats, type-ahead and agents, where messages of one conversation come one after another and the newest is the one that
/// counts. Not where a conversation makes several calls at a time on purpose (tools that ask a model beside the answer): give
/// those no name, or another one. To make one call of a double click, [`DedupLayer`](crate::DedupLayer) is enough. What a
/// superseded message has changed at the application (history, tools that ran) is for the application to take back.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{HeaderName, Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{CallBody, Rejection, RejectionKind, SupersedeLayer, Tenant};
///
/// // An upstream that thinks for 20 s.
/// let upstream = service_fn(|_: Request<CallBody>| async {
///     tokio::time::sleep(Duration::from_secs(20)).await;
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("an answer")))
/// });
/// let service = ServiceBuilder::new()
///     .layer(SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id")))
///     .service(upstream);
///
/// let say = |text: &'static str| {
///     let request = Request::post("/v1/chat/completions")
///         .header("x-conversation-id", "7")
///         .extension(Tenant::new("acme"))
///         .body(Full::<Bytes>::from(text))
///         .unwrap();
///     tokio::spawn(service.clone().oneshot(request))
/// };
/// let first = say("Where is my order?");
/// tokio::time::sleep(Duration::from_secs(1)).await;
/// let second = say("Where is my order 4711?");
///
/// let first = first.await.unwrap().unwrap();
/// assert_eq!(Rejection::of(&first).unwrap().kind(), RejectionKind::Superseded);
/// assert_eq!((first.status().as_u16(), &first.headers()["x-should-retry"]), (410, &"false".parse().unwrap()));
/// assert_eq!(second.await.unwrap().unwrap().status(), 200);
/// # }
/// ```
///
/// # What a message is
///
/// A POST of which the operator's setting names the conversation ([`by_header`](Self::by_header), [`new`](Self::new)) and whose
/// tenant is known: the [`Tenant`](crate::Tenant) in its extensions, or else the credentials in its headers. A conversation is
/// one tenant's: another tenant that gives the same name has another one. gRPC calls pass untouched, as does every request
/// whose conversation or tenant is not known.
///
/// The layer reads a message first, up to [`max_body`](Self::max_body). Messages stand in the order in which they *began* to
/// come.
///
/// **The same payload is another attempt**, of a client that tries again by itself: the same path and query, `Content-Type`,
/// `Idempotency-Key` and body. It supersedes nothing, and goes on beside the first ([`DedupLayer`](crate::DedupLayer) inside
/// makes one call of both). *What was superseded and comes again is refused*: the last sixteen payloads of each conversation,
/// for ten minutes, unless they had been answered. Who wants the same words once more gives them another `Idempotency-Key`.
///
/// # What happens when
///
/// With [`Interrupt`](SupersedeMode::Interrupt), the default, when a newer message comes:
///
/// - *The older one waits for its head*: it is answered with a 410 that carries a [`Rejection`](crate::Rejection) of kind
///   [`Superseded`](crate::RejectionKind::Superseded), and `x-should-retry: false`.
/// - *It is being answered*: its body fails with [`Superseded`](crate::error::Superseded); it never ends as if it were whole. An
///   [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) outside with
///   [`error_events`](crate::SseHeartbeatLayer::error_events) tells the client so first, by an event in the form that its dialect's
///   official clients raise.
/// - In both cases what is inside is dropped, and with it the call to the upstream: at once, also where
///   [`DedupLayer`](crate::DedupLayer) would have kept it for a caller that comes back. A call of the older message that lost its
///   caller before is ended too.
/// - *It has failed, and its client waits before it tries again*: the next attempt gets the 410.
/// - *It was answered*: with 2xx, or a status that clients do not try again after: nothing.
/// - *It was answered with a 202, and its answer comes later* ([`resumable`](crate::DedupLayer::resumable)): its call is ended, and it
///   counts as not answered, also when the answer has been read. With `Reject` and `Enqueue` such a message is not under way.
///
/// With [`Reject`](SupersedeMode::Reject) the newer one gets a 409
/// ([`ConversationBusy`](crate::RejectionKind::ConversationBusy), with `x-should-retry: false`) while another is under way. With
/// [`Enqueue`](SupersedeMode::Enqueue) it waits until those before it have ended, for as long as its
/// [`Deadline`](crate::Deadline) allows, or gets that 409 where too many wait. A [`SupersedeMode`] in a request's extensions
/// counts for that request.
///
/// - *A body is longer than [`max_body`](Self::max_body), or takes longer than [`read_timeout`](Self::read_timeout)*: the request
///   passes unrecognised, with [`Event::Bypassed`](crate::Event::Bypassed).
/// - *More conversations than [`max_remembered`](Self::max_remembered)*: those with a message under way are all known. Of the
///   others the oldest is forgotten, of a tenant that has an eighth of them its own oldest.
///
/// # Place in the stack
///
/// Outside [`DedupLayer`](crate::DedupLayer), so that each caller's call is one; inside
/// [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) and [`DeadlineLayer`](crate::DeadlineLayer), and inside authentication where that
/// is a layer too. Retries go inside.
///
/// The conversations live in the layer: all clones of one layer, and all services they make, share them.
///
/// # Cancel safety
///
/// A call that is dropped leaves its conversation. Its message is remembered as one that was not answered.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): [`Superseded`](crate::error::Superseded)
/// or the inner body's.
///
/// # Cost
///
/// For a request that names no conversation: the look at its head, and a clone of the service inside. For a message: two
/// SHA-256, one of them of its body; an allocation for its place and one for its handle; three short locks, and one
/// reading of the clock.
#[derive(Clone, Debug)]
pub struct SupersedeLayer {
    config: Arc<Config>,
    shared: Arc<Shared>,
}

// === impl SupersedeLayer ===

impl SupersedeLayer {
    /// Conversations are named by a closure: `None` is no message.
    ///
    /// What stands in the body an [`InspectRequestLayer`](crate::InspectRequestLayer) outside can put into the extensions.
    ///
    /// ```
    /// use tower_buttress::SupersedeLayer;
    ///
    /// // Only answers supersede each other, whatever else is asked for a conversation (counts of tokens, titles).
    /// let layer = SupersedeLayer::new(|parts| {
    ///     let id = parts.headers.get("x-conversation-id")?.to_str().ok()?;
    ///     parts.uri.path().ends_with("/messages").then(|| id.into())
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn new<F>(conversation: F) -> Self
    where
        F: Fn(&Parts) -> Option<Cow<'_, str>> + Send + Sync + 'static,
    {
        Self::named(Arc::new(move |parts, name| {
            if let Some(conversation) = conversation(parts) {
                name(conversation.as_bytes());
            }
        }))
    }

    /// Conversations are named by the value of this header, such as `x-conversation-id`. It is sent on to the upstream.
    #[must_use]
    pub fn by_header(header: HeaderName) -> Self {
        Self::named(Arc::new(move |parts, name| {
            if let Some(value) = parts.headers.get(&header) {
                name(value.as_bytes());
            }
        }))
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::new(None))
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.conversation.is_some()
    }

    /// What becomes of a message when another one comes. Default: [`SupersedeMode::Interrupt`].
    #[must_use]
    pub fn mode(self, mode: SupersedeMode) -> Self {
        self.change(|config| config.mode = mode)
    }

    /// How long a message waits for a newer one before it is sent. Default: 0. With 300 ms, five keystrokes in a row are one
    /// call. Only with [`SupersedeMode::Interrupt`].
    #[must_use]
    pub fn settle(self, settle: Duration) -> Self {
        self.change(|config| config.settle = settle)
    }

    /// How long a message may be, in bytes. Default: 2 MiB. Longer ones pass unrecognised.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        self.change(|config| config.max_body_bytes = bytes)
    }

    /// How long a message may take to come. Default: 30 s. Slower ones pass unrecognised.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.change(|config| config.read_timeout = timeout)
    }

    /// The memory in which messages are counted while they are read and sent. When it is spent, messages pass unrecognised.
    /// Default: 512 MiB of the layer's own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.change(|config| config.memory = memory)
    }

    /// Of how many conversations without a message under way it is remembered what was superseded: each takes at most 1 KiB.
    /// Default: 16,384. The layer forgets all that it knew.
    #[must_use]
    pub fn max_remembered(self, conversations: usize) -> Self {
        Self { shared: Arc::new(Shared::new(conversations)), ..self }
    }

    /// Tells `observer` of every call that is ended, and of every refusal.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// Shares conversations with other processes: the newest message of a conversation is the newest in all of them. Only with
    /// [`SupersedeMode::Interrupt`]; `settle` waits for the messages of this process. No call waits for the peers: an older
    /// message that comes to another process later is ended a moment after it came. The [handle](Self::handle) ends the
    /// calls of this process.
    ///
    /// `FleetSupersede` in the crate `tower-buttress-redis` does so over Redis.
    #[must_use]
    pub fn share(self, peers: Arc<dyn SupersedePeers>) -> Self {
        self.change(|config| config.peers = Some(Peers(peers)))
    }

    /// Ends calls from outside. Take it when all is set.
    #[must_use]
    pub fn handle(&self) -> SupersedeHandle {
        SupersedeHandle::new(self.config.clone(), self.shared.clone())
    }

    /// Forgets what is remembered of the conversations of a tenant that was [authenticated](Tenant): the messages that were
    /// superseded. Returns of how many conversations. Messages under way go on.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_buttress::{SupersedeLayer, Tenant};
    ///
    /// let layer = SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id"));
    /// assert_eq!(layer.forget(&Tenant::new("acme")), 0);
    /// ```
    pub fn forget(&self, tenant: &Tenant) -> usize {
        self.shared.forget(Some(key::account_of(tenant, self.shared.callers())))
    }

    /// Forgets what is remembered of all conversations, likewise.
    pub fn forget_all(&self) -> usize {
        self.shared.forget(None)
    }

    /// How many conversations are known, and how many calls are under way.
    #[must_use]
    pub fn stats(&self) -> SupersedeStats {
        self.shared.stats()
    }

    fn named(conversation: Arc<NameConversation>) -> Self {
        Self::with(Config::new(Some(conversation)))
    }

    fn with(config: Config) -> Self {
        Self { config: Arc::new(config), shared: Arc::new(Shared::new(MOST_IDLE)) }
    }

    fn change(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::clone(&self.config);
        change(&mut config);
        Self { config: Arc::new(config), ..self }
    }
}

impl<S> Layer<S> for SupersedeLayer {
    type Service = Supersede<S>;

    fn layer(&self, inner: S) -> Supersede<S> {
        Supersede::new(inner, self.config.clone(), self.shared.clone())
    }
}
