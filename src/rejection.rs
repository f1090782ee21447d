//! A refusal is a response.
//!
//! # Why not an error?
//!
//! A layer that changes its service's error type does not fit on a bare axum `Router`, and every trace, metric and retry
//! around it must handle a new type. So a layer refuses with an ordinary response and puts a [`Rejection`] into its
//! extensions, which distinguishes its own 504 from the upstream's. For a typed error instead, put
//! [`RejectionsAsErrorsLayer`](crate::RejectionsAsErrorsLayer) outermost.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

pub use self::format::RejectionFormat;
pub use self::kind::RejectionKind;
use self::problem::ProblemTemplate;
use crate::error::BoxError;
#[cfg(feature = "tonic")]
use crate::proto::grpc;
use crate::proto::grpc::{GRPC_MESSAGE, GRPC_RETRY_PUSHBACK_MS, GRPC_STATUS};
use crate::proto::retry_after::forbid_retry;

mod format;
mod kind;
mod problem;

/// Why a layer of this crate answered in the upstream's place.
///
/// ```
/// use std::time::Duration;
/// use http::Response;
/// use tower_buttress::{Rejection, RejectionKind, RejectionFormat};
///
/// let refused = Rejection::new(RejectionKind::FirstByteTimeout).into_response(RejectionFormat::Http);
/// assert_eq!(refused.status(), 504);
/// assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::FirstByteTimeout);
///
/// // The upstream's own 504 is told apart:
/// let theirs = Response::builder().status(504).body(()).unwrap();
/// assert!(Rejection::of(&theirs).is_none());
/// ```
#[derive(Clone, Debug)]
pub struct Rejection {
    kind: RejectionKind,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    /// Further fields of the response's head.
    headers: Option<Arc<HeaderMap>>,
}

/// The number of fields that a refusal has: the map is allocated once.
const HEADERS: usize = 3;
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const APPLICATION_GRPC_WEB: HeaderValue = HeaderValue::from_static("application/grpc-web");

// === impl Rejection ===

impl Rejection {
    /// A refusal of this kind.
    #[must_use]
    pub const fn new(kind: RejectionKind) -> Self {
        Self { kind, retry_after: None, source: None, headers: None }
    }

    /// Sets when the caller may retry: `Retry-After`, or `grpc-retry-pushback-ms` (with the feature `tonic` also the
    /// `google.rpc.RetryInfo` in `grpc-status-details-bin`, which applications read).
    #[must_use]
    pub const fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// Keeps the error behind the refusal, for [`Error::source`]. The caller never sees it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Adds fields to the head of the response.
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(Arc::new(headers));
        self
    }

    /// Returns the rejection in `response`; `None` for an answer of the upstream.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<&Self> {
        response.extensions().get()
    }

    /// The reason.
    #[must_use]
    pub const fn kind(&self) -> RejectionKind {
        self.kind
    }

    /// When the caller may retry, if known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Builds the response. `Retry-After` is in whole seconds, rounded up, so it is never too early.
    #[must_use]
    pub fn into_response(self, format: RejectionFormat) -> Response<Bytes> {
        let template = ProblemTemplate::of(self.kind);
        let mut response = Response::new(Bytes::new());
        match format {
            RejectionFormat::Http | RejectionFormat::Head => {
                *response.status_mut() = template.status;
                let mut headers = HeaderMap::with_capacity(HEADERS);
                headers.insert(CONTENT_TYPE, PROBLEM_JSON);
                headers.insert(CONTENT_LENGTH, HeaderValue::from(template.problem.len()));
                if let Some(wait) = self.retry_after {
                    headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds_up(wait)));
                }
                if self.kind.is_final() {
                    forbid_retry(&mut headers);
                }
                *response.headers_mut() = headers;
                if format == RejectionFormat::Http {
                    *response.body_mut() = Bytes::from_static(template.problem.as_bytes());
                }
            }
            RejectionFormat::Grpc | RejectionFormat::GrpcWeb => {
                let headers = response.headers_mut();
                headers.insert(
                    CONTENT_TYPE,
                    if format == RejectionFormat::Grpc { APPLICATION_GRPC } else { APPLICATION_GRPC_WEB },
                );
                headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(template.grpc_status)));
                headers.insert(GRPC_MESSAGE, HeaderValue::from_static(template.message));
                if let Some(wait) = self.retry_after {
                    headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from(whole_millis_up(wait)));
                    #[cfg(feature = "tonic")]
                    headers.insert(
                        grpc::GRPC_STATUS_DETAILS_BIN,
                        grpc::status_details(template.grpc_status, template.message, wait),
                    );
                }
            }
        }
        if let Some(headers) = &self.headers {
            response.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ProblemTemplate::of(self.kind).message)
    }
}

impl Error for Rejection {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|err| err as _)
    }
}

fn whole_seconds_up(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

fn whole_millis_up(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

// === impl RejectionKind ===

impl RejectionKind {
    /// A stable name, for logs, metrics and the `kind` member of the problem document: `"first-byte-timeout"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        ProblemTemplate::of(self).name
    }

    /// The status under [`RejectionFormat::Http`].
    #[must_use]
    pub const fn status(self) -> StatusCode {
        ProblemTemplate::of(self).status
    }

    /// The `grpc-status` under [`RejectionFormat::Grpc`].
    #[must_use]
    pub const fn grpc_status(self) -> u8 {
        ProblemTemplate::of(self).grpc_status
    }

    /// Whether the response forbids automatic retries, in `x-should-retry`.
    const fn is_final(self) -> bool {
        matches!(self, Self::Superseded | Self::ConversationBusy)
    }

    /// The message for people, in every format.
    pub(crate) const fn message(self) -> &'static str {
        ProblemTemplate::of(self).message
    }
}

impl fmt::Display for RejectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const KINDS: [RejectionKind; 18] = [
        RejectionKind::FirstByteTimeout,
        RejectionKind::DeadlineExceeded,
        RejectionKind::BodyFailed,
        RejectionKind::CircuitOpen,
        RejectionKind::IdempotencyKeyInvalid,
        RejectionKind::IdempotencyKeyRequired,
        RejectionKind::IdempotencyKeyReused,
        RejectionKind::IdempotencyKeyInFlight,
        RejectionKind::DedupStoreFull,
        RejectionKind::DedupStoreUnreachable,
        RejectionKind::SharedCallFailed,
        RejectionKind::Paced,
        RejectionKind::QueueFull,
        RejectionKind::Superseded,
        RejectionKind::AnswerGone,
        RejectionKind::EventIdUnknown,
        RejectionKind::ConversationBusy,
        RejectionKind::UpstreamFailed,
    ];

    #[test]
    fn every_kind_renders_as_a_problem_document() {
        for kind in KINDS {
            let response = Rejection::new(kind).into_response(RejectionFormat::Http);
            assert_eq!(response.status(), kind.status());
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers()[CONTENT_LENGTH], response.body().len().to_string());
            let problem: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(problem["status"], kind.status().as_u16());
            assert_eq!(problem["title"], kind.status().canonical_reason().unwrap());
            assert_eq!(problem["kind"], kind.as_str());
            assert_eq!(Rejection::of(&response).unwrap().kind(), kind);
        }
    }

    /// Messages go into JSON and `grpc-message` without escaping.
    #[test]
    fn a_message_says_what_happened_and_what_to_do() {
        for kind in KINDS {
            let message = kind.message();
            let Some((happened, to_do)) = message.strip_suffix('.').and_then(|text| text.split_once("; ")) else {
                panic!("{message}");
            };
            assert!(happened.starts_with(|first: char| first.is_ascii_uppercase()), "{message}");
            assert!(to_do.starts_with(|first: char| first.is_ascii_lowercase()), "{message}");
            assert!(
                !message.contains(['"', '\\', '%'])
                    && message.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
            );
            assert_eq!((message.matches("; ").count(), message.matches(". ").count()), (1, 0), "{message}");
        }
    }

    #[test]
    fn the_response_says_where_a_retry_would_end_a_newer_message() {
        for kind in KINDS {
            let response = Rejection::new(kind).into_response(RejectionFormat::Http);
            let asked = response.headers().get("x-should-retry").map(HeaderValue::as_bytes);
            let is_final = matches!(kind, RejectionKind::Superseded | RejectionKind::ConversationBusy);
            assert_eq!(asked, is_final.then_some(&b"false"[..]), "{kind}");
        }
    }

    #[test]
    fn a_grpc_caller_gets_trailers_only() {
        let mut request = HeaderMap::new();
        request.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        let response = Rejection::new(RejectionKind::BodyFailed)
            .with_retry_after(Duration::from_micros(1_500))
            .into_response(RejectionFormat::of(&request));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-retry-pushback-ms"], "2");
        assert!(response.body().is_empty());
        assert!(Rejection::of(&response).is_some());
    }

    #[test]
    fn a_head_is_answered_with_a_head() {
        let request = Request::head("/").body(()).unwrap();
        for kind in KINDS {
            let response = Rejection::new(kind).into_response(RejectionFormat::of_request(&request));
            let whole = Rejection::new(kind).into_response(RejectionFormat::Http);
            assert_eq!((response.status(), response.headers()), (whole.status(), whole.headers()));
            assert!(response.body().is_empty());
        }
    }

    #[test]
    fn a_grpc_web_caller_gets_its_own_content_type() {
        for asked in ["application/grpc-web", "application/grpc-web-text", "Application/gRPC-Web+proto"] {
            let request = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(asked))]);
            let response = Rejection::new(RejectionKind::BodyFailed).into_response(RejectionFormat::of(&request));
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web");
            assert_eq!(response.headers()["grpc-status"], "14");
        }
    }

    #[test]
    fn retry_after_is_never_too_early() {
        let say = |wait| {
            let response = Rejection::new(RejectionKind::DeadlineExceeded)
                .with_retry_after(wait)
                .into_response(RejectionFormat::Http);
            response.headers()[RETRY_AFTER].to_str().unwrap().to_owned()
        };
        assert_eq!(say(Duration::from_millis(2_001)), "3");
        assert_eq!(say(Duration::from_secs(2)), "2");
        assert_eq!(say(Duration::ZERO), "0");
        for seconds in [9, 10, 42, 99, 100, 12_345] {
            assert_eq!(say(Duration::from_secs(seconds)), seconds.to_string());
        }
        assert_eq!(say(Duration::MAX), u64::MAX.to_string());
    }

    #[test]
    fn a_content_type_that_is_not_grpc_is_http() {
        for other in ["application/json", "application/gr", "text/plain"] {
            let mut request = HeaderMap::new();
            request.insert(CONTENT_TYPE, HeaderValue::from_static(other));
            assert_eq!(RejectionFormat::of(&request), RejectionFormat::Http);
        }
        assert_eq!(RejectionFormat::of(&HeaderMap::new()), RejectionFormat::Http);
    }
}
