//! The layers, in their order. This is the only place that knows it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use rustls::ClientConfig;
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_buttress::error::{BoxError, BoxedError};
use tower_buttress::{
    CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitWindow, ConnectTimeoutLayer,
    DeadlineHeader, DeadlineLayer, DedupLayer, EarlySseHeartbeatLayer, FallbackLayer, FirstByteEvent,
    FirstByteTimeoutLayer, HeartbeatFrame, IdleActivity, IdleBodyTimeoutLayer, Observer, RetryAfterBackoffLayer,
    SseHeartbeatLayer, Tenant, TimeoutProfile,
};

use super::access::AnswerBody;
use super::args::{Args, Backup, Heartbeat, Switch};
use super::upstream::{Connectors, CredentialLayer, Forward, Upstream};

/// Where callers name their account.
const CREDENTIALS: [HeaderName; 5] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Everything between a request that is ready to go out and an answer that is ready to come back, outermost first.
pub(crate) fn stack<B>(
    args: &Args,
    upstream: Upstream,
    tls: &ClientConfig,
    circuits: &Circuits,
    observer: &Arc<dyn Observer>,
) -> impl Service<
    Request<B>,
    Response = Response<impl Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static>,
    Error: Into<BoxError>,
    Future: Send,
> + Clone
+ Send
+ 'static
where
    B: Body<Data = Bytes, Error: Into<BoxError> + Send> + Send + Unpin + 'static,
{
    let connect = connect(args).observer(observer.clone());
    let connectors = Connectors::new(tls).map(|connector| connect.layer(connector));
    let attempt = ServiceBuilder::new()
        .layer(idle(args).observer(observer.clone()))
        .layer(first_byte(args).observer(observer.clone()));
    let primary = ServiceBuilder::new()
        .layer(CredentialLayer::new(args.upstream_credential()))
        .layer(retry(args).observer(observer.clone()))
        .layer(circuits.primary.clone())
        .layer(&attempt)
        .service(Forward::new(&connectors, upstream));
    let chain = args.backups.iter().zip(&circuits.backups).fold(boxed(primary), |before, (backup, circuit)| {
        let service = ServiceBuilder::new()
            .layer(CredentialLayer::new(backup.credential.clone()))
            .layer(circuit.clone())
            .layer(&attempt)
            .service(Forward::new(&connectors, backup.upstream.clone()));
        // A fallback that takes no credential is on nobody's account.
        let own = !args.upstream_credential().is_empty() || backup.credential.is_empty();
        boxed(fallback(backup, service).own_credentials(own).observer(observer.clone()).layer(BoxBodies(before)))
    });
    ServiceBuilder::new()
        .layer(heartbeat(args, observer))
        .layer(deadline(args).observer(observer.clone()))
        .layer(dedup(args).observer(observer.clone()))
        .service(BoxBodies(chain))
}

/// The circuit breakers, made apart from the other layers: their circuits are shown.
#[derive(Clone, Debug)]
pub(crate) struct Circuits {
    pub(crate) primary: CircuitBreakerLayer,
    /// One for each fallback, in order.
    pub(crate) backups: Vec<CircuitBreakerLayer>,
}

/// The upstream and its fallbacks: one type for a chain of any length.
type Upstreams = BoxCloneService<Request<UnsyncBoxBody<Bytes, BoxError>>, Response<AnswerBody>, BoxedError>;

/// Boxes the bodies of requests.
#[derive(Clone, Debug)]
struct BoxBodies(Upstreams);

// === impl Circuits ===

impl Circuits {
    pub(crate) fn new(args: &Args, observer: &Arc<dyn Observer>) -> Result<Self, String> {
        let backups = args.backups.iter().map(|_| breaker(args, observer)).collect::<Result<_, _>>()?;
        Ok(Self { primary: breaker(args, observer)?, backups })
    }

    /// Their handles, with the names of the upstreams. A breaker that is off has no circuit to show.
    pub(crate) fn handles(&self, args: &Args) -> Vec<(String, CircuitBreakerHandle)> {
        if args.breaker == Switch::Off {
            return Vec::new();
        }
        let names = std::iter::once("upstream").chain(args.backups.iter().map(|backup| backup.name.as_str()));
        let circuits = std::iter::once(&self.primary).chain(&self.backups);
        names.zip(circuits).map(|(name, circuit)| (name.to_owned(), circuit.handle())).collect()
    }
}

// === impl BoxBodies ===

impl<B> Service<Request<B>> for BoxBodies
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<AnswerBody>;
    type Error = BoxedError;
    type Future = <Upstreams as Service<Request<UnsyncBoxBody<Bytes, BoxError>>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxedError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request.map(|body| body.map_err(Into::into).boxed_unsync()))
    }
}

fn boxed<S, B>(service: S) -> Upstreams
where
    S: Service<Request<UnsyncBoxBody<Bytes, BoxError>>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service =
        service.map_response(|response: Response<B>| response.map(|body| body.map_err(Into::into).boxed_unsync()));
    BoxCloneService::new(service.map_err(|error| BoxedError::new(error.into())))
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

fn retry(args: &Args) -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::llm()
        .attempts(args.attempts.get())
        .backoff_base(args.backoff_base.0.unwrap_or_default())
        .backoff_cap(args.backoff_cap.0.unwrap_or(Duration::MAX))
        .max_retry_after(args.max_retry_after.0.unwrap_or(Duration::MAX))
        .retry_non_idempotent(args.retry_non_idempotent)
        // A key that the upstream may not know is no licence to repeat what the operator does not want repeated.
        .generate_idempotency_key(args.retry_non_idempotent)
}

fn breaker(args: &Args, observer: &Arc<dyn Observer>) -> Result<CircuitBreakerLayer, String> {
    if args.breaker == Switch::Off {
        return Ok(CircuitBreakerLayer::disabled());
    }
    if !(args.breaker_failure_ratio > 0.0 && args.breaker_failure_ratio <= 1.0) {
        return Err("the failure ratio must lie above 0 and at or below 1".to_owned());
    }
    if args.breaker_open.is_zero() || args.breaker_open > args.breaker_open_max {
        return Err("the open time must be more than zero, and not longer than the longest".to_owned());
    }
    if args.breaker_window < Duration::from_millis(10) {
        return Err("the window must be at least 10 ms".to_owned());
    }
    let mut config = CircuitBreakerConfig::new()
        .window(CircuitWindow::Time(args.breaker_window))
        .min_calls(args.breaker_min_calls.get())
        .failure_ratio(args.breaker_failure_ratio)
        .consecutive_failures(args.breaker_consecutive.get())
        .open_duration(args.breaker_open, args.breaker_open_max);
    if let Some(first_byte) = args.first_byte_timeout.0 {
        // A probe may be silent as long as any call, and no less long than by default.
        let probe_timeout = first_byte.max(TimeoutProfile::EXTENDED_THINKING.first_byte);
        config = config.first_byte(first_byte).probe_timeout(probe_timeout);
    }
    Ok(CircuitBreakerLayer::with_config(config).observer(observer.clone()))
}

fn heartbeat(args: &Args, observer: &Arc<dyn Observer>) -> EarlySseHeartbeatLayer {
    if args.heartbeat.0.is_none() && args.heartbeat_max_silence.0.is_none() && !args.error_events {
        return EarlySseHeartbeatLayer::disabled();
    }
    // Without heartbeats there are still errors to tell, and a limit to hold.
    let mut layer = SseHeartbeatLayer::new(args.heartbeat.0.unwrap_or(Duration::MAX))
        .frame(match args.heartbeat_frame {
            Heartbeat::Comment => HeartbeatFrame::Comment,
            Heartbeat::CommentNoBlank => HeartbeatFrame::CommentNoBlank,
            Heartbeat::Newline => HeartbeatFrame::BareNewline,
        })
        .error_events(args.error_events)
        .observer(observer.clone());
    if let Some(limit) = args.heartbeat_max_silence.0 {
        layer = layer.max_silence(limit);
    }
    layer.before_headers(args.begin_early().unwrap_or(Duration::MAX))
}

fn deadline(args: &Args) -> DeadlineLayer {
    let Some(header) = args.deadline_header.0.clone().map(DeadlineHeader::millis) else {
        return args.deadline.0.map_or_else(DeadlineLayer::disabled, DeadlineLayer::new);
    };
    // Without a limit of our own, the callers' still hold.
    DeadlineLayer::new(args.deadline.0.unwrap_or(Duration::MAX))
        .accept(header.clone())
        .propagate(header)
        .reserve(args.deadline_reserve.0.unwrap_or_default())
}

fn dedup(args: &Args) -> DedupLayer {
    if args.dedup == Switch::Off {
        return DedupLayer::disabled();
    }
    let layer =
        DedupLayer::new().window(args.dedup_window.0.unwrap_or_default()).grace(args.dedup_grace.0.unwrap_or_default());
    match args.dedup_tenant_header.clone() {
        Some(header) => layer.tenant(move |head| tenant(&head.headers, &header).map(|named| account(head, named))),
        None if args.caller_keys().is_some() => layer.tenant(|head| Some(account(head, Vec::new()))),
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

/// An upstream that sends nothing but keep-alive comments is as stuck as a silent one, here and below.
fn idle(args: &Args) -> IdleBodyTimeoutLayer {
    let layer = args.idle_timeout.0.map_or_else(IdleBodyTimeoutLayer::disabled, IdleBodyTimeoutLayer::new);
    layer.activity(IdleActivity::SseEvents)
}

fn first_byte(args: &Args) -> FirstByteTimeoutLayer {
    let layer = args.first_byte_timeout.0.map_or_else(FirstByteTimeoutLayer::disabled, FirstByteTimeoutLayer::new);
    layer.until(FirstByteEvent::SseEvent)
}

fn connect(args: &Args) -> ConnectTimeoutLayer {
    args.connect_timeout.0.map_or_else(ConnectTimeoutLayer::disabled, ConnectTimeoutLayer::new)
}
