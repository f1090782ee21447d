//! The gateway's own refusals, as RFC 9457 problems with the `error` member that SDKs read. As in a layer's refusal,
//! the detail says what happened and, after a semicolon, what to do.

use std::error::Error as _;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::client::legacy;
use serde_json::json;
use tower_buttress::Rejection;
use tower_buttress::error::{self, BoxError, ConnectElapsed, UpstreamError};
use tower_buttress::verdict::{Health, NextStep, Verdict};

use super::answer_body::AnswerBody;

/// The server that gave the answer: `upstream`, a fallback's name, or `gateway`.
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("x-gateway-served-by");

const PROBLEM: &str = "application/problem+json";

/// Why a page's request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    Host,
    /// Of a call.
    Page,
    /// Of a request for the gateway's own pages.
    PageOnOwn,
}

/// 401: no valid caller key.
pub(crate) fn unknown_caller() -> Response<AnswerBody> {
    invalid_key("The request has no valid key; send a key of this gateway in Authorization (Bearer) or x-api-key.")
}

/// 401: the caller's key was removed while its call waited.
pub(crate) fn removed_key() -> Response<AnswerBody> {
    let detail = "The key of this call was removed from this gateway; ask its operator for another one.";
    let mut response = invalid_key(detail);
    // The error event that ends a stream which the heartbeats have begun.
    let error = UpstreamError::new(StatusCode::UNAUTHORIZED, Verdict::new(NextStep::GiveUp, Health::Success));
    response.extensions_mut().insert(error.with_message(detail));
    response
}

fn invalid_key(detail: &'static str) -> Response<AnswerBody> {
    let mut response = problem(StatusCode::UNAUTHORIZED, "invalid-api-key", detail);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// 403: a page of another site, or an unknown `Host`.
pub(crate) fn foreign(why: Foreign) -> Response<AnswerBody> {
    match why {
        Foreign::Host => problem(
            StatusCode::FORBIDDEN,
            "host-not-allowed",
            "The gateway does not accept this Host; its operator can add it with --host.",
        ),
        Foreign::Page => problem(
            StatusCode::FORBIDDEN,
            "origin-not-allowed",
            "Web pages of other sites may not call this gateway; its operator can allow one with --allow-origin.",
        ),
        Foreign::PageOnOwn => problem(
            StatusCode::FORBIDDEN,
            "origin-not-allowed",
            "Web pages of other sites may not use this gateway's own pages; open this one in a tab of its own.",
        ),
    }
}

/// 502: the upstream did not answer. The log has the cause.
pub(crate) fn bad_gateway(error: &BoxError) -> Response<AnswerBody> {
    let unreachable = error::find::<legacy::Error>(error.as_ref()).is_some_and(legacy::Error::is_connect);
    let (kind, detail) = if error::find::<ConnectElapsed>(error.as_ref()).is_some() {
        ("connect-timeout", "The connection to the upstream timed out; try again later.")
    } else if unreachable {
        ("upstream-unreachable", "The upstream cannot be reached; try again later.")
    } else {
        ("connection-lost", "The upstream closed the connection before it answered; try again.")
    };
    problem(StatusCode::BAD_GATEWAY, kind, detail)
}

/// 502: the certificate of the upstream is not accepted.
pub(crate) fn rejected_certificate() -> Response<AnswerBody> {
    let detail = "The certificate of the upstream is not accepted; tell the operator of this gateway.";
    problem(StatusCode::BAD_GATEWAY, "upstream-certificate", detail)
}

/// 502: the upstream switched to a protocol that was not requested.
pub(crate) fn wrong_protocol() -> Response<AnswerBody> {
    let detail = "The upstream switched to a protocol that was not requested; request another one.";
    problem(StatusCode::BAD_GATEWAY, "wrong-protocol", detail)
}

/// 400: the request's body broke off.
pub(crate) fn broken_request() -> Response<AnswerBody> {
    problem(StatusCode::BAD_REQUEST, "request-incomplete", "The body of this request broke off; send it again.")
}

/// 408: the request's body was too slow.
pub(crate) fn late_request() -> Response<AnswerBody> {
    problem(
        StatusCode::REQUEST_TIMEOUT,
        "request-timeout",
        "The body of this request did not arrive in time; send it again.",
    )
}

/// 400: `Host` is missing, or there several times.
pub(crate) fn no_host() -> Response<AnswerBody> {
    problem(StatusCode::BAD_REQUEST, "host-missing", "The request does not have one Host; send exactly one.")
}

/// 508: the request has passed this gateway, or others, too often.
pub(crate) fn in_circle() -> Response<AnswerBody> {
    let detail = "The request has passed too many gateways; tell their operator that one is its own upstream.";
    problem(StatusCode::LOOP_DETECTED, "loop-detected", detail)
}

/// 400: a path that leaves the upstream's prefix, or is too long.
pub(crate) fn invalid_path() -> Response<AnswerBody> {
    let detail = "The path of this request is too long or leaves the served prefix; send another one.";
    problem(StatusCode::BAD_REQUEST, "path-invalid", detail)
}

/// 400: servers read the path in different ways, and one of them belongs to another route.
pub(crate) fn ambiguous_path() -> Response<AnswerBody> {
    let detail = "Servers read the path of this request in different ways; send it without double slashes, dots between \
                  slashes, semicolons and encoded letters.";
    problem(StatusCode::BAD_REQUEST, "path-ambiguous", detail)
}

/// 400: servers read different models, and the route depends on the model.
pub(crate) fn unclear_model() -> Response<AnswerBody> {
    let detail = "Servers may read different models in this request; send JSON with one member model, equal to the model in the \
                  path, if there is one.";
    problem(StatusCode::BAD_REQUEST, "model-unclear", detail)
}

/// 503: no memory to read the request, and the route depends on the model.
pub(crate) fn no_memory() -> Response<AnswerBody> {
    let detail = "The gateway has no memory left to read this request; send it again.";
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "no-memory", detail);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// 413: the body is longer than the limit for reading, and the route depends on the model.
pub(crate) fn too_long_to_read() -> Response<AnswerBody> {
    let detail = "The body is too long to find its model; send at most 32 MiB.";
    problem(StatusCode::PAYLOAD_TOO_LARGE, "request-too-large", detail)
}

/// 404: no route serves the call.
pub(crate) fn no_route() -> Response<AnswerBody> {
    problem(
        StatusCode::NOT_FOUND,
        "route-unknown",
        "No route of the gateway serves this path and model; send another one.",
    )
}

/// 404: no such page below `/-/`.
pub(crate) fn no_such_page() -> Response<AnswerBody> {
    problem(StatusCode::NOT_FOUND, "not-found", "The gateway has no such page; see the list in its README.")
}

/// 404: the listener, or a request through a proxy, has only the health checks.
pub(crate) fn page_elsewhere() -> Response<AnswerBody> {
    let detail =
        "The gateway does not show its own pages here; its operator can serve them with --admin, or on loopback.";
    problem(StatusCode::NOT_FOUND, "not-found", detail)
}

/// 405: the page only reads.
pub(crate) fn only_read() -> Response<AnswerBody> {
    only("GET, HEAD", "This page is read-only; use GET.")
}

/// 405: the page changes state.
pub(crate) fn only_posted() -> Response<AnswerBody> {
    only("POST", "This page changes state; use POST.")
}

fn only(methods: &'static str, detail: &str) -> Response<AnswerBody> {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// 400: a query of `/-/forget` that is not understood.
pub(crate) fn unknown_query() -> Response<AnswerBody> {
    let detail = "The query does not name a tenant; send tenant=NAME, or no query to forget all tenants.";
    problem(StatusCode::BAD_REQUEST, "query-invalid", detail)
}

/// 429: the caller has all the WebSockets that `--caller-concurrency` allows.
pub(crate) fn too_many_tunnels() -> Response<AnswerBody> {
    let detail = "This caller has reached its limit of open WebSockets; close one first.";
    problem(StatusCode::TOO_MANY_REQUESTS, "too-many-websockets", detail)
}

/// 501: `CONNECT`; the gateway opens no tunnels.
pub(crate) fn no_tunnels() -> Response<AnswerBody> {
    problem(
        StatusCode::NOT_IMPLEMENTED,
        "method-not-implemented",
        "This gateway does not open tunnels; send the request itself.",
    )
}

/// 405: `TRACE`. A script in a browser may have sent it, and must not see the headers.
pub(crate) fn no_trace() -> Response<AnswerBody> {
    only(
        "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        "This gateway does not forward or answer TRACE; use another method.",
    )
}

/// 501: a transfer coding that the gateway does not decode (RFC 9112, 6.1).
pub(crate) fn unknown_coding() -> Response<AnswerBody> {
    let detail = "The gateway does not decode this Transfer-Encoding; send the body with chunked alone.";
    let mut response = problem(StatusCode::NOT_IMPLEMENTED, "transfer-encoding-not-implemented", detail);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whether the refusal repeats an upstream's own error.
pub(crate) fn is_upstreams_own(rejection: &Rejection) -> bool {
    rejection.source().is_some_and(|source| error::find::<UpstreamError>(source).is_some())
}

/// Gives a layer's refusal the form of the gateway's own. A refusal in another form (gRPC, or the dialect of a model
/// API) stays as it is.
pub(crate) fn of_rejection(rejection: &Rejection, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    if response.headers().get(CONTENT_TYPE).is_none_or(|format| format != PROBLEM) {
        response.headers_mut().insert(SERVED_BY, HeaderValue::from_static("gateway"));
        return response;
    }
    let detail = rejection.to_string();
    let (parts, body) = problem(response.status(), rejection.kind().as_str(), &detail).into_parts();
    response.headers_mut().extend(parts.headers);
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    *response.body_mut() = body;
    response
}

fn problem(status: StatusCode, kind: &str, detail: &str) -> Response<AnswerBody> {
    // The same types as in a stream's error event.
    let class = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        408 | 504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "kind": kind,
        "error": { "message": detail, "type": class, "code": kind.replace('-', "_") },
    });
    let mut response = text(PROBLEM, body.to_string());
    *response.status_mut() = status;
    response.headers_mut().insert(SERVED_BY, HeaderValue::from_static("gateway"));
    response
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

pub(crate) fn text(content_type: &'static str, text: impl Into<Bytes>) -> Response<AnswerBody> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_says_what_happened_and_what_to_do() {
        let connect = ConnectElapsed::new(std::time::Duration::from_secs(1));
        let refusals = [
            unknown_caller(),
            removed_key(),
            foreign(Foreign::Host),
            foreign(Foreign::Page),
            foreign(Foreign::PageOnOwn),
            bad_gateway(&connect.into()),
            bad_gateway(&"broken".into()),
            rejected_certificate(),
            wrong_protocol(),
            broken_request(),
            late_request(),
            no_host(),
            in_circle(),
            invalid_path(),
            ambiguous_path(),
            unclear_model(),
            no_memory(),
            too_long_to_read(),
            no_route(),
            too_many_tunnels(),
            no_such_page(),
            page_elsewhere(),
            only_read(),
            only_posted(),
            unknown_query(),
            no_tunnels(),
            no_trace(),
            unknown_coding(),
        ];
        for refusal in refusals {
            let body = refusal.into_body().collect().await.unwrap().to_bytes();
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let detail = problem["detail"].as_str().unwrap();
            assert_eq!(problem["error"]["message"], detail);
            let (happened, to_do) = detail.strip_suffix('.').and_then(|text| text.split_once("; ")).expect(detail);
            assert!(happened.starts_with(|first: char| first.is_ascii_uppercase()), "{detail}");
            assert!(to_do.starts_with(|first: char| first.is_ascii_lowercase()), "{detail}");
            assert_eq!((detail.matches("; ").count(), detail.matches(". ").count()), (1, 0), "{detail}");
        }
    }
}
