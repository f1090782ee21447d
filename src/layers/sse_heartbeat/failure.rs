//! The event that tells a client how its stream broke off.

use std::error::Error;

use bytes::Bytes;
use http::StatusCode;

use crate::error::{
    self, BoxError, DeadlineExceeded, IdleBodyElapsed, StreamSilent, StreamTruncated, UnexpectedResponse, UpstreamError,
};
use crate::proto::sse::Ending;
use crate::rejection::Rejection;

/// `event: error`, in the form that the SDKs of OpenAI and Anthropic raise.
///
/// What we know ourselves is named. Of the upstream's errors nothing is told: they may hold what is no client's business.
pub(super) fn event(err: &BoxError, ending: Ending) -> Bytes {
    // What the guard found is told in the form of its dialect, by the upstream's own event where that is one.
    if let Some(told) = error::find::<UpstreamError>(err).filter(|told| !told.frame().is_empty()) {
        return told.frame().clone();
    }
    if let Some(truncated) = error::find::<StreamTruncated>(err) {
        return truncated.frame(ending).into();
    }
    let (kind, message) = told(err);
    let end = ending.as_str();
    // No message holds what JSON would have to escape.
    format!(
        "event: error{end}data: {{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":\"{message}\"}}}}{end}{end}"
    )
    .into()
}

fn told(err: &BoxError) -> (&'static str, String) {
    if let Some(rejection) = error::find::<Rejection>(err) {
        return (kind(rejection.kind().status()), rejection.to_string());
    }
    if let Some(answer) = error::find::<UnexpectedResponse>(err) {
        return (kind(answer.status), answer.to_string());
    }
    let elapsed: Option<&dyn Error> = error::find::<StreamSilent>(err)
        .map(|err| err as _)
        .or_else(|| error::find::<IdleBodyElapsed>(err).map(|err| err as _))
        .or_else(|| error::find::<DeadlineExceeded>(err).map(|err| err as _));
    match elapsed {
        Some(err) => ("timeout_error", err.to_string()),
        None => ("api_error", "the upstream failed in the middle of the stream".to_owned()),
    }
}

/// The names that Anthropic has for what a status says; OpenAI's SDKs show whatever they are given.
/// <https://docs.anthropic.com/en/api/errors>
fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        504 => "timeout_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}
