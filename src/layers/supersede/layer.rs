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

/// Cancels the calls of a conversation when its user sends another message.
///
/// A user who sends another message no longer wants the first answer, but its tokens are paid all the same. Browsers do
/// not always close the connection of an answer that is no longer shown, and proxies keep it open. With this layer the
/// newer message ends the older one, whatever the state of the older one's connection.
///
/// # When to use it, and when not
///
/// For chats, type-ahead and agents, where the messages of one conversation come one after another and only the newest
/// counts. Not where a conversation makes several calls at a time on purpose (tools that ask a model beside the answer):
/// give those no name, or another one. To make one call of a double click, [`DedupLayer`](crate::DedupLayer) is enough.
/// The application must undo what a superseded message has changed there (history, tools that ran).
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
/// A POST whose conversation the operator's setting names ([`by_header`](Self::by_header), [`new`](Self::new)) and whose
/// tenant is known: the [`Tenant`](crate::Tenant) in its extensions, or else the credentials in its headers. A
/// conversation belongs to one tenant: the same name at another tenant is another conversation. gRPC calls pass
/// untouched, as does every request without a known conversation or tenant.
///
/// The layer reads a message first, up to [`max_body`](Self::max_body). Messages are ordered by when they *began* to
/// arrive.
///
/// **The same payload is another attempt** of a client that retries: the same path and query, `Content-Type`,
/// `Idempotency-Key` and body. It supersedes nothing, and runs beside the first ([`DedupLayer`](crate::DedupLayer) inside
/// makes one call of both). *A superseded message that comes again is refused*: the layer remembers the last 16 payloads
/// of each conversation for 10 minutes, unless they were answered. To send the same words again, use another
/// `Idempotency-Key`.
///
/// # What happens when
///
/// With [`Interrupt`](SupersedeMode::Interrupt), the default, when a newer message comes:
///
/// - *The older one waits for its head*: it gets a 410 that carries a [`Rejection`](crate::Rejection) of kind
///   [`Superseded`](crate::RejectionKind::Superseded), and `x-should-retry: false`.
/// - *It is being answered*: its body fails with [`Superseded`](crate::error::Superseded); it never looks complete. An
///   [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) outside with
///   [`error_events`](crate::SseHeartbeatLayer::error_events) reports that to the client first, by an event in the form
///   that its dialect's official clients raise.
/// - In both cases the layer drops the inner call at once, and with it the upstream call, even if
///   [`DedupLayer`](crate::DedupLayer) would have kept it for a caller that comes back. A call of the older message whose
///   caller left before ends too.
/// - *It has failed, and its client waits for its retry*: the next attempt gets the 410.
/// - *It was answered* with 2xx, or a status that clients do not retry: nothing.
/// - *It was answered with a 202, and its answer comes later* ([`resumable`](crate::DedupLayer::resumable)): its call
///   ends, and it counts as not answered, even if the answer was read. With `Reject` and `Enqueue` such a message is not
///   in flight.
///
/// With [`Reject`](SupersedeMode::Reject) the newer one gets a 409
/// ([`ConversationBusy`](crate::RejectionKind::ConversationBusy), with `x-should-retry: false`) while another is in
/// flight. With [`Enqueue`](SupersedeMode::Enqueue) it waits until those before it have ended, as long as its
/// [`Deadline`](crate::Deadline) allows, or gets that 409 if too many wait. A [`SupersedeMode`] in a request's extensions
/// applies to that request.
///
/// - *A body is longer than [`max_body`](Self::max_body), or takes longer than [`read_timeout`](Self::read_timeout)*: the
///   request passes untouched, with [`Event::Bypassed`](crate::Event::Bypassed).
/// - *More conversations than [`max_remembered`](Self::max_remembered)*: those with a message in flight are always kept.
///   Of the others the oldest is evicted; a tenant that has an eighth of them evicts its own oldest.
///
/// # Place in the stack
///
/// Outside [`DedupLayer`](crate::DedupLayer), so that it sees each caller's call; inside
/// [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) and [`DeadlineLayer`](crate::DeadlineLayer), and inside authentication
/// if that is a layer too. Retries go inside.
///
/// All clones of one layer, and all services they make, share its conversations.
///
/// # Cancel safety
///
/// A call that is dropped leaves its conversation. Its message is remembered as not answered.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): [`Superseded`](crate::error::Superseded)
/// or the inner body's.
///
/// # Cost
///
/// For a request without a conversation: a look at its head, and a clone of the service inside. For a message: two
/// SHA-256, one of them of its body; an allocation for its place and one for its handle; three short locks, and one clock
/// read.
#[derive(Clone, Debug)]
pub struct SupersedeLayer {
    config: Arc<Config>,
    shared: Arc<Shared>,
}

// === impl SupersedeLayer ===

impl SupersedeLayer {
    /// Names conversations by a closure: `None` is not a message.
    ///
    /// To use the body, let an [`InspectRequestLayer`](crate::InspectRequestLayer) outside put the name into the
    /// extensions.
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

    /// Names conversations by the value of this header, such as `x-conversation-id`. The upstream gets the header too.
    #[must_use]
    pub fn by_header(header: HeaderName) -> Self {
        Self::named(Arc::new(move |parts, name| {
            if let Some(value) = parts.headers.get(&header) {
                name(value.as_bytes());
            }
        }))
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::new(None))
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.conversation.is_some()
    }

    /// Sets what happens to a message when another one comes. Default: [`SupersedeMode::Interrupt`].
    #[must_use]
    pub fn mode(self, mode: SupersedeMode) -> Self {
        self.change(|config| config.mode = mode)
    }

    /// How long a message waits for a newer one before it is sent. Default: 0. With 300 ms, five keystrokes in a row make
    /// one call. Only with [`SupersedeMode::Interrupt`].
    #[must_use]
    pub fn settle(self, settle: Duration) -> Self {
        self.change(|config| config.settle = settle)
    }

    /// The longest message, in bytes. Default: 2 MiB. Longer ones pass untouched.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        self.change(|config| config.max_body_bytes = bytes)
    }

    /// How long a message may take to arrive. Default: 30 s. Slower ones pass untouched.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.change(|config| config.read_timeout = timeout)
    }

    /// The memory that counts messages while they are read and sent. When it is spent, messages pass untouched. Default:
    /// 512 MiB of the layer's own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.change(|config| config.memory = memory)
    }

    /// The number of conversations without a message in flight whose superseded messages are remembered: each takes at
    /// most 1 KiB. Default: 16,384. Setting it drops all conversations.
    #[must_use]
    pub fn max_remembered(self, conversations: usize) -> Self {
        Self { shared: Arc::new(Shared::new(conversations)), ..self }
    }

    /// Reports every cancelled call, and every refusal, to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// Shares conversations with other processes: the newest message of a conversation is the newest in all of them. Only
    /// with [`SupersedeMode::Interrupt`]; `settle` waits for the messages of this process. No call waits for the peers:
    /// an older message that reaches another process later ends a moment after its arrival. The [handle](Self::handle)
    /// ends the calls of this process.
    ///
    /// `FleetSupersede` in the crate `tower-buttress-redis` does so over Redis.
    #[must_use]
    pub fn share(self, peers: Arc<dyn SupersedePeers>) -> Self {
        self.change(|config| config.peers = Some(Peers(peers)))
    }

    /// Returns a handle that ends calls from outside. Call it on the final layer.
    #[must_use]
    pub fn handle(&self) -> SupersedeHandle {
        SupersedeHandle::new(self.config.clone(), self.shared.clone())
    }

    /// Removes the superseded messages of an [authenticated](Tenant) tenant's conversations. Returns the number of
    /// conversations. Messages in flight continue.
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

    /// Removes those of all conversations, in the same way.
    pub fn forget_all(&self) -> usize {
        self.shared.forget(None)
    }

    /// Returns the numbers of known conversations and of calls in flight.
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
        Supersede::new(inner, (self.config.clone(), self.shared.clone()))
    }
}
