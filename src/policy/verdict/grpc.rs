//! The classifier for gRPC.

#[cfg(not(feature = "tonic"))]
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::{Classify, Health, Matter, NextStep, Outcome, Standard, Verdict};
#[cfg(feature = "tonic")]
use crate::proto::grpc::retry_info;
use crate::proto::grpc::{self, Pushback};

/// Reads `grpc-status`, in the head of an answer without a body and else in the trailers, and obeys
/// `grpc-retry-pushback-ms`. For everything else (refusals, errors, an HTTP status other than 200) it uses [`Standard`].
///
/// A status in trailers comes too late for a retry once data was forwarded to the caller; with a
/// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) inside, trailers before any message come in time. The breaker
/// sees all of them, and counts a stream that ends without a status as broken off. (gRPC-Web has its trailers inside the
/// body, which is not read: such an answer is a success, unless its head has the status.)
///
/// | Code | Next step | Health | Matter |
/// |---|---|---|---|
/// | `OK` | Done | Success | |
/// | `UNKNOWN`, `INTERNAL`, `UNAVAILABLE`, `DATA_LOSS`, none at the end of a stream | Retry | Failure | Upstream |
/// | `RESOURCE_EXHAUSTED` | Retry | Throttled | Credential |
/// | `ABORTED` | Retry | Ignored | Upstream |
/// | `PERMISSION_DENIED`, `UNAUTHENTICATED` | `TryAnother` | Success | Credential |
/// | `CANCELLED`, `DEADLINE_EXCEEDED` (the caller's) | `GiveUp` | Ignored | Request |
/// | the others | `GiveUp` | Success | Request |
///
/// A pushback turns everything except Done into Retry, and proves that nothing was executed; a pushback that forbids
/// retries turns Retry into `TryAnother`. Without a pushback, the delay of a `google.rpc.RetryInfo` in the details of the
/// status is obeyed (feature `tonic`). No status alone proves that nothing was executed: by the specification, not even
/// `UNAVAILABLE`.
///
/// ```
/// use std::time::Duration;
/// use http::Response;
/// use tower_buttress::verdict::{Classify, Grpc, Health, Outcome, NextStep};
///
/// let busy = Response::builder()
///     .header("grpc-status", "8")
///     .header("grpc-retry-pushback-ms", "250")
///     .body(())
///     .unwrap();
/// let verdict = Grpc::new().classify(&Outcome::head(&busy));
/// assert_eq!(verdict.next, NextStep::retry(Some(Duration::from_millis(250).into())));
/// assert_eq!(verdict.health, Health::Throttled);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc {
    http: Standard,
}

const DONE: Verdict = Verdict::new(NextStep::Done, Health::Success);
const REFUSED_CREDENTIAL: Verdict = Verdict::new(NextStep::TryAnother, Health::Success).with_matter(Matter::Credential);
const UNKNOWN: u8 = 2;
const RETRY: NextStep = NextStep::Retry { after: None };

/// By code, 0 to 16: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
const CODES: [Verdict; 17] = [
    DONE,                                                               // OK
    Verdict::new(NextStep::GiveUp, Health::Ignored),                    // CANCELLED
    Verdict::new(RETRY, Health::Failure),                               // UNKNOWN
    Verdict::new(NextStep::GiveUp, Health::Success),                    // INVALID_ARGUMENT
    Verdict::new(NextStep::GiveUp, Health::Ignored),                    // DEADLINE_EXCEEDED
    Verdict::new(NextStep::GiveUp, Health::Success),                    // NOT_FOUND
    Verdict::new(NextStep::GiveUp, Health::Success),                    // ALREADY_EXISTS
    REFUSED_CREDENTIAL,                                                 // PERMISSION_DENIED
    Verdict::new(RETRY, Health::Throttled),                             // RESOURCE_EXHAUSTED
    Verdict::new(NextStep::GiveUp, Health::Success),                    // FAILED_PRECONDITION
    Verdict::new(RETRY, Health::Ignored).with_matter(Matter::Upstream), // ABORTED
    Verdict::new(NextStep::GiveUp, Health::Success),                    // OUT_OF_RANGE
    Verdict::new(NextStep::GiveUp, Health::Success),                    // UNIMPLEMENTED
    Verdict::new(RETRY, Health::Failure),                               // INTERNAL
    Verdict::new(RETRY, Health::Failure),                               // UNAVAILABLE
    Verdict::new(RETRY, Health::Failure),                               // DATA_LOSS
    REFUSED_CREDENTIAL,                                                 // UNAUTHENTICATED
];

// === impl Grpc ===

impl Grpc {
    /// The table above.
    #[must_use]
    pub const fn new() -> Self {
        Self { http: Standard::new() }
    }

    /// As [`Standard::retry_first_byte_timeout`].
    #[must_use]
    pub const fn retry_first_byte_timeout(mut self, retry: bool) -> Self {
        self.http = self.http.retry_first_byte_timeout(retry);
        self
    }
}

impl Classify for Grpc {
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        match (outcome.status(), outcome.headers(), outcome.trailers()) {
            (Some(StatusCode::OK), Some(headers), early) if outcome.rejection().is_none() => {
                // A status in neither will come in the trailers.
                let sources = [Some(headers), early].into_iter().flatten();
                let mut verdicts = sources.filter_map(|fields| Some(of_status(grpc::status(fields)?, fields)));
                verdicts.next().unwrap_or(DONE)
            }
            // The specification requires a status; without one, the answer broke off.
            (None, _, Some(trailers)) => of_status(grpc::status(trailers).unwrap_or(UNKNOWN), trailers),
            (None, _, None) if outcome.is_end() => CODES[usize::from(UNKNOWN)],
            _ => self.http.classify(outcome),
        }
    }

    fn needs_request(&self) -> bool {
        false
    }
}

fn of_status(code: u8, headers: &HeaderMap) -> Verdict {
    let verdict = CODES.get(usize::from(code)).copied().unwrap_or(CODES[usize::from(UNKNOWN)]);
    match (verdict.next, grpc::pushback(headers)) {
        (NextStep::Retry { .. }, None) => {
            verdict.with_next(NextStep::Retry { after: retry_info(headers).map(Into::into) })
        }
        (NextStep::Done, _) | (_, None) => verdict,
        (_, Some(Pushback::After(after))) => {
            verdict.with_next(NextStep::Retry { after: Some(after.into()) }).not_executed()
        }
        (NextStep::Retry { .. }, Some(Pushback::Never)) => verdict.with_next(NextStep::TryAnother),
        (_, Some(Pushback::Never)) => verdict,
    }
}

/// The details of a status are protobuf, which a feature can read.
#[cfg(not(feature = "tonic"))]
const fn retry_info(_: &HeaderMap) -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use http::{HeaderValue, Response};

    use super::super::EarlyTrailers;
    use super::*;
    use crate::rejection::{Rejection, RejectionFormat, RejectionKind};

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn trailers_only(lines: &[(&'static str, &'static str)]) -> Verdict {
        let mut response = Response::new(());
        *response.headers_mut() = fields(lines);
        Grpc::new().classify(&Outcome::head(&response))
    }

    #[test]
    fn the_status_is_read_in_the_head_and_in_the_trailers() {
        let unavailable = Verdict::new(RETRY, Health::Failure);
        assert_eq!(trailers_only(&[("grpc-status", "14")]), unavailable);
        assert_eq!(Grpc::new().classify(&Outcome::end(&fields(&[("grpc-status", "14")]))), unavailable);
        assert_eq!(trailers_only(&[("grpc-status", "0")]), DONE);
        // A stream begins: its trailers will have the status.
        assert_eq!(trailers_only(&[]), DONE);
        assert_eq!(Grpc::new().classify(&Outcome::end(&fields(&[]))), unavailable);
        assert_eq!(Grpc::new().classify(&Outcome::end_without_trailers()), unavailable);
        // Trailers before any message.
        let mut begun = Response::new(());
        begun.extensions_mut().insert(EarlyTrailers(fields(&[("grpc-status", "14")])));
        assert_eq!(Grpc::new().classify(&Outcome::head(&begun)), unavailable);
    }

    #[test]
    fn a_refused_credential_is_the_credentials_matter() {
        for (code, matter) in [("7", Matter::Credential), ("16", Matter::Credential), ("8", Matter::Credential)] {
            assert_eq!(trailers_only(&[("grpc-status", code)]).matter, matter, "{code}");
        }
        let pushed = trailers_only(&[("grpc-status", "16"), ("grpc-retry-pushback-ms", "70")]);
        assert_eq!(pushed.matter, Matter::Credential, "whatever the server asks for");
        assert_eq!(trailers_only(&[("grpc-status", "14")]).matter, Matter::Upstream);
        assert_eq!(trailers_only(&[("grpc-status", "10")]).matter, Matter::Upstream);
        assert_eq!(trailers_only(&[("grpc-status", "3")]).matter, Matter::Request);
    }

    #[test]
    fn a_pushback_is_obeyed() {
        let pushback = |ms| [("grpc-status", "14"), ("grpc-retry-pushback-ms", ms)];
        let verdict = trailers_only(&pushback("70"));
        assert_eq!(verdict.retry_after(), Some(Duration::from_millis(70).into()));
        assert!(verdict.not_executed);
        assert_eq!(trailers_only(&pushback("-1")).next, NextStep::TryAnother);
        assert_eq!(trailers_only(&[("grpc-status", "0"), ("grpc-retry-pushback-ms", "70")]), DONE);
    }

    #[test]
    fn what_is_not_grpc_is_judged_as_http() {
        let proxy = Response::builder().status(503).body(()).unwrap();
        assert_eq!(Grpc::new().classify(&Outcome::head(&proxy)), Standard::new().classify(&Outcome::head(&proxy)));
        let refused: Result<Response<()>, _> = Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(Grpc::new().classify(&Outcome::of(&refused)).not_executed);
    }

    #[test]
    fn our_own_refusal_is_not_the_upstreams_status() {
        let silent = Rejection::new(RejectionKind::FirstByteTimeout).into_response(RejectionFormat::Grpc);
        let ours = Verdict::new(NextStep::TryAnother, Health::Failure).with_matter(Matter::Ours);
        assert_eq!(Grpc::new().classify(&Outcome::head(&silent)), ours);
        let verdict = Grpc::new().retry_first_byte_timeout(true).classify(&Outcome::head(&silent));
        assert_eq!(verdict.next, RETRY);
    }
}
