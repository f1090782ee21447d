//! What the gateway answers itself. Everything else is the upstream's.

use http::{Method, Request, Response};

use super::access::AnswerBody;
use super::problem::text;
use super::telemetry;

/// The answer, where it is ours to give.
pub(crate) fn answer<B>(request: &Request<B>) -> Option<Response<AnswerBody>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return None;
    }
    match request.uri().path() {
        "/healthz" => Some(text("text/plain; charset=utf-8", "ok\n")),
        // https://prometheus.io/docs/instrumenting/exposition_formats/
        "/metrics" => Some(text("text/plain; version=0.0.4; charset=utf-8", telemetry::prometheus().render())),
        _ => None,
    }
}
