//! Builds the layers in their order.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use rustls::ClientConfig;
use tower::{Layer, Service, ServiceBuilder};
use tower_buttress::error::BoxError;
use tower_buttress::{
    CircuitBreakerLayer, DeadlineLayer, DedupLayer, FallbackLayer, LastGoodLayer, Memory, ObserveLayer, Observer,
    PaceLayer, ResumeLayer, SseHeartbeatLayer, SupersedeLayer,
};

use super::args::{Args, BackupArgs, ConcurrencyArg, Resuming, TraceArg};
use super::callers::RemovedKeyLayer;
use super::checked_config::RoutePlan;
use super::circuits::Circuits;
use super::fleet::DedupStore;
use super::forgetful_layers::ForgetfulLayers;
use super::ids::X_REQUEST_ID;
use super::layers;
use super::load::Loads;
use super::problem;
use super::similar;
use super::state::{Guards, RouteState, States};
use super::telemetry;
use super::upstream::{Connectors, EntryLayer, Forward, Upstream};
use super::upstream_box::UpstreamBox;
use super::weights::Weighted;

/// The name of the first upstream, which is not a fallback.
const PRIMARY: &str = "upstream";

/// What the stacks of all routes share.
pub(crate) struct Shared {
    tls: ClientConfig,
    observer: Arc<dyn Observer>,
    forgetful: ForgetfulLayers,
    loads: Loads,
    /// Shared, because a caller's limits apply over all routes.
    per_caller: PaceLayer,
    memory: Memory,
    /// Whether each attempt becomes a span of the caller's trace.
    continues_traces: bool,
    /// Shared, because the URL of a kept answer does not name a route.
    dedup: DedupLayer<DedupStore>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        args: &Args,
        states: &mut States,
        tls: &ClientConfig,
        forgetful: &ForgetfulLayers,
        loads: &Loads,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let per_caller = states.callers(&args.callers);
        let dedup = layers::dedup(args, states, loads);
        forgetful.answers(&states.dedup(&args.layers, loads));
        Self {
            tls: tls.clone(),
            observer: observer.clone(),
            forgetful: forgetful.clone(),
            loads: loads.clone(),
            per_caller,
            memory: states.memory().clone(),
            continues_traces: args.server.trace == TraceArg::Attempts,
            dedup: states.shared(dedup),
        }
    }
}

/// The layers between the proxy and the upstreams.
pub(crate) struct Stack {
    heartbeat: SseHeartbeatLayer,
    deadline: DeadlineLayer,
    supersede: SupersedeLayer,
    last_good: LastGoodLayer,
    resume: ResumeLayer,
    upstreams: UpstreamBox,
}

// === impl Stack ===

impl Stack {
    /// Builds the stack of a route.
    pub(crate) fn new(plan: &RoutePlan<'_>, state: &mut RouteState, circuits: &mut Circuits, shared: &Shared) -> Self {
        let RoutePlan { args: Args { upstreams, layers: args, .. }, upstream, breaker, .. } = plan;
        let Shared { tls, observer, forgetful, loads, memory, .. } = shared;
        let connect = layers::connect(args).observer(observer.clone());
        let connectors = Connectors::new(tls).map(|connector| connect.layer(connector));
        let mut guards = |name: &str, url: &Upstream| {
            let Guards { name, breaker, queue, pace } = state.upstream(name, url, args, breaker.clone());
            loads.add(&name, (args.concurrency != ConcurrencyArg::Off).then_some(&queue), &pace);
            if let Some(breaker) = &breaker {
                circuits.add(&name, breaker);
            }
            (queue, pace, breaker.unwrap_or_else(CircuitBreakerLayer::disabled))
        };
        let (queue, pace, breaker) = guards(PRIMARY, upstream);
        let backups: Vec<_> =
            upstreams.backups.iter().map(|backup| (backup, guards(&backup.name, &backup.upstream))).collect();
        let attempt = ServiceBuilder::new()
            .layer(layers::guard(args, state.guard.clone()).observer(observer.clone()))
            .layer(layers::idle(args).observer(observer.clone()))
            .layer(layers::first_byte(args).observer(observer.clone()));
        let structured = layers::structured(args).memory(memory.clone()).observer(observer.clone());
        let last_good = layers::last_good(args, &state.last_good);
        let last_good = match similar::similar(args, &connectors) {
            Some(similar) => last_good.similar(similar),
            None => last_good,
        };
        let primary = ServiceBuilder::new()
            .layer(EntryLayer::new(upstream.clone(), upstreams.credential()))
            .layer(&structured)
            .layer(layers::retry(args).budget(state.budget.clone()).memory(memory.clone()).observer(observer.clone()))
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
            // A fallback without a credential costs no account anything.
            let own = !upstreams.credential().is_empty() || backup.credential.is_empty();
            let layer = fallback(backup, UpstreamBox::new(service)).own_credentials(own).memory(memory.clone());
            (backup.weight, layer.observer(observer.clone()))
        });
        let chain = chain(UpstreamBox::new(primary), &backups.collect::<Vec<_>>());
        let resume = ResumeLayer::new()
            .enabled(args.resume != Resuming::Off)
            .verified_restart(args.resume == Resuming::Verified)
            .memory(memory.clone())
            .observer(observer.clone());
        let supersede = layers::supersede(args, state);
        forgetful.last_good(&state.last_good);
        forgetful.conversations(&supersede);
        let (heartbeat, deadline) = (layers::heartbeat(args, observer), layers::deadline(args, args.deadline.0));
        Self { heartbeat, deadline, supersede, last_good, resume, upstreams: chain }
    }

    /// Builds the stack for callers that come back to an answer, of any route. No limit of a route applies: the call
    /// behind the answer has its own.
    pub(crate) fn of_answers(args: &Args, shared: &Shared) -> Self {
        Self {
            heartbeat: layers::heartbeat(&args.layers, &shared.observer),
            deadline: layers::deadline(&args.layers, None),
            supersede: SupersedeLayer::disabled(),
            last_good: LastGoodLayer::disabled(),
            resume: ResumeLayer::disabled(),
            // Coming back never calls an upstream.
            upstreams: UpstreamBox::new(tower::service_fn(|_| async { Ok::<_, BoxError>(problem::no_such_page()) })),
        }
    }

    /// Assembles the layers, outermost first.
    pub(crate) fn service<B>(
        self,
        shared: &Shared,
    ) -> impl Service<
        Request<B>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + 'static + use<B>>,
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
        let observe = ObserveLayer::new("gateway").request_id(X_REQUEST_ID).trace_context(shared.continues_traces);
        ServiceBuilder::new()
            .layer(observe.late_spans(telemetry::has_late_spans() && !shared.continues_traces))
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

/// Chains the upstream and its fallbacks in their order. With weights, each call chooses the first fallback by weight;
/// the others follow in their order.
fn chain(primary: UpstreamBox, backups: &[(Option<NonZeroU32>, FallbackLayer<UpstreamBox>)]) -> UpstreamBox {
    let ask = |before: UpstreamBox, (_, layer): &(_, FallbackLayer<UpstreamBox>)| UpstreamBox::new(layer.layer(before));
    let led_by = |nth: usize| {
        let (before, rest) = backups.split_at(nth);
        let (first, after) = rest.split_first()?;
        let others = before.iter().chain(after);
        Some((first.0?, others.fold(ask(primary.clone(), first), ask)))
    };
    let mut weighted: Vec<_> = (0..backups.len()).filter_map(led_by).collect();
    match weighted.pop() {
        Some(last) => UpstreamBox::new(Weighted::new(weighted, last)),
        None => backups.iter().fold(primary, ask),
    }
}

fn fallback(backup: &BackupArgs, service: UpstreamBox) -> FallbackLayer<UpstreamBox> {
    let layer = FallbackLayer::new(service).name(backup.name.clone());
    let Some(model) = backup.model.clone() else { return layer };
    layer.rewrite(move |request| request.map(|body| with_model(body, &model)))
}

/// Replaces the model in a JSON object. Returns any other body unchanged.
fn with_model(body: Bytes, model: &str) -> Bytes {
    let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&body) else { return body };
    let Some(asked) = json.get_mut("model") else { return body };
    *asked = model.into();
    json.to_string().into()
}
