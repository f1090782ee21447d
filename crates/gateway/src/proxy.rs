//! From a client's request to an answer for it: what a gateway owes both sides, around the stack of layers.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::OptionFuture;
use http::header::MAX_FORWARDS;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::{self, OnUpgrade};
use tokio::sync::oneshot;
use tower::Service;
use tower_buttress::error::BoxError;
use tower_buttress::{
    Attempts, CallBody, DedupRole, HeadersSentEarly, Model, Rejection, RejectionKind, RetryReport, ServedBy, Stale,
    StaleKind,
};

use super::answer_body::AnswerBody;
use super::callers::KeyRemoval;
use super::calls::Call;
use super::drain::Drain;
use super::headers::Peer;
use super::inspect::{Inspector, MaybeRead, NoMemory, UnclearModel, Unread};
use super::problem::SERVED_BY;
use super::routes::{RouteMatch, Routes};
use super::spare::Spares;
use super::telemetry::Seldom;
use super::unread::Sender;
use super::upload::{Upload, UploadWatch};
use super::upstream::Asked;
use super::{headers, problem, telemetry, tunnel};

/// The number of attempts at the upstream that served the call, or failed to.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-gateway-attempts");

/// Whether an equal request had been made: `leader`, `joined`, `replayed`, or `resumed`. Absent where that cannot be told.
const DEDUP: HeaderName = HeaderName::from_static("x-gateway-dedup");

/// Keeps the caller's SDK from repeating what the gateway has repeated already.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// How long the upstream took to its head, and what the gateway added (queues, retries and waits for them, too).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What a request's body is when it goes through the stack.
pub(crate) type RequestBody = CallBody;

/// Passes requests through the stacks of their routes.
#[derive(Debug)]
pub(crate) struct Proxy<S> {
    routes: Routes<S>,
    inspector: Inspector,
    drain: Drain,
}

/// The attempts at a call, as far as they were made.
#[derive(Clone, Debug, Default)]
struct Made {
    asked: Asked,
    report: RetryReport,
}

// === impl Proxy ===

impl<S> Proxy<S> {
    pub(crate) fn new(routes: Routes<S>, inspector: Inspector, drain: Drain) -> Self {
        Self { routes, inspector, drain }
    }

    pub(crate) async fn answer<B>(&self, request: Request<Incoming>, peer: Peer) -> Response<AnswerBody>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>> + Clone,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let begun = Instant::now();
        let sender = Sender::new(request.version(), request.headers());
        let announces_trailers = headers::needs_announced_trailers(request.version(), request.headers());
        let (mut parts, body) = request.into_parts();
        let place = match self.place(&mut parts) {
            Ok(place) => place,
            Err(refusal) => return sender.refuse(body, *refusal).await,
        };
        let mut request = Request::from_parts(parts, body);
        let upgrade = tunnel::asked(&mut request).map(|client| (client, request.extensions().get().cloned()));
        let (mut parts, body) = request.into_parts();
        headers::forward_request(&mut parts, peer);
        if upgrade.is_some() {
            tunnel::mark(&mut parts.headers);
        }
        let attempts = Made::default();
        parts.extensions.insert(attempts.asked.clone());
        parts.extensions.insert(attempts.report.clone());
        let depends = matches!(place, RouteMatch::Unsure);
        let request = match self.inspector.inspect(Request::from_parts(parts, body), depends).await {
            Ok(request) => request,
            Err(Unread::Late(body)) => return sender.answer(body, problem::late_request()).await,
            Err(Unread::TooLong(body)) => return sender.answer(body, problem::too_long_to_read()).await,
            Err(Unread::Broken(error)) => return broken(&error),
        };
        let (parts, body) = request.into_parts();
        let model = parts.extensions.get::<Model>().cloned();
        if let Some(call) = parts.extensions.get::<Arc<Call>>() {
            call.read(model.as_ref(), &attempts.asked);
        }
        let stack = match self.stack(&place, &parts, model.as_ref()) {
            Ok(stack) => stack,
            Err(refusal) => {
                return match body {
                    MaybeRead::Begun(body) => sender.refuse(body.into_rest(), refusal()).await,
                    MaybeRead::Whole(_) => refusal(),
                };
            }
        };
        let (body, watch) = watched(body);
        let (failure, rest) = watch.map(|UploadWatch { failure, rest }| (failure, rest)).unzip();
        let failure = OptionFuture::from(failure);
        let mut response = tokio::select! {
            biased;
            answer = stack.call(Request::from_parts(parts, body)) => match answer {
                Ok(response) => pass_on(response, upgrade, &self.drain, &attempts),
                Err(error) => attempts.failed(&error.into()),
            },
            Some(Ok(error)) = failure => return broken(error.as_ref()),
        };
        if announces_trailers {
            headers::announce_trailers(&mut response);
        }
        attempts.time(begun, response.headers_mut());
        response.extensions_mut().insert(attempts.asked);
        if let Some(model) = model {
            response.extensions_mut().insert(model);
        }
        let Some(mut rest) = rest else { return response };
        match rest.try_recv() {
            Ok(body) => sender.answer(body, response).await,
            Err(oneshot::error::TryRecvError::Empty) => {
                sender.later(rest);
                response
            }
            Err(oneshot::error::TryRecvError::Closed) => response,
        }
    }

    /// Where a request goes, by its head. `Err`: the answer to one that goes no further than here. In the stack it would be a fault
    /// of the upstream: tried again, and counted by its breaker.
    fn place(&self, parts: &mut Parts) -> Result<RouteMatch<'_, S>, Box<Response<AnswerBody>>> {
        if parts.method == Method::CONNECT {
            return Err(problem::no_tunnels().into());
        }
        let place = self.routes.by_head(parts.uri.path());
        match &place {
            RouteMatch::Nowhere => return Err(problem::no_route().into()),
            RouteMatch::Ambiguous => return Err(problem::ambiguous_path().into()),
            RouteMatch::At(route) if !route.upstream.has_place(&parts.uri) => {
                return Err(problem::no_such_place().into());
            }
            RouteMatch::At(_) | RouteMatch::Answers(_) | RouteMatch::Unsure => {}
        }
        if is_last_hop(parts) { Err(problem::last_hop(&parts.method).into()) } else { Ok(place) }
    }

    /// What answers a call. `Err`: nothing does, and this makes the refusal.
    fn stack<'a>(
        &'a self,
        place: &RouteMatch<'a, S>,
        parts: &Parts,
        model: Option<&Model>,
    ) -> Result<&'a Spares<S>, fn() -> Response<AnswerBody>> {
        match *place {
            RouteMatch::At(route) => return Ok(&route.stack),
            RouteMatch::Answers(stack) => return Ok(stack),
            // Which limits hold is not for the caller to choose.
            RouteMatch::Unsure if parts.extensions.get::<UnclearModel>().is_some() => {
                return Err(problem::unclear_model);
            }
            RouteMatch::Unsure if parts.extensions.get::<NoMemory>().is_some() => return Err(problem::no_memory),
            RouteMatch::Unsure | RouteMatch::Ambiguous | RouteMatch::Nowhere => {}
        }
        let found = self.routes.find(parts.uri.path(), model.map(Model::as_str));
        let Some(route) = found else { return Err(problem::no_route) };
        if route.upstream.has_place(&parts.uri) { Ok(&route.stack) } else { Err(problem::no_such_place) }
    }
}

/// A request's body for the stack; and, where it is not in memory yet, what becomes of it.
fn watched(body: MaybeRead) -> (CallBody, Option<UploadWatch>) {
    match body {
        MaybeRead::Whole(data) => (CallBody::from(data), None),
        MaybeRead::Begun(body) if body.is_end_stream() => (CallBody::empty(), None),
        MaybeRead::Begun(body) => {
            let (upload, watch) = Upload::watched(body);
            (CallBody::new(upload), Some(watch))
        }
    }
}

// === impl Made ===

impl Made {
    /// The answer where no upstream gave one.
    fn failed(&self, error: &BoxError) -> Response<AnswerBody> {
        static WARNINGS: Seldom = Seldom::new();
        if let Some(left_out) = WARNINGS.one_more(Instant::now()) {
            tracing::warn!(left_out, "no answer from the upstream: {}", telemetry::chain(error.as_ref()));
        }
        let mut response = self.count(problem::bad_gateway(error));
        if self.report.is_final() {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// The answer where a layer refused.
    fn refused(&self, rejection: &Rejection, response: Response<AnswerBody>) -> Response<AnswerBody> {
        let mut response = self.count(problem::of_rejection(rejection, response));
        // What the retries inside ended with, they have marked. This one comes from outside of them.
        if rejection.kind() == RejectionKind::DeadlineExceeded && self.asked.times() > 0 {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// Says how long it took to this head.
    fn time(&self, begun: Instant, headers: &mut HeaderMap) {
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        let total = begun.elapsed();
        let timing = match self.asked.took() {
            Some(took) => {
                format!("upstream;dur={:.1}, gateway;dur={:.1}", millis(took), millis(total.saturating_sub(took)))
            }
            None => format!("gateway;dur={:.1}", millis(total)),
        };
        if let Ok(timing) = HeaderValue::from_str(&timing) {
            headers.append(SERVER_TIMING, timing);
        }
    }

    fn count(&self, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
        if self.asked.times() > 0 {
            response.headers_mut().insert(ATTEMPTS, HeaderValue::from(self.asked.times()));
        }
        response
    }
}

/// A client that does not send all of its request has left; the upstream is not at fault.
fn broken(error: &(dyn Error + 'static)) -> Response<AnswerBody> {
    tracing::debug!("a request broke off: {}", telemetry::chain(error));
    problem::broken_request()
}

fn pass_on<B>(
    mut response: Response<B>,
    upgrade: Option<(OnUpgrade, Option<KeyRemoval>)>,
    drain: &Drain,
    made: &Made,
) -> Response<AnswerBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        let Some((client, removal)) = upgrade.filter(|_| tunnel::to_websocket(response.headers())) else {
            return problem::wrong_protocol();
        };
        tokio::spawn(tunnel::carry(client, upgrade::on(&mut response), drain.open(), removal));
    }
    // What began before its answer does not know yet how that will come about.
    let early = response.extensions().get::<HeadersSentEarly>().is_some();
    let attempts = HeaderValue::from(Attempts::of(&response).0);
    let served_by = served_by(&response);
    let rejection = Rejection::of(&response).cloned();
    let role = response.extensions().get().and_then(role);
    let (mut parts, body) = response.into_parts();
    headers::forward_response(&mut parts);
    let mut response = Response::from_parts(parts, body.map_err(Into::into).boxed_unsync());
    if let Some(rejection) = rejection.filter(|rejection| !problem::is_upstreams_own(rejection)) {
        response = made.refused(&rejection, response);
    } else if !early {
        response.headers_mut().insert(ATTEMPTS, attempts);
        response.headers_mut().insert(SERVED_BY, served_by.unwrap_or(HeaderValue::from_static("upstream")));
    }
    if let Some(role) = role {
        response.headers_mut().insert(DEDUP, HeaderValue::from_static(role));
    }
    if switching {
        tunnel::mark(response.headers_mut());
    }
    response
}

/// Who gave the answer, where that was not the upstream.
fn served_by<B>(response: &Response<B>) -> Option<HeaderValue> {
    match Stale::of(response).map(|stale| stale.kind) {
        Some(StaleKind::Template) => Some(HeaderValue::from_static("template")),
        Some(StaleKind::Similar) => Some(HeaderValue::from_static("similar")),
        Some(_) => Some(HeaderValue::from_static("cache")),
        None => ServedBy::of(response).and_then(|name| HeaderValue::from_str(name).ok()),
    }
}

fn role(role: &DedupRole) -> Option<&'static str> {
    match role {
        DedupRole::Leader => Some("leader"),
        DedupRole::Joined => Some("joined"),
        DedupRole::Replayed => Some("replayed"),
        DedupRole::Resumed => Some("resumed"),
        _ => None,
    }
}

/// Counts `Max-Forwards` down, where it counts (RFC 9110, 7.6.2).
fn is_last_hop(parts: &mut Parts) -> bool {
    if parts.method != Method::TRACE && parts.method != Method::OPTIONS {
        return false;
    }
    let Some(hops) = parts.headers.get_mut(MAX_FORWARDS) else { return false };
    // What is no number was not meant for us.
    let Some(left) = hops.to_str().ok().and_then(|text| text.parse::<u32>().ok()) else { return false };
    match left.checked_sub(1) {
        Some(left) => *hops = HeaderValue::from(left),
        None => return true,
    }
    false
}
