//! Does the duties of a gateway to client and upstream, around the stack of layers.

use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use http::header::MAX_FORWARDS;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade;
use tokio::sync::oneshot;
use tower::Service;
use tower_buttress::error::BoxError;
use tower_buttress::{Attempts, CallBody, DedupRole, HeadersSentEarly, Model, Rejection, ServedBy, Stale, StaleKind};

use super::answer_body::AnswerBody;
use super::attempts::{ATTEMPTS, CallAttempts};
use super::calls::CallState;
use super::headers::Peer;
use super::idle_clones::IdleClones;
use super::inspect::{Inspector, MaybeRead, NoMemory, NotInspected, UnclearModel};
use super::problem::SERVED_BY;
use super::routes::{RouteMatch, RouteName, Routes};
use super::shutdown::Shutdown;
use super::trailers::UnannouncedTrailers;
use super::tunnel::{self, TooManyTunnels, Tunnel, Tunnels};
use super::unread::Sender;
use super::upload::{ObservedUpload, UploadReports};
use super::{headers, problem, telemetry};

/// Whether an equal request came before: `leader`, `joined`, `replayed`, or `resumed`. Absent if that is unknown.
pub(crate) const DEDUP: HeaderName = HeaderName::from_static("x-gateway-dedup");

/// The request body inside the stack.
pub(crate) type RequestBody = CallBody;

/// Sends requests through the stacks of their routes.
#[derive(Debug)]
pub(crate) struct Proxy<S> {
    routes: Routes<S>,
    inspector: Inspector,
    /// Headers in which upstreams take a credential, beside the well-known ones.
    credentials: Vec<HeaderName>,
    tunnels: Tunnels,
    shutdown: Shutdown,
}

/// The stack of a call, and the name of its route.
type NamedStack<'a, S> = (&'a IdleClones<S>, Option<&'a RouteName>);

// === impl Proxy ===

impl<S> Proxy<S> {
    pub(crate) fn new(
        routes: Routes<S>,
        inspector: Inspector,
        credentials: Vec<HeaderName>,
        tunnels: Tunnels,
        shutdown: Shutdown,
    ) -> Self {
        Self { routes, inspector, credentials, tunnels, shutdown }
    }

    pub(crate) async fn answer<B>(
        &self,
        request: Request<Incoming>,
        call: &CallState,
        sender: Sender,
        peer: Peer,
    ) -> Response<AnswerBody>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>> + Clone,
        B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        let begun = Instant::now();
        if headers::is_loop(request.headers()) {
            return sender.refuse(request.into_body(), problem::in_circle()).await;
        }
        let (mut parts, body) = request.into_parts();
        let trailers = parts.extensions.remove::<UnannouncedTrailers>();
        let matched = match self.match_head(&mut parts) {
            Ok(matched) => matched,
            Err(refusal) => return sender.refuse(body, *refusal).await,
        };
        let client = tunnel::asked(&mut parts);
        let tunnel = match client.map(|client| self.tunnels.begin(client, &parts)).transpose() {
            Ok(tunnel) => tunnel,
            Err(TooManyTunnels) => return sender.refuse(body, problem::too_many_tunnels()).await,
        };
        headers::forward_request(&mut parts, peer);
        headers::mark_credentials(&mut parts.headers, &self.credentials);
        if tunnel.is_some() {
            tunnel::mark(&mut parts.headers);
        }
        let attempts = CallAttempts::default();
        attempts.follow(&mut parts.extensions);
        let depends = matches!(matched, RouteMatch::Unsure);
        let body = match self.inspector.inspect(&mut parts, body, depends).await {
            Ok(body) => body,
            Err(NotInspected::Late(body)) => return sender.answer(body, problem::late_request()).await,
            Err(NotInspected::TooLong(body)) => return sender.answer(body, problem::too_long_to_read()).await,
            Err(NotInspected::Broken(error)) => return broken(&error),
        };
        let model = parts.extensions.get::<Model>().cloned();
        call.read(model.as_ref(), attempts.asked());
        let (stack, route) = match self.stack(&matched, &parts, model.as_ref()) {
            Ok(found) => found,
            Err(refusal) => {
                return match body {
                    MaybeRead::Begun(body) => sender.refuse(body.into_rest(), refusal()).await,
                    MaybeRead::Whole(_) => refusal(),
                };
            }
        };
        let (body, watch) = watched(body);
        let (failure, rest) = watch.map(|UploadReports { failure, rest }| (failure, rest)).unzip();
        let failure = OptionFuture::from(failure);
        let mut response = tokio::select! {
            biased;
            answer = stack.call(Request::from_parts(parts, body)) => match answer {
                Ok(response) => pass_on(response, tunnel, &self.shutdown, &attempts),
                Err(error) => attempts.failed(&error.into(), call.id()),
            },
            Some(Ok(error)) = failure => return broken(error.as_ref()),
        };
        if let Some(trailers) = trailers {
            response = trailers.follow(response);
        }
        attempts.time(begun, response.headers_mut());
        response.extensions_mut().insert(attempts.asked().clone());
        if let Some(model) = model {
            response.extensions_mut().insert(model);
        }
        if let Some(route) = route {
            response.extensions_mut().insert(route.clone());
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

    /// Finds the route of a request by its head. `Err`: the answer to a refused request. Inside the stack the refusal
    /// would count as a fault of the upstream, and be retried.
    fn match_head(&self, parts: &mut Parts) -> Result<RouteMatch<'_, S>, Box<Response<AnswerBody>>> {
        match parts.method {
            Method::CONNECT => return Err(problem::no_tunnels().into()),
            // The upstream would write the credentials of the request into its answer (RFC 9110, 9.3.8).
            Method::TRACE => return Err(problem::no_trace().into()),
            _ => {}
        }
        let matched = self.routes.by_head(parts.uri.path());
        match &matched {
            RouteMatch::Nowhere => return Err(problem::no_route().into()),
            RouteMatch::Ambiguous => return Err(problem::ambiguous_path().into()),
            RouteMatch::At(route) if !route.upstream.has_target(&parts.uri) => {
                return Err(problem::invalid_path().into());
            }
            RouteMatch::At(_) | RouteMatch::Answers(_) | RouteMatch::Unsure => {}
        }
        if is_last_hop(parts) { Err(problem::empty(StatusCode::NO_CONTENT).into()) } else { Ok(matched) }
    }

    /// Finds the stack of a call, or returns a function that makes the refusal.
    fn stack<'a>(
        &'a self,
        matched: &RouteMatch<'a, S>,
        parts: &Parts,
        model: Option<&Model>,
    ) -> Result<NamedStack<'a, S>, fn() -> Response<AnswerBody>> {
        match *matched {
            RouteMatch::At(route) => return Ok((&route.stack, route.name.as_ref())),
            RouteMatch::Answers(stack) => return Ok((stack, None)),
            // The caller must not choose which limits apply.
            RouteMatch::Unsure if parts.extensions.get::<UnclearModel>().is_some() => {
                return Err(problem::unclear_model);
            }
            RouteMatch::Unsure if parts.extensions.get::<NoMemory>().is_some() => return Err(problem::no_memory),
            RouteMatch::Unsure | RouteMatch::Ambiguous | RouteMatch::Nowhere => {}
        }
        let found = self.routes.find(parts.uri.path(), model.map(Model::as_str));
        let Some(route) = found else { return Err(problem::no_route) };
        if !route.upstream.has_target(&parts.uri) {
            return Err(problem::invalid_path);
        }
        Ok((&route.stack, route.name.as_ref()))
    }
}

/// The request's body for the stack, and reports of its upload if it is not in memory yet.
fn watched(body: MaybeRead) -> (CallBody, Option<UploadReports>) {
    match body {
        MaybeRead::Whole(data) => (CallBody::from(data), None),
        MaybeRead::Begun(body) if body.is_end_stream() => (CallBody::empty(), None),
        MaybeRead::Begun(body) => {
            let (upload, watch) = ObservedUpload::watched(body);
            (CallBody::new(upload), Some(watch))
        }
    }
}

/// A client whose request breaks off has left; the upstream is not at fault.
fn broken(error: &(dyn Error + 'static)) -> Response<AnswerBody> {
    tracing::debug!("a request broke off: {}", telemetry::chain(error));
    problem::broken_request()
}

fn pass_on<B>(
    mut response: Response<B>,
    tunnel: Option<Tunnel>,
    shutdown: &Shutdown,
    attempts: &CallAttempts,
) -> Response<AnswerBody>
where
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        let Some(tunnel) = tunnel.filter(|_| tunnel::to_websocket(response.headers())) else {
            return problem::wrong_protocol();
        };
        tokio::spawn(tunnel.carry(upgrade::on(&mut response), shutdown.open()));
    }
    // An answer that began early does not know its source yet.
    let early = response.extensions().get::<HeadersSentEarly>().is_some();
    let count = HeaderValue::from(Attempts::of(&response).0);
    let served_by = served_by(&response);
    let rejection = Rejection::of(&response).cloned();
    let role = response.extensions().get().and_then(role);
    let (mut parts, body) = response.into_parts();
    headers::forward_response(&mut parts);
    let mut response = Response::from_parts(parts, body.boxed_unsync());
    if let Some(rejection) = rejection.filter(|rejection| !problem::is_upstreams_own(rejection)) {
        response = attempts.refused(&rejection, response);
    } else if !early {
        response.headers_mut().insert(ATTEMPTS, count);
        response.headers_mut().insert(SERVED_BY, served_by.unwrap_or(HeaderValue::from_static("upstream")));
    }
    match role {
        Some(role) => response.headers_mut().insert(DEDUP, HeaderValue::from_static(role)),
        // Set by a gateway behind this one.
        None => response.headers_mut().remove(DEDUP),
    };
    if switching {
        tunnel::mark(response.headers_mut());
    }
    response
}

/// The server that gave the answer, if not the upstream.
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

/// Decrements `Max-Forwards` where it applies (RFC 9110, 7.6.2).
fn is_last_hop(parts: &mut Parts) -> bool {
    if parts.method != Method::OPTIONS {
        return false;
    }
    let Some(hops) = parts.headers.get_mut(MAX_FORWARDS) else { return false };
    // Ignores a value that is not a number.
    let Some(left) = hops.to_str().ok().and_then(|text| text.parse::<u32>().ok()) else { return false };
    match left.checked_sub(1) {
        Some(left) => *hops = HeaderValue::from(left),
        None => return true,
    }
    false
}
