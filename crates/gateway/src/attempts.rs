//! The attempts at a call, and what the headers of its answer say of them.

use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response};
use tower_buttress::error::BoxError;
use tower_buttress::{Rejection, RejectionKind, RetryReport};

use super::answer_body::AnswerBody;
use super::telemetry::Seldom;
use super::upstream::UpstreamCalls;
use super::{problem, telemetry};

/// The number of attempts at the upstream that served the call, or failed to.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-gateway-attempts");

/// Keeps the caller's SDK from repeating what the gateway has repeated already.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// How long the upstream took to its head, and what the gateway added (queues, retries and waits for them, too).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The attempts at a call, as far as they were made.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallAttempts {
    asked: UpstreamCalls,
    report: RetryReport,
}

// === impl CallAttempts ===

impl CallAttempts {
    /// Has the layers and the upstreams write down here what they do for a request.
    pub(crate) fn follow(&self, request: &mut Extensions) {
        request.insert(self.asked.clone());
        request.insert(self.report.clone());
    }

    pub(crate) fn asked(&self) -> &UpstreamCalls {
        &self.asked
    }

    /// The answer where no upstream gave one.
    pub(crate) fn failed(&self, error: &BoxError) -> Response<AnswerBody> {
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
    pub(crate) fn refused(&self, rejection: &Rejection, response: Response<AnswerBody>) -> Response<AnswerBody> {
        let mut response = self.count(problem::of_rejection(rejection, response));
        // What the retries inside ended with, they have marked. This one comes from outside of them.
        if rejection.kind() == RejectionKind::DeadlineExceeded && self.asked.times() > 0 {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// Says how long it took to this head.
    pub(crate) fn time(&self, begun: Instant, headers: &mut HeaderMap) {
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
