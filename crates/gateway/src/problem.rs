//! The gateway's own answers to what it cannot do, as RFC 9457 problems.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy;
use tower_buttress::error::{self, BoxError};

use super::access::AnswerBody;

/// An upstream that gave no answer. What it is and why stays in the log.
pub(crate) fn bad_gateway(error: &BoxError) -> Response<AnswerBody> {
    let unreachable = error::find::<legacy::Error>(error.as_ref()).is_some_and(legacy::Error::is_connect);
    problem(
        StatusCode::BAD_GATEWAY,
        if unreachable {
            "The upstream cannot be reached."
        } else {
            "The upstream broke the connection off before it answered."
        },
    )
}

/// An upstream that changes to a protocol it was not asked for.
pub(crate) fn wrong_protocol() -> Response<AnswerBody> {
    problem(StatusCode::BAD_GATEWAY, "The upstream changed to a protocol that it was not asked for.")
}

/// A request whose body did not come to its end.
pub(crate) fn broken_request() -> Response<AnswerBody> {
    problem(StatusCode::BAD_REQUEST, "The body of this request broke off.")
}

/// A request whose body did not come in time.
pub(crate) fn late_request() -> Response<AnswerBody> {
    problem(StatusCode::REQUEST_TIMEOUT, "The body of this request did not come in time.")
}

/// A path that cannot be one of the upstream's.
pub(crate) fn no_such_place() -> Response<AnswerBody> {
    problem(StatusCode::BAD_REQUEST, "The path of this request is too long, or leads out of what is served here.")
}

/// A reverse proxy is no tunnel.
pub(crate) fn no_tunnels() -> Response<AnswerBody> {
    problem(StatusCode::NOT_IMPLEMENTED, "This gateway opens no tunnels.")
}

/// The answer to a request that was to go no further than here (`Max-Forwards: 0`).
pub(crate) fn last_hop(method: &Method) -> Response<AnswerBody> {
    if method == Method::TRACE {
        // What came with a request is not shown to whoever may have made a browser send it.
        let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "This gateway answers no TRACE.");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        return response;
    }
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn problem(status: StatusCode, detail: &'static str) -> Response<AnswerBody> {
    let (code, title) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    // Fixed texts: nothing in them needs to be escaped.
    let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{code},"detail":"{detail}"}}"#);
    let mut response = text("application/problem+json", body);
    *response.status_mut() = status;
    response
}

pub(crate) fn text(content_type: &'static str, text: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
