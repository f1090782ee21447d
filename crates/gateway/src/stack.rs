//! The layers, in their order. This is the only place that knows it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use rustls::ClientConfig;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_buttress::error::{BoxError, BoxedError};
use tower_buttress::store::MemoryStore;
use tower_buttress::{
    CallBody, ConnectTimeoutLayer, DeadlineHeader, DeadlineLayer, DedupLayer, FallbackLayer, FirstByteEvent,
    FirstByteTimeoutLayer, HeartbeatFrame, IdleActivity, IdleBodyTimeoutLayer, InvalidOutput, LastGoodLayer,
    MissingEnd, ObserveLayer, Observer, PaceLayer, ResumeLayer, RetryAfterBackoffLayer, SseHeartbeatLayer,
    StreamGuardLayer, StructuredOutputLayer, SupersedeLayer, SupersedeMode, Tenant,
};

use super::answer_body::AnswerBody;
use super::answers;
use super::args::{Args, Backup, Concurrency, Ends, Heartbeat, LayerArgs, Notices, Resuming, Superseding, Switch};
use super::circuits::Circuits;
use super::fleet::{AnswerStore, Fleet};
use super::ids::X_REQUEST_ID;
use super::kept::Kept;
use super::load::{self, Lanes};
use super::notices;
use super::similar;
use super::upstream::{Connectors, EntryLayer, Forward, Upstream};

/// How many messages of one conversation may wait.
const ENQUEUED: u32 = 16;

/// Where callers name their account.
const CREDENTIALS: [HeaderName; 5] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// On an answer that is not the JSON that was asked for, though the model was asked again.
const OUTPUT: HeaderName = HeaderName::from_static("x-gateway-output");

/// What the stacks of all routes share.
pub(crate) struct Shared {
    fleet: Fleet,
    tls: ClientConfig,
    observer: Arc<dyn Observer>,
    kept: Kept,
    lanes: Lanes,
    /// A caller's limits hold for all that it asks for.
    per_caller: PaceLayer,
    /// Callers come back to their answers at a URL that says nothing of a route.
    dedup: DedupLayer<AnswerStore>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        args: &Args,
        fleet: &Fleet,
        tls: &ClientConfig,
        kept: &Kept,
        lanes: &Lanes,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let per_caller = load::per_caller(&args.callers).observer(observer.clone());
        let memory = MemoryStore::default();
        let dedup = dedup(&args.layers, args.callers.keys().is_some()).store(memory.clone());
        lanes.add("callers", None, &per_caller);
        kept.answers(&dedup);
        Self {
            fleet: fleet.clone(),
            tls: tls.clone(),
            observer: observer.clone(),
            kept: kept.clone(),
            lanes: lanes.clone(),
            per_caller,
            dedup: fleet.dedup(dedup, memory, observer).observer(observer.clone()),
        }
    }
}

/// Everything between a request that is ready to go out and an answer that is ready to come back, outermost first.
pub(crate) fn stack<B>(
    args: &Args,
    upstream: Upstream,
    circuits: &Circuits,
    shared: &Shared,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
    Error: Into<BoxError>,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static,
{
    let Args { upstreams, layers, .. } = args;
    let Shared { fleet, tls, observer, kept, lanes, per_caller, dedup } = shared;
    let connect = connect(layers).observer(observer.clone());
    let connectors = Connectors::new(tls).map(|connector| connect.layer(connector));
    let (queue, pace) = (load::queue(layers).observer(observer.clone()), load::pace(layers).observer(observer.clone()));
    let pace = fleet.pace(pace);
    let has_places = layers.concurrency != Concurrency::Off;
    lanes.add(circuits.name(0), has_places.then_some(&queue), &pace);
    let attempt = ServiceBuilder::new()
        .layer(guard(layers).observer(observer.clone()))
        .layer(idle(layers).observer(observer.clone()))
        .layer(first_byte(layers).observer(observer.clone()));
    let structured = structured(layers).observer(observer.clone());
    let last_good = match similar::similar(layers, &connectors) {
        Some(similar) => last_good(layers).similar(similar),
        None => last_good(layers),
    };
    let primary = ServiceBuilder::new()
        .layer(EntryLayer::new(upstream.clone(), upstreams.credential()))
        .layer(&structured)
        .layer(retry(layers).observer(observer.clone()))
        .layer(queue.clone())
        .layer(pace.clone())
        .layer(circuits.primary().clone())
        .layer(&attempt)
        .service(Forward::new(&connectors, upstream));
    let backups = (1..).zip(&upstreams.backups).zip(circuits.backups());
    let chain = backups.fold(boxed(primary), |before, ((nth, backup), circuit)| {
        let (queue, pace) = (queue.separate(), pace.separate());
        lanes.add(circuits.name(nth), has_places.then_some(&queue), &pace);
        let service = ServiceBuilder::new()
            .layer(EntryLayer::new(backup.upstream.clone(), backup.credential.clone()))
            .layer(&structured)
            .layer(queue)
            .layer(pace)
            .layer(circuit.clone())
            .layer(&attempt)
            .service(Forward::new(&connectors, backup.upstream.clone()));
        // A fallback that takes no credential is on nobody's account.
        let own = !upstreams.credential().is_empty() || backup.credential.is_empty();
        boxed(fallback(backup, service).own_credentials(own).observer(observer.clone()).layer(before))
    });
    let resume = ResumeLayer::new()
        .enabled(layers.resume != Resuming::Off)
        .verified_restart(layers.resume == Resuming::Verified)
        .observer(observer.clone());
    let supersede = supersede(layers);
    kept.last_good(&last_good);
    kept.conversations(&supersede);
    ServiceBuilder::new()
        .layer(ObserveLayer::new("gateway").request_id(X_REQUEST_ID))
        .layer(heartbeat(layers, observer))
        .layer(deadline(layers).observer(observer.clone()))
        .layer(per_caller.clone())
        .layer(supersede.observer(observer.clone()))
        .layer(dedup.clone())
        .layer(last_good.observer(observer.clone()))
        .layer(resume)
        .service(chain)
}

/// The upstream and its fallbacks: one type for a chain of any length.
type Upstreams = BoxCloneSyncService<Request<CallBody>, Response<AnswerBody>, BoxedError>;

fn boxed<S, B>(service: S) -> Upstreams
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = service.map_response(|mut response: Response<B>| {
        if InvalidOutput::of(&response).is_some() {
            response.headers_mut().insert(OUTPUT, HeaderValue::from_static("invalid"));
        }
        response.map(|body| body.map_err(Into::into).boxed_unsync())
    });
    BoxCloneSyncService::new(service.map_err(|error| BoxedError::new(error.into())))
}

fn fallback<S>(backup: &Backup, service: S) -> FallbackLayer<S> {
    let layer = FallbackLayer::new(service).name(backup.name.clone());
    let Some(model) = backup.model.clone() else { return layer };
    layer.rewrite(move |request| request.map(|body| with_model(body, &model)))
}

/// The same JSON object, for another model. What is none, or names no model, is left as it is.
fn with_model(body: Bytes, model: &str) -> Bytes {
    let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&body) else { return body };
    let Some(asked) = json.get_mut("model") else { return body };
    *asked = model.into();
    json.to_string().into()
}

fn retry(args: &LayerArgs) -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::llm()
        .attempts(args.attempts.get())
        .backoff_base(args.backoff_base.0.unwrap_or_default())
        .backoff_cap(args.backoff_cap.0.unwrap_or(Duration::MAX))
        .max_retry_after(args.max_retry_after.0.unwrap_or(Duration::MAX))
        .retry_non_idempotent(args.retry_non_idempotent)
        // A key that the upstream may not know is no licence to repeat what the operator does not want repeated.
        .generate_idempotency_key(args.retry_non_idempotent)
}

fn heartbeat(args: &LayerArgs, observer: &Arc<dyn Observer>) -> SseHeartbeatLayer {
    if args.heartbeat.0.is_none() && args.heartbeat_max_silence.0.is_none() && !args.error_events {
        return SseHeartbeatLayer::disabled();
    }
    // Without heartbeats there are still errors to tell, and a limit to hold.
    let mut layer = SseHeartbeatLayer::new(args.heartbeat.0.unwrap_or(Duration::MAX))
        .frame(match args.heartbeat_frame {
            Heartbeat::ByDialect => HeartbeatFrame::ByDialect,
            Heartbeat::Comment => HeartbeatFrame::Comment,
            Heartbeat::CommentNoBlank => HeartbeatFrame::CommentNoBlank,
            Heartbeat::Newline => HeartbeatFrame::BareNewline,
        })
        .error_events(args.error_events)
        .observer(observer.clone());
    if let Some(limit) = args.heartbeat_max_silence.0 {
        layer = layer.max_silence(limit);
    }
    let when = args.notices;
    if when != Notices::Off {
        layer = layer.notices(move |notice, headers| notices::text(when, notice, headers));
    }
    layer.before_headers(args.begin_early().unwrap_or(Duration::MAX))
}

fn supersede(args: &LayerArgs) -> SupersedeLayer {
    let Some(header) = args.supersede_header.0.clone() else { return SupersedeLayer::disabled() };
    SupersedeLayer::by_header(header).settle(args.supersede_settle.0.unwrap_or_default()).mode(match args.supersede {
        Superseding::Interrupt => SupersedeMode::Interrupt,
        Superseding::Reject => SupersedeMode::Reject,
        Superseding::Enqueue => SupersedeMode::Enqueue { max: ENQUEUED },
    })
}

fn structured(args: &LayerArgs) -> StructuredOutputLayer {
    if args.structured == Switch::Off {
        return StructuredOutputLayer::disabled();
    }
    let layer = StructuredOutputLayer::new().max_reasks(args.structured_reasks);
    match args.hold.0 {
        Some(bytes) => layer.hold_streams(bytes),
        None => layer,
    }
}

fn last_good(args: &LayerArgs) -> LastGoodLayer {
    if args.last_good == Switch::Off {
        return LastGoodLayer::disabled();
    }
    let layer = LastGoodLayer::new().ttl(args.last_good_ttl);
    let Some(texts) = args.last_good_template.clone() else { return layer };
    layer.template(move |request| texts.text(request.model().as_deref()).map(str::to_owned))
}

fn deadline(args: &LayerArgs) -> DeadlineLayer {
    let Some(header) = args.deadline_header.0.clone().map(DeadlineHeader::millis) else {
        return args.deadline.0.map_or_else(DeadlineLayer::disabled, DeadlineLayer::new);
    };
    // Without a limit of our own, the callers' still hold.
    DeadlineLayer::new(args.deadline.0.unwrap_or(Duration::MAX))
        .accept(header.clone())
        .propagate(header)
        .reserve(args.deadline_reserve.0.unwrap_or_default())
}

fn dedup(args: &LayerArgs, has_keys: bool) -> DedupLayer {
    if args.dedup == Switch::Off {
        return DedupLayer::disabled();
    }
    let layer =
        DedupLayer::new().window(args.dedup_window.0.unwrap_or_default()).grace(args.dedup_grace.0.unwrap_or_default());
    let layer = match answers::resumable(args) {
        Some(resumable) => layer.resumable(resumable),
        None => layer,
    };
    match args.dedup_tenant_header.clone() {
        Some(header) => layer.tenant(move |head| tenant(&head.headers, &header).map(|named| account(head, named))),
        // A caller that comes back without a key names nobody.
        None if has_keys => layer.tenant(|head| {
            let is_nobody = head.extensions.get::<Tenant>().is_none();
            (!is_nobody).then(|| account(head, Vec::new()))
        }),
        None => layer,
    }
}

/// Whoever can write a header is not thereby somebody else: the account is always part of who asks.
fn account(head: &Parts, mut tenant: Vec<u8>) -> Vec<u8> {
    let mut add = |part: &[u8]| {
        tenant.extend_from_slice(&part.len().to_be_bytes());
        tenant.extend_from_slice(part);
    };
    if let Some(tenant) = head.extensions.get::<Tenant>() {
        add(tenant.as_str().as_bytes());
    }
    for name in CREDENTIALS {
        for value in head.headers.get_all(&name) {
            add(value.as_bytes());
        }
    }
    tenant
}

/// All lines of the header, and which is which: the caller may have written one before the proxy wrote its own.
fn tenant(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let named = lines().any(|line| !line.is_empty());
    // No value has a line break of its own.
    named.then(|| lines().collect::<Vec<_>>().join(&b'\n'))
}

/// What is wrong with an answer is told to the caller by the heartbeats outside, when nothing could mend it.
fn guard(args: &LayerArgs) -> StreamGuardLayer {
    let layer = StreamGuardLayer::new()
        .enabled(args.guard == Switch::On)
        .missing_end(match args.missing_end {
            Ends::Auto => MissingEnd::Auto,
            Ends::Error => MissingEnd::Error,
            Ends::Allow => MissingEnd::Allow,
        })
        .first_content(args.first_content_timeout.0);
    match args.hold.0 {
        Some(bytes) => layer.hold(bytes),
        None => layer,
    }
}

/// An upstream that sends nothing but keep-alive comments is as stuck as a silent one, here and below.
fn idle(args: &LayerArgs) -> IdleBodyTimeoutLayer {
    let layer = args.idle_timeout.0.map_or_else(IdleBodyTimeoutLayer::disabled, IdleBodyTimeoutLayer::new);
    layer.activity(IdleActivity::SseEvents)
}

fn first_byte(args: &LayerArgs) -> FirstByteTimeoutLayer {
    let layer = args.first_byte_timeout.0.map_or_else(FirstByteTimeoutLayer::disabled, FirstByteTimeoutLayer::new);
    let layer = layer.until(FirstByteEvent::SseEvent);
    match (args.first_byte_timeout.0, args.answer_timeout.0) {
        (Some(_), limit) => layer.answer(limit.unwrap_or(Duration::MAX)),
        (None, Some(limit)) => FirstByteTimeoutLayer::new(Duration::MAX).until(FirstByteEvent::SseEvent).answer(limit),
        (None, None) => layer,
    }
}

fn connect(args: &LayerArgs) -> ConnectTimeoutLayer {
    args.connect_timeout.0.map_or_else(ConnectTimeoutLayer::disabled, ConnectTimeoutLayer::new)
}
