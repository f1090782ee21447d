//! Counts the attempts of a call and writes them into the headers of its answer.

use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response};
use tower_buttress::error::BoxError;
use tower_buttress::{Attempts, Rejection, RejectionKind, RetryReport};

use super::answer_body::AnswerBody;
use super::decimal::Decimal;
use super::telemetry::Seldom;
use super::upstream::UpstreamCalls;
use super::{problem, telemetry};

/// The number of attempts at the upstream that answered, or failed last.
pub(crate) const ATTEMPTS: HeaderName = HeaderName::from_static("x-gateway-attempts");

/// Keeps the caller's SDK from repeating the gateway's retries.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The upstream's time to its head, and the gateway's time: queues, retries and waits included.
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The attempts of a call so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallAttempts {
    asked: UpstreamCalls,
    report: RetryReport,
}

/// In a response's extensions: why no upstream answered, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Cause(pub(crate) String);

// === impl CallAttempts ===

impl CallAttempts {
    /// Makes the layers and upstreams record their work for this request here.
    pub(crate) fn follow(&self, request: &mut Extensions) {
        request.insert(self.asked.clone());
        request.insert(self.report.clone());
    }

    pub(crate) fn asked(&self) -> &UpstreamCalls {
        &self.asked
    }

    /// The answer when no upstream answered.
    pub(crate) fn failed(&self, error: &BoxError) -> Response<AnswerBody> {
        static WARNINGS: Seldom = Seldom::new();
        let cause = telemetry::chain(error.as_ref());
        if let Some(left_out) = WARNINGS.one_more(Instant::now()) {
            tracing::warn!(left_out, "the upstream did not answer: {cause}");
        }
        let attempts = Some(self.report.attempts()).filter(|attempts| *attempts > 0);
        let mut response = count(attempts.unwrap_or(self.asked.times()), problem::bad_gateway(error));
        response.extensions_mut().insert(Cause(cause));
        if self.report.is_final() {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// The answer when a layer refused.
    pub(crate) fn refused(&self, rejection: &Rejection, response: Response<AnswerBody>) -> Response<AnswerBody> {
        let extensions = response.extensions();
        let attempts = match (extensions.get::<UpstreamCalls>(), extensions.get::<Attempts>()) {
            // Of the call that this request joined.
            (Some(asked), _) => asked.times(),
            (None, Some(attempts)) if rejection.kind() == RejectionKind::SharedCallFailed => attempts.0,
            // The report also counts the attempts of a joined call.
            (None, _) => self.asked.times().max(self.report.attempts()),
        };
        let mut response = count(attempts, problem::of_rejection(rejection, response));
        // The layers inside mark their refusals. This one comes from a layer outside of the attempts.
        if rejection.kind() == RejectionKind::DeadlineExceeded && attempts > 0 {
            response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }

    /// Writes the times to this head.
    pub(crate) fn time(&self, begun: Instant, headers: &mut HeaderMap) {
        let total = begun.elapsed();
        let took = self.asked.took();
        let mut timing = Vec::with_capacity("upstream;dur=180000.0, gateway;dur=180000.0".len());
        let mut add = |parts: &[&str]| parts.iter().for_each(|part| timing.extend_from_slice(part.as_bytes()));
        if let Some(took) = took {
            let [ms, tenth] = tenths(took).map(Decimal::new);
            add(&["upstream;dur=", ms.as_str(), ".", tenth.as_str(), ", "]);
        }
        let [ms, tenth] = tenths(total.saturating_sub(took.unwrap_or_default())).map(Decimal::new);
        add(&["gateway;dur=", ms.as_str(), ".", tenth.as_str()]);
        if let Ok(timing) = HeaderValue::try_from(timing) {
            headers.append(SERVER_TIMING, timing);
        }
    }
}

fn count(attempts: u32, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    if attempts > 0 {
        response.headers_mut().insert(ATTEMPTS, HeaderValue::from(attempts));
    }
    response
}

/// Milliseconds, and tenths of one.
fn tenths(time: Duration) -> [u64; 2] {
    let tenths = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).saturating_add(50) / 100;
    [tenths / 10, tenths % 10]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_tenths_of_milliseconds() {
        for (micros, written) in [(0, [0, 0]), (49, [0, 0]), (51, [0, 1]), (1_000, [1, 0]), (12_960, [13, 0])] {
            assert_eq!(tenths(Duration::from_micros(micros)), written, "{micros}");
        }
    }
}
