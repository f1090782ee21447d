//! From a client's request to an answer for it: what a gateway owes both sides, around the stack of layers.

use std::error::Error;
use std::net::IpAddr;

use bytes::Bytes;
use http::header::MAX_FORWARDS;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::upgrade::{self, OnUpgrade};
use tower::{Service, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{Attempts, DedupRole, HeadersSentEarly, ServedBy};

use super::access::AnswerBody;
use super::drain::Drain;
use super::expects::{Marker, MaybeRead, Unread};
use super::upload::Upload;
use super::upstream::Upstream;
use super::{headers, problem, telemetry, tunnel};

/// How often whoever served the call was asked.
const ATTEMPTS: HeaderName = HeaderName::from_static("x-gateway-attempts");
/// Who served it: `upstream` or `fallback`.
const SERVED_BY: HeaderName = HeaderName::from_static("x-gateway-served-by");

/// Whether somebody else had asked the same: `leader`, `joined` or `replayed`. Absent where nobody could tell.
const DEDUP: HeaderName = HeaderName::from_static("x-gateway-dedup");

/// What a request's body is when it goes through the stack.
pub(crate) type RequestBody = Upload<MaybeRead>;

/// Passes requests through `stack`.
#[derive(Clone, Debug)]
pub(crate) struct Proxy<S> {
    stack: S,
    upstream: Upstream,
    marker: Marker,
    drain: Drain,
}

// === impl Proxy ===

impl<S> Proxy<S> {
    pub(crate) fn new(stack: S, upstream: Upstream, marker: Marker, drain: Drain) -> Self {
        Self { stack, upstream, marker, drain }
    }

    pub(crate) async fn answer<B>(
        self,
        mut request: Request<hyper::body::Incoming>,
        peer: IpAddr,
    ) -> Response<AnswerBody>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>> + Clone,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        if request.method() == Method::CONNECT {
            return problem::no_tunnels();
        }
        // In the stack it would be a fault of the upstream: tried again, and counted by its breaker.
        if self.upstream.locate(request.uri()).is_none() {
            return problem::no_such_place();
        }
        let upgrade = tunnel::asked(&mut request);
        let (mut parts, body) = request.into_parts();
        if is_last_hop(&mut parts) {
            return problem::last_hop(&parts.method);
        }
        headers::forward_request(&mut parts, peer);
        if upgrade.is_some() {
            tunnel::mark(&mut parts.headers);
        }
        let request = match self.marker.mark(Request::from_parts(parts, body)).await {
            Ok(request) => request,
            Err(Unread::Late) => return problem::late_request(),
            Err(Unread::Broken(error)) => return broken(&error),
        };
        let (parts, body) = request.into_parts();
        let (body, breaks) = Upload::watched(body);
        let answer = tokio::select! {
            biased;
            answer = self.stack.oneshot(Request::from_parts(parts, body)) => answer,
            Ok(error) = breaks => return broken(error.as_ref()),
        };
        match answer {
            Ok(response) => pass_on(response, upgrade, &self.drain),
            Err(error) => {
                let error = error.into();
                tracing::warn!("no answer from the upstream: {}", telemetry::chain(error.as_ref()));
                problem::bad_gateway(&error)
            }
        }
    }
}

/// Who does not send all of its request has left, and nobody else is at fault.
fn broken(error: &(dyn Error + 'static)) -> Response<AnswerBody> {
    tracing::debug!("a request broke off: {}", telemetry::chain(error));
    problem::broken_request()
}

fn pass_on<B>(mut response: Response<B>, upgrade: Option<OnUpgrade>, drain: &Drain) -> Response<AnswerBody>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching {
        let Some(client) = upgrade.filter(|_| tunnel::to_websocket(response.headers())) else {
            return problem::wrong_protocol();
        };
        tokio::spawn(tunnel::carry(client, upgrade::on(&mut response), drain.open()));
    }
    // What began before its answer does not know yet how that will come about.
    let early = response.extensions().get::<HeadersSentEarly>().is_some();
    let attempts = HeaderValue::from(Attempts::of(&response).0);
    let served_by = ServedBy::of(&response).and_then(|name| HeaderValue::from_str(name).ok());
    let role = response.extensions().get().and_then(role);
    let (mut parts, body) = response.into_parts();
    headers::forward_response(&mut parts);
    if !early {
        parts.headers.insert(ATTEMPTS, attempts);
        parts.headers.insert(SERVED_BY, served_by.unwrap_or(HeaderValue::from_static("upstream")));
    }
    if let Some(role) = role {
        parts.headers.insert(DEDUP, HeaderValue::from_static(role));
    }
    if switching {
        tunnel::mark(&mut parts.headers);
    }
    Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
}

fn role(role: &DedupRole) -> Option<&'static str> {
    match role {
        DedupRole::Leader => Some("leader"),
        DedupRole::Joined => Some("joined"),
        DedupRole::Replayed => Some("replayed"),
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
