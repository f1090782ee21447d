//! The layers, in their order. This is the only place that knows it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use rustls::ClientConfig;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_buttress::error::{BoxError, BoxedError};
use tower_buttress::{
    CallBody, CircuitBreakerLayer, ConnectTimeoutLayer, DeadlineHeader, DeadlineLayer, DedupLayer, FallbackLayer,
    FirstByteEvent, FirstByteTimeoutLayer, HeartbeatFrame, IdleActivity, IdleBodyTimeoutLayer, InvalidOutput,
    LastGoodLayer, Memory, MissingEnd, ObserveLayer, Observer, PaceLayer, ResumeLayer, RetryAfterBackoffLayer,
    SseHeartbeatLayer, StreamGuardLayer, StructuredOutputLayer, SupersedeLayer, SupersedeMode, Tenant,
};

use super::account::account;
use super::answer_body::AnswerBody;
use super::args::{
    Args, Backup, Concurrency, Ends, Heartbeat, LayerArgs, Notices, Resuming, Superseding, Switch, Trace,
};
use super::callers::RemovedKeyLayer;
use super::circuits::Circuits;
use super::fleet::AnswerStore;
use super::ids::X_REQUEST_ID;
use super::kept::Kept;
use super::load::Lanes;
use super::notices;
use super::problem;
use super::reading::Plan;
use super::similar;
use super::state::{Guards, RouteState, States};
use super::upstream::{Connectors, EntryLayer, Forward, Upstream};
use super::weights::Weighted;

/// The name of an upstream that is no fallback.
const PRIMARY: &str = "upstream";

/// How many messages of one conversation may wait.
const ENQUEUED: u32 = 16;

/// On an answer that is not the JSON that was asked for, though the model was asked again.
const OUTPUT: HeaderName = HeaderName::from_static("x-gateway-output");

/// What the stacks of all routes share.
pub(crate) struct Shared {
    tls: ClientConfig,
    observer: Arc<dyn Observer>,
    kept: Kept,
    lanes: Lanes,
    /// A caller's limits hold for all that it asks for.
    per_caller: PaceLayer,
    memory: Memory,
    /// Each attempt is a span of its caller's trace.
    continues_traces: bool,
    /// Callers come back to their answers at a URL that says nothing of a route.
    dedup: DedupLayer<AnswerStore>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        args: &Args,
        states: &mut States,
        tls: &ClientConfig,
        kept: &Kept,
        lanes: &Lanes,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let per_caller = states.callers(&args.callers);
        let dedup = dedup(args, states, lanes);
        kept.answers(&states.dedup(&args.layers, lanes));
        Self {
            tls: tls.clone(),
            observer: observer.clone(),
            kept: kept.clone(),
            lanes: lanes.clone(),
            per_caller,
            memory: states.memory().clone(),
            continues_traces: args.server.trace == Trace::Attempts,
            dedup: states.shared(dedup),
        }
    }
}

/// Everything between a request that is ready to go out and an answer that is ready to come back.
pub(crate) struct Stack {
    heartbeat: SseHeartbeatLayer,
    deadline: DeadlineLayer,
    supersede: SupersedeLayer,
    last_good: LastGoodLayer,
    resume: ResumeLayer,
    upstreams: Upstreams,
}

// === impl Stack ===

impl Stack {
    /// That of a route.
    pub(crate) fn new(plan: &Plan<'_>, state: &mut RouteState, circuits: &mut Circuits, shared: &Shared) -> Self {
        let Plan { args: Args { upstreams, layers, .. }, upstream, breaker, .. } = plan;
        let Shared { tls, observer, kept, lanes, memory, .. } = shared;
        let connect = connect(layers).observer(observer.clone());
        let connectors = Connectors::new(tls).map(|connector| connect.layer(connector));
        let mut guards = |name: &str, url: &Upstream| {
            let Guards { name, breaker, queue, pace } = state.upstream(name, url, layers, breaker.clone());
            lanes.add(&name, (layers.concurrency != Concurrency::Off).then_some(&queue), &pace);
            if let Some(breaker) = &breaker {
                circuits.add(&name, breaker);
            }
            (queue, pace, breaker.unwrap_or_else(CircuitBreakerLayer::disabled))
        };
        let (queue, pace, breaker) = guards(PRIMARY, upstream);
        let backups: Vec<_> =
            upstreams.backups.iter().map(|backup| (backup, guards(&backup.name, &backup.upstream))).collect();
        let attempt = ServiceBuilder::new()
            .layer(guard(layers, state.guard.clone()).observer(observer.clone()))
            .layer(idle(layers).observer(observer.clone()))
            .layer(first_byte(layers).observer(observer.clone()));
        let structured = structured(layers).memory(memory.clone()).observer(observer.clone());
        let last_good = match similar::similar(layers, &connectors) {
            Some(similar) => last_good(layers, &state.last_good).similar(similar),
            None => last_good(layers, &state.last_good),
        };
        let primary = ServiceBuilder::new()
            .layer(EntryLayer::new(upstream.clone(), upstreams.credential()))
            .layer(&structured)
            .layer(retry(layers).budget(state.budget.clone()).memory(memory.clone()).observer(observer.clone()))
            .layer(ObserveLayer::attempts(PRIMARY))
            .layer(queue)
            .layer(pace)
            .layer(breaker)
            .layer(&attempt)
            .service(Forward::new(&connectors, upstream.clone()));
        let backups = backups.into_iter().map(|(backup, (queue, pace, breaker))| {
            let service = ServiceBuilder::new()
                .layer(EntryLayer::new(backup.upstream.clone(), backup.credential.clone()))
                .layer(&structured)
                .layer(ObserveLayer::attempts(backup.name.clone()))
                .layer(queue)
                .layer(pace)
                .layer(breaker)
                .layer(&attempt)
                .service(Forward::new(&connectors, backup.upstream.clone()));
            // No account pays for a fallback that takes no credential.
            let own = !upstreams.credential().is_empty() || backup.credential.is_empty();
            let layer = fallback(backup, boxed(service)).own_credentials(own).memory(memory.clone());
            (backup.weight, layer.observer(observer.clone()))
        });
        let chain = chain(boxed(primary), &backups.collect::<Vec<_>>());
        let resume = ResumeLayer::new()
            .enabled(layers.resume != Resuming::Off)
            .verified_restart(layers.resume == Resuming::Verified)
            .memory(memory.clone())
            .observer(observer.clone());
        let supersede = supersede(layers, state);
        kept.last_good(&state.last_good);
        kept.conversations(&supersede);
        let (heartbeat, deadline) = (heartbeat(layers, observer), deadline(layers, layers.deadline.0));
        Self { heartbeat, deadline, supersede, last_good, resume, upstreams: chain }
    }

    /// That of callers that come back to an answer, whichever route it came from. No limit of a route holds for them: the call
    /// that they read has its own.
    pub(crate) fn of_answers(args: &Args, shared: &Shared) -> Self {
        Self {
            heartbeat: heartbeat(&args.layers, &shared.observer),
            deadline: deadline(&args.layers, None),
            supersede: SupersedeLayer::disabled(),
            last_good: LastGoodLayer::disabled(),
            resume: ResumeLayer::disabled(),
            // Nothing is asked of an upstream by coming back.
            upstreams: boxed(tower::service_fn(|_| async { Ok::<_, BoxError>(problem::no_such_page()) })),
        }
    }

    /// Puts it together, outermost first.
    pub(crate) fn service<B>(
        self,
        shared: &Shared,
    ) -> impl Service<
        Request<B>,
        Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static + use<B>>,
        Error: Into<BoxError>,
        Future: Send,
    >
    + Clone
    + Send
    + Sync
    + 'static
    + use<B>
    where
        B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static,
    {
        let Shared { observer, per_caller, dedup, .. } = shared;
        ServiceBuilder::new()
            .layer(ObserveLayer::new("gateway").request_id(X_REQUEST_ID).trace_context(shared.continues_traces))
            .layer(self.heartbeat)
            .layer(RemovedKeyLayer)
            .layer(self.deadline.observer(observer.clone()))
            .layer(per_caller.clone())
            .layer(self.supersede.observer(observer.clone()))
            .layer(dedup.clone())
            .layer(self.last_good.observer(observer.clone()))
            .layer(self.resume)
            .service(self.upstreams)
    }
}

/// The upstream and its fallbacks: one type for a chain of any length.
type Upstreams = BoxCloneSyncService<Request<CallBody>, Response<AnswerBody>, BoxedError>;

/// The upstream, and behind it its fallbacks: in their order, or, where they have weights, first one that is chosen by its
/// weight for each call, and then the others in their order.
fn chain(primary: Upstreams, backups: &[(Option<NonZeroU32>, FallbackLayer<Upstreams>)]) -> Upstreams {
    let ask = |before: Upstreams, (_, layer): &(_, FallbackLayer<Upstreams>)| boxed(layer.layer(before));
    let led_by = |nth: usize| {
        let (before, rest) = backups.split_at(nth);
        let (first, after) = rest.split_first()?;
        let others = before.iter().chain(after);
        Some((first.0?, others.fold(ask(primary.clone(), first), ask)))
    };
    let mut weighted: Vec<_> = (0..backups.len()).filter_map(led_by).collect();
    match weighted.pop() {
        Some(last) => boxed(Weighted::new(weighted, last)),
        None => backups.iter().fold(primary, ask),
    }
}

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

fn fallback(backup: &Backup, service: Upstreams) -> FallbackLayer<Upstreams> {
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
        .respond_async(args.respond_async == Switch::On)
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

fn supersede(args: &LayerArgs, state: &mut RouteState) -> SupersedeLayer {
    let layer = state.conversations(args.supersede_header.0.as_ref());
    layer.settle(args.supersede_settle.0.unwrap_or_default()).mode(match args.supersede {
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

fn last_good(args: &LayerArgs, kept: &LastGoodLayer) -> LastGoodLayer {
    if args.last_good == Switch::Off {
        return LastGoodLayer::disabled();
    }
    let layer = kept.clone().ttl(args.last_good_ttl);
    let Some(texts) = args.last_good_template.clone() else { return layer };
    layer.template(move |request| texts.text(request.model().as_deref()).map(str::to_owned))
}

fn deadline(args: &LayerArgs, limit: Option<Duration>) -> DeadlineLayer {
    let Some(header) = args.deadline_header.0.clone().map(DeadlineHeader::millis) else {
        return limit.map_or_else(DeadlineLayer::disabled, DeadlineLayer::new);
    };
    // Without a limit of our own, the callers' still hold.
    DeadlineLayer::new(limit.unwrap_or(Duration::MAX))
        .accept(header.clone())
        .propagate(header)
        .reserve(args.deadline_reserve.0.unwrap_or_default())
}

fn dedup(Args { layers: args, callers, .. }: &Args, states: &mut States, lanes: &Lanes) -> DedupLayer {
    if args.dedup == Switch::Off {
        return DedupLayer::disabled();
    }
    let layer = states.dedup(args, lanes);
    let layer = layer.window(args.dedup_window.0.unwrap_or_default()).grace(args.dedup_grace.0.unwrap_or_default());
    match args.dedup_tenant_header.clone() {
        Some(header) => layer.tenant(move |head| tenant(&head.headers, &header).map(|named| account(head, named))),
        // A caller that comes back without a key names nobody.
        None if callers.keys().is_some() => layer.tenant(|head| {
            let is_nobody = head.extensions.get::<Tenant>().is_none();
            (!is_nobody).then(|| account(head, Vec::new()))
        }),
        None => layer,
    }
}

/// All lines of the header, and which is which: the caller may have written one before the proxy wrote its own.
fn tenant(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let named = lines().any(|line| !line.is_empty());
    // No value has a line break of its own.
    named.then(|| lines().collect::<Vec<_>>().join(&b'\n'))
}

/// What is wrong with an answer is told to the caller by the heartbeats outside, when nothing could mend it.
fn guard(args: &LayerArgs, known: StreamGuardLayer) -> StreamGuardLayer {
    let layer = known
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
