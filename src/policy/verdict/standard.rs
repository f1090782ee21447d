//! The default classifier: HTTP.

use std::error::Error;
use std::ops::RangeInclusive;

use http::{HeaderMap, StatusCode};

use super::{Classify, Health, Matter, NextStep, Outcome, Verdict, transport};
use crate::call::InvalidOutput;
use crate::error;
use crate::policy::upstream_error::UpstreamError;
use crate::proto::retry_after::{RetryAfter, retry_after, should_retry};
use crate::rejection::{Rejection, RejectionKind};

/// The default classifier: judges by status, by refusals of this crate, and by the sources of an error.
///
/// | Answer | Next step | Health | Matter |
/// |---|---|---|---|
/// | 1xx, 2xx, 3xx | Done | Success | |
/// | an answer that is [not in its form](InvalidOutput) | `TryAnother` | Success | Request |
/// | 429 | Retry | Throttled | Credential |
/// | 408, 409, 425 | Retry | Ignored | Upstream |
/// | 401, 402, 403, 407 (another credential or plan may work) | `TryAnother` | Success | Credential |
/// | 413 (a larger model may accept it) | `TryAnother` | Success | Request |
/// | other 4xx, 501, 505 | `GiveUp` | Success | Request |
/// | everything else from 500 on | Retry | Failure | Upstream |
/// | no answer: no connection, or a broken one | Retry | Failure | Upstream |
/// | our connect timeout | `TryAnother` | Failure | Upstream |
/// | our [`FirstByteTimeout`](RejectionKind::FirstByteTimeout) | `TryAnother` | Failure | Ours |
/// | our [`BodyFailed`](RejectionKind::BodyFailed) | Retry | Failure | Upstream |
/// | our [`CircuitOpen`](RejectionKind::CircuitOpen), [`Paced`](RejectionKind::Paced), [`QueueFull`](RejectionKind::QueueFull) | `TryAnother` | Ignored | Ours |
/// | our [`DeadlineExceeded`](RejectionKind::DeadlineExceeded), [`Superseded`](RejectionKind::Superseded), [`ConversationBusy`](RejectionKind::ConversationBusy) | `GiveUp` | Ignored | Ours |
/// | our [`UpstreamFailed`](RejectionKind::UpstreamFailed), a body's [`UpstreamError`], a 4xx or 5xx whose body was read | by its content | | |
/// | the request could not be sent: its own body failed, or the client does not send such requests | `GiveUp` | Ignored | Request |
///
/// `x-should-retry: false` turns Retry into `TryAnother`, `true` turns everything except Done into Retry; health and
/// matter stay. The hints of [`proto::retry_after`](crate::proto::retry_after) go into [`NextStep::Retry`].
///
/// The request was provably not executed if no connection was made, or if the answer is 421, 425, 429, or a 503 with one
/// of those hints or from a layer of this crate. (Only the feature `hyper` distinguishes three kinds of errors from
/// broken connections: the peer refused an HTTP/2 stream, or closed the connection before reading it; connecting failed
/// in another way than "refused"; the request's own body failed.)
///
/// ```
/// use std::{convert::Infallible, io};
/// use http::Response;
/// use tower_buttress::verdict::{Classify, Health, Matter, NextStep, Outcome, Standard};
///
/// let refused: Result<Response<()>, _> = Err(io::Error::from(io::ErrorKind::ConnectionRefused));
/// let verdict = Standard::new().classify(&Outcome::of(&refused));
/// assert_eq!(verdict.next, NextStep::retry(None));
/// assert_eq!(verdict.health, Health::Failure);
/// assert!(verdict.not_executed);
///
/// let overloaded = Response::builder().status(529).header("x-should-retry", "false").body(()).unwrap();
/// let verdict = Standard::new().classify(&Outcome::head(&overloaded));
/// assert_eq!(verdict.next, NextStep::TryAnother);
/// assert_eq!(verdict.health, Health::Failure);
/// assert_eq!(verdict.matter, Matter::Upstream);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Standard {
    retry_first_byte_timeout: bool,
}

const RETRY: NextStep = NextStep::Retry { after: None };
const DONE: Verdict = Verdict::new(NextStep::Done, Health::Success);
/// The upstream works; a caller may send a schema that no answer matches.
const INVALID_OUTPUT: Verdict = Verdict::new(NextStep::TryAnother, Health::Success).with_matter(Matter::Request);
const REFUSED_CREDENTIAL: Verdict = Verdict::new(NextStep::TryAnother, Health::Success).with_matter(Matter::Credential);

/// The first row that contains the status applies.
const STATUSES: &[(RangeInclusive<u16>, Verdict)] = &[
    (100..=399, DONE),
    (401..=403, REFUSED_CREDENTIAL),
    (407..=407, REFUSED_CREDENTIAL),
    (413..=413, Verdict::new(NextStep::TryAnother, Health::Success)),
    (408..=409, Verdict::new(RETRY, Health::Ignored).with_matter(Matter::Upstream)),
    // RFC 8470 5.2: the server did not process the request.
    (425..=425, Verdict::new(RETRY, Health::Ignored).with_matter(Matter::Upstream).not_executed()),
    (429..=429, Verdict::new(RETRY, Health::Throttled).not_executed()),
    // RFC 9110 15.5.20: not by this server. A retry over the same connection changes nothing.
    (421..=421, Verdict::new(NextStep::GiveUp, Health::Success).not_executed()),
    (400..=499, Verdict::new(NextStep::GiveUp, Health::Success)),
    (501..=501, Verdict::new(NextStep::GiveUp, Health::Success)),
    (505..=505, Verdict::new(NextStep::GiveUp, Health::Success)),
    // RFC 9110 15: statuses above 599 count as 5xx.
    (500..=u16::MAX, Verdict::new(RETRY, Health::Failure)),
];

// === impl Standard ===

impl Standard {
    /// The table above.
    #[must_use]
    pub const fn new() -> Self {
        Self { retry_first_byte_timeout: false }
    }

    /// Whether to retry at an upstream that sent no first byte in time. Default: no, since a retry only multiplies the
    /// wait; another upstream is better.
    #[must_use]
    pub const fn retry_first_byte_timeout(mut self, retry: bool) -> Self {
        self.retry_first_byte_timeout = retry;
        self
    }

    fn refused(self, rejection: &Rejection) -> Verdict {
        // A refusal to a gRPC caller has no Retry-After header.
        let retry = NextStep::Retry { after: rejection.retry_after().map(RetryAfter::from) };
        let ours = |next, health| Verdict::new(next, health).with_matter(Matter::Ours);
        match rejection.kind() {
            RejectionKind::FirstByteTimeout if self.retry_first_byte_timeout => ours(retry, Health::Failure),
            // A slow prompt causes it as well as a hung upstream.
            RejectionKind::FirstByteTimeout => ours(NextStep::TryAnother, Health::Failure),
            RejectionKind::DeadlineExceeded => ours(NextStep::GiveUp, Health::Ignored),
            // A superseded call may have been in flight.
            RejectionKind::Superseded => ours(NextStep::GiveUp, Health::Ignored),
            RejectionKind::ConversationBusy => ours(NextStep::GiveUp, Health::Ignored).not_executed(),
            RejectionKind::CircuitOpen | RejectionKind::Paced | RejectionKind::QueueFull => {
                ours(NextStep::TryAnother, Health::Ignored).not_executed()
            }
            RejectionKind::BodyFailed | RejectionKind::SharedCallFailed => Verdict::new(retry, Health::Failure),
            RejectionKind::UpstreamFailed => match error::find::<UpstreamError>(rejection as &(dyn Error + 'static)) {
                Some(reported) => reported.verdict(),
                None => Verdict::new(retry, Health::Failure),
            },
            // These are about the caller or this crate; the upstream was not asked.
            RejectionKind::IdempotencyKeyInvalid
            | RejectionKind::IdempotencyKeyRequired
            | RejectionKind::IdempotencyKeyReused
            | RejectionKind::AnswerGone
            | RejectionKind::EventIdUnknown => Verdict::new(NextStep::GiveUp, Health::Ignored).not_executed(),
            RejectionKind::IdempotencyKeyInFlight
            | RejectionKind::DedupStoreFull
            | RejectionKind::DedupStoreUnreachable => ours(retry, Health::Ignored).not_executed(),
        }
    }
}

impl Classify for Standard {
    #[inline]
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        // Refusals come first: a gRPC refusal has status 200.
        match (outcome.status(), outcome.headers()) {
            (Some(status), Some(headers)) => match outcome.rejection() {
                Some(rejection) => hinted(self.refused(rejection), headers),
                None if status.as_u16() < 400 => {
                    let invalid = outcome.extensions().and_then(InvalidOutput::in_extensions);
                    invalid.map_or(DONE, |_| INVALID_OUTPUT)
                }
                None => {
                    // The content of the body, if a layer inside has read it.
                    let reported = outcome.extensions().and_then(|extensions| extensions.get::<UpstreamError>());
                    hinted(reported.map_or_else(|| of_status(status, headers), UpstreamError::verdict), headers)
                }
            },
            _ => outcome.cause().map_or(DONE, |err| match outcome.rejection() {
                Some(rejection) => self.refused(rejection),
                None => transport::classify(err),
            }),
        }
    }

    fn needs_request(&self) -> bool {
        false
    }
}

fn of_status(status: StatusCode, headers: &HeaderMap) -> Verdict {
    let row = STATUSES.iter().find(|(row, _)| row.contains(&status.as_u16()));
    let verdict = row.map_or(DONE, |(_, verdict)| *verdict);
    // A server that is too busy to start says when to retry. Envoy also answers 503 when the upstream's connection ends
    // after it had the request (envoy#1979, istio#13851).
    let refused = status == StatusCode::SERVICE_UNAVAILABLE && retry_after(headers).is_some();
    if refused { verdict.not_executed() } else { verdict }
}

/// The verdict may already include these headers; if its hint came from prose, they replace it.
fn hinted(verdict: Verdict, headers: &HeaderMap) -> Verdict {
    let retry = |known: Option<RetryAfter>| NextStep::Retry { after: known.or_else(|| retry_after(headers)) };
    let next = match (verdict.next, should_retry(headers)) {
        (NextStep::Retry { .. }, Some(false)) => NextStep::TryAnother,
        (NextStep::Retry { after }, _) => retry(after),
        (NextStep::TryAnother | NextStep::GiveUp, Some(true)) => retry(None),
        (other, _) => other,
    };
    verdict.with_next(next)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;
    use std::time::Duration;

    use http::Response;

    use super::*;
    use crate::error::{BoxError, ConnectElapsed, DeadlineExceeded, IdleBodyElapsed};
    use crate::rejection::RejectionFormat;

    fn judge(response: &Response<()>) -> Verdict {
        Standard::new().classify(&Outcome::head(response))
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Response<()> {
        let builder = Response::builder().status(status);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    fn refusal(kind: RejectionKind, wire: RejectionFormat) -> Response<()> {
        Rejection::new(kind).into_response(wire).map(drop)
    }

    const fn ours(next: NextStep, health: Health) -> Verdict {
        Verdict::new(next, health).with_matter(Matter::Ours)
    }

    fn judge_error(err: impl Into<BoxError>) -> Verdict {
        Standard::new().classify(&Outcome::failure(&*err.into()))
    }

    #[test]
    fn every_status_is_judged_as_the_table_says() {
        for status in 100..1_000 {
            let expected = match status {
                ..400 => ("Done", Health::Success, Matter::Request, false),
                401 | 402 | 403 | 407 => ("TryAnother", Health::Success, Matter::Credential, false),
                413 => ("TryAnother", Health::Success, Matter::Request, false),
                408 | 409 => ("Retry", Health::Ignored, Matter::Upstream, false),
                421 => ("GiveUp", Health::Success, Matter::Request, true),
                425 => ("Retry", Health::Ignored, Matter::Upstream, true),
                429 => ("Retry", Health::Throttled, Matter::Credential, true),
                ..=499 | 501 | 505 => ("GiveUp", Health::Success, Matter::Request, false),
                _ => ("Retry", Health::Failure, Matter::Upstream, false),
            };
            let verdict = judge(&answer(status, &[]));
            let next = match verdict.next {
                NextStep::Done => "Done",
                NextStep::Retry { after: None } => "Retry",
                NextStep::Retry { .. } => "Retry after",
                NextStep::TryAnother => "TryAnother",
                NextStep::GiveUp => "GiveUp",
            };
            assert_eq!((next, verdict.health, verdict.matter, verdict.not_executed), expected, "{status}");
        }
    }

    #[test]
    fn the_server_cannot_make_it_another_ones_matter() {
        for asked in ["true", "false"] {
            for status in [401, 402, 403, 429, 413, 500] {
                let verdict = judge(&answer(status, &[("x-should-retry", asked)]));
                assert_eq!(verdict.matter, judge(&answer(status, &[])).matter, "{status}");
            }
        }
    }

    /// Envoy: "upstream connect error or disconnect/reset before headers", after the upstream had the request.
    #[test]
    fn a_503_proves_nothing_unless_it_says_when_to_come_back() {
        assert!(!judge(&answer(503, &[])).not_executed);
        assert!(!judge(&answer(503, &[("retry-after", "soon")])).not_executed);
        assert!(judge(&answer(503, &[("retry-after", "5")])).not_executed);
        assert!(judge(&answer(503, &[("retry-after-ms", "50")])).not_executed);
        assert!(!judge(&answer(500, &[("retry-after", "5")])).not_executed);
        assert!(judge(&refusal(RejectionKind::CircuitOpen, RejectionFormat::Http)).not_executed);
    }

    #[test]
    fn our_own_refusals_differ_from_the_upstreams_answers_in_every_format() {
        for wire in [RejectionFormat::Http, RejectionFormat::Grpc] {
            let judge = |kind| judge(&refusal(kind, wire));
            let silent = judge(RejectionKind::FirstByteTimeout);
            assert_eq!(silent, ours(NextStep::TryAnother, Health::Failure));
            let late = judge(RejectionKind::DeadlineExceeded);
            assert_eq!(late, ours(NextStep::GiveUp, Health::Ignored));
            let open = judge(RejectionKind::CircuitOpen);
            assert_eq!(open, ours(NextStep::TryAnother, Health::Ignored).not_executed());
            let broken = judge(RejectionKind::BodyFailed);
            assert_eq!(broken, Verdict::new(RETRY, Health::Failure));
        }
        // The upstream's own 504:
        assert_eq!(judge(&answer(504, &[])), Verdict::new(RETRY, Health::Failure));
    }

    #[test]
    fn a_silent_upstream_can_be_asked_again() {
        let silent = refusal(RejectionKind::FirstByteTimeout, RejectionFormat::Http);
        let verdict = Standard::new().retry_first_byte_timeout(true).classify(&Outcome::head(&silent));
        assert_eq!(verdict, ours(RETRY, Health::Failure));
    }

    #[test]
    fn a_hint_goes_with_the_retry_and_with_nothing_else() {
        let five = Some(Duration::from_secs(5).into());
        let hint = ("retry-after", "5");
        assert_eq!(judge(&answer(429, &[hint])).retry_after(), five);
        assert_eq!(judge(&answer(500, &[hint])).retry_after(), five);
        assert_eq!(judge(&answer(400, &[hint])).next, NextStep::GiveUp);
        assert_eq!(judge(&answer(200, &[hint])).next, NextStep::Done);

        let refused = Rejection::new(RejectionKind::BodyFailed).with_retry_after(Duration::from_secs(5));
        for wire in [RejectionFormat::Http, RejectionFormat::Grpc] {
            assert_eq!(judge(&refused.clone().into_response(wire).map(drop)).retry_after(), five);
        }
    }

    #[test]
    fn the_server_overrules_the_table_but_not_the_health() {
        let (yes, no) = (("x-should-retry", "true"), ("x-should-retry", "false"));
        assert_eq!(judge(&answer(429, &[no])).next, NextStep::TryAnother);
        assert_eq!(judge(&answer(429, &[no])).health, Health::Throttled);
        assert_eq!(judge(&answer(400, &[no])).next, NextStep::GiveUp);
        assert_eq!(judge(&answer(200, &[no])).next, NextStep::Done);

        let verdict = judge(&answer(400, &[yes, ("retry-after-ms", "70")]));
        assert_eq!(verdict.retry_after(), Some(Duration::from_millis(70).into()));
        assert_eq!(verdict.health, Health::Success);
        assert_eq!(judge(&answer(403, &[yes])).next, RETRY);
        assert_eq!(judge(&answer(200, &[yes])).next, NextStep::Done);
    }

    #[test]
    fn errors_are_looked_at_through_their_sources() {
        let after = Duration::from_secs(5);
        let connect = judge_error(io::Error::other(ConnectElapsed::new(after)));
        assert_eq!(connect, Verdict::new(NextStep::TryAnother, Health::Failure).not_executed());
        let late = judge_error(io::Error::other(DeadlineExceeded::new(after)));
        assert_eq!(late, ours(NextStep::GiveUp, Health::Ignored));
        let silent = judge_error(io::Error::other(Rejection::new(RejectionKind::FirstByteTimeout)));
        assert_eq!(silent, ours(NextStep::TryAnother, Health::Failure));
        let refused = judge_error(io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!(refused, Verdict::new(RETRY, Health::Failure).not_executed());

        let broken = Verdict::new(RETRY, Health::Failure);
        assert_eq!(judge_error(io::Error::from(io::ErrorKind::ConnectionReset)), broken);
        assert_eq!(judge_error(IdleBodyElapsed::new(after)), broken);
        assert_eq!(judge_error("anything else"), broken);
    }

    #[test]
    fn a_classifier_can_be_wrapped_and_shared() {
        let wrapped: std::sync::Arc<dyn Classify> = std::sync::Arc::new(|outcome: &Outcome<'_>| {
            let verdict = Standard::new().classify(outcome);
            if outcome.error::<io::Error>().is_some() { verdict.not_executed() } else { verdict }
        });
        let broken: Result<Response<()>, _> = Err(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(wrapped.classify(&Outcome::of(&broken)).not_executed);
        let fine = Ok::<_, Infallible>(answer(200, &[]));
        assert_eq!(Classify::classify(&wrapped, &Outcome::of(&fine)), DONE);
    }
}
