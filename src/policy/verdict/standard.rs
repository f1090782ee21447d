//! The default classifier: HTTP.

use std::ops::RangeInclusive;

use http::HeaderMap;

use super::{Classify, Health, Outcome, Remedy, Verdict, transport};
use crate::proto::retry_after::{RetryAfter, retry_after, should_retry};
use crate::rejection::{Rejection, RejectionKind};

/// The default classifier: by status, by our own refusals, and by what an error's chain of sources tells.
///
/// | Answer | Remedy | Health |
/// |---|---|---|
/// | 1xx, 2xx, 3xx | Done | Good |
/// | 429 | Retry | Throttled |
/// | 408, 409, 425 | Retry | Unknown |
/// | 401, 402, 403, 413 (another credential, plan or model may do) | Elsewhere | Good |
/// | other 4xx | Nobody | Good |
/// | 501, 505 | Nobody | Good |
/// | everything else from 500 on | Retry | Bad |
/// | no answer: no connection, or broken off | Retry | Bad |
/// | our [`FirstByteTimeout`](RejectionKind::FirstByteTimeout), our connect timeout | Elsewhere | Bad |
/// | our [`BodyFailed`](RejectionKind::BodyFailed) | Retry | Bad |
/// | our [`CircuitOpen`](RejectionKind::CircuitOpen) | Elsewhere | Unknown |
/// | our [`DeadlineExceeded`](RejectionKind::DeadlineExceeded) | Nobody | Unknown |
/// | the request could not be sent: its own body failed, or the client does not send such requests | Nobody | Unknown |
///
/// `x-should-retry: false` turns Retry into Elsewhere, `true` turns everything but Done into Retry; health stays. The
/// hints of [`proto::retry_after`](crate::proto::retry_after) go into [`Remedy::Retry`].
///
/// Nothing was done, provably, where no connection came about, and where the answer is 421, 425, 429 or 503. (That a
/// peer refused an HTTP/2 stream, or said goodbye before it looked at it, and that the request's own body failed, is
/// seen with the feature `hyper`; without it, all of these are connections that broke, and so are those that did not come
/// about in another way than "refused".)
///
/// ```
/// use std::{convert::Infallible, io};
/// use http::Response;
/// use tower_buttress::verdict::{Classify, Health, Outcome, Remedy, Standard};
///
/// let refused: Result<Response<()>, _> = Err(io::Error::from(io::ErrorKind::ConnectionRefused));
/// let verdict = Standard::new().classify(&Outcome::of(&refused));
/// assert_eq!(verdict.remedy, Remedy::Retry { after: None });
/// assert_eq!(verdict.health, Health::Bad);
/// assert!(verdict.nothing_done);
///
/// let overloaded = Response::builder().status(529).header("x-should-retry", "false").body(()).unwrap();
/// let verdict = Standard::new().classify(&Outcome::head(&overloaded));
/// assert_eq!(verdict.remedy, Remedy::Elsewhere);
/// assert_eq!(verdict.health, Health::Bad);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Standard {
    retry_first_byte_timeout: bool,
}

const RETRY: Remedy = Remedy::Retry { after: None };
const DONE: Verdict = Verdict::new(Remedy::Done, Health::Good);

/// The first row that holds the status counts.
const STATUSES: &[(RangeInclusive<u16>, Verdict)] = &[
    (100..=399, DONE),
    (401..=403, Verdict::new(Remedy::Elsewhere, Health::Good)),
    (413..=413, Verdict::new(Remedy::Elsewhere, Health::Good)),
    (408..=409, Verdict::new(RETRY, Health::Unknown)),
    // RFC 8470 5.2: the server did not process the request.
    (425..=425, Verdict::new(RETRY, Health::Unknown).nothing_done()),
    (429..=429, Verdict::new(RETRY, Health::Throttled).nothing_done()),
    // RFC 9110 15.5.20: not by this server. Asking it again over the same connection changes nothing.
    (421..=421, Verdict::new(Remedy::Nobody, Health::Good).nothing_done()),
    (400..=499, Verdict::new(Remedy::Nobody, Health::Good)),
    (501..=501, Verdict::new(Remedy::Nobody, Health::Good)),
    (505..=505, Verdict::new(Remedy::Nobody, Health::Good)),
    (503..=503, Verdict::new(RETRY, Health::Bad).nothing_done()),
    // RFC 9110 15: what lies beyond 599 is treated as a 5xx.
    (500..=u16::MAX, Verdict::new(RETRY, Health::Bad)),
];

// === impl Standard ===

impl Standard {
    /// The table above.
    #[must_use]
    pub const fn new() -> Self {
        Self { retry_first_byte_timeout: false }
    }

    /// Asks an upstream again that sent no first byte in time. Off: that only multiplies the wait, and another upstream
    /// is the better answer.
    #[must_use]
    pub const fn retry_first_byte_timeout(mut self, retry: bool) -> Self {
        self.retry_first_byte_timeout = retry;
        self
    }

    fn refused(self, rejection: &Rejection) -> Verdict {
        // A refusal to a gRPC caller has no Retry-After to read.
        let retry = Remedy::Retry { after: rejection.retry_after().map(RetryAfter::from) };
        match rejection.kind() {
            RejectionKind::FirstByteTimeout if self.retry_first_byte_timeout => Verdict::new(retry, Health::Bad),
            RejectionKind::FirstByteTimeout => Verdict::new(Remedy::Elsewhere, Health::Bad),
            RejectionKind::DeadlineExceeded => Verdict::new(Remedy::Nobody, Health::Unknown),
            RejectionKind::CircuitOpen => Verdict::new(Remedy::Elsewhere, Health::Unknown).nothing_done(),
            RejectionKind::BodyFailed | RejectionKind::SharedCallFailed => Verdict::new(retry, Health::Bad),
            // These say something about the caller or about us, and nothing about the upstream, which was not asked.
            RejectionKind::IdempotencyKeyInvalid
            | RejectionKind::IdempotencyKeyRequired
            | RejectionKind::IdempotencyKeyReused => Verdict::new(Remedy::Nobody, Health::Unknown).nothing_done(),
            RejectionKind::IdempotencyKeyInFlight | RejectionKind::DedupStoreFull => {
                Verdict::new(retry, Health::Unknown).nothing_done()
            }
        }
    }
}

impl Classify for Standard {
    #[inline]
    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        match outcome {
            // A refusal is looked for first: a gRPC caller's has status 200.
            Outcome::Head { status, headers, .. } => match outcome.rejection() {
                Some(rejection) => hinted(self.refused(rejection), headers),
                None if status.as_u16() < 400 => DONE,
                None => hinted(of_status(status.as_u16()), headers),
            },
            Outcome::Error(err) => match outcome.rejection() {
                Some(rejection) => self.refused(rejection),
                None => transport::classify(*err),
            },
            Outcome::Trailers(_) => DONE,
        }
    }
}

fn of_status(status: u16) -> Verdict {
    STATUSES.iter().find(|(row, _)| row.contains(&status)).map_or(DONE, |(_, verdict)| *verdict)
}

fn hinted(verdict: Verdict, headers: &HeaderMap) -> Verdict {
    let retry = |known| Remedy::Retry { after: retry_after(headers).or(known) };
    let remedy = match (verdict.remedy, should_retry(headers)) {
        (Remedy::Retry { .. }, Some(false)) => Remedy::Elsewhere,
        (Remedy::Retry { after }, _) => retry(after),
        (Remedy::Elsewhere | Remedy::Nobody, Some(true)) => retry(None),
        (other, _) => other,
    };
    verdict.with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;
    use std::time::Duration;

    use http::Response;

    use super::*;
    use crate::error::{BoxError, ConnectElapsed, DeadlineExceeded, IdleBodyElapsed};
    use crate::rejection::Wire;

    fn judge(response: &Response<()>) -> Verdict {
        Standard::new().classify(&Outcome::head(response))
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Response<()> {
        let builder = Response::builder().status(status);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
    }

    fn refusal(kind: RejectionKind, wire: Wire) -> Response<()> {
        Rejection::new(kind).into_response(wire).map(drop)
    }

    fn judge_error(err: impl Into<BoxError>) -> Verdict {
        Standard::new().classify(&Outcome::Error(&*err.into()))
    }

    #[test]
    fn every_status_is_judged_as_the_table_says() {
        for status in 100..1_000 {
            let expected = match status {
                ..400 => ("Done", Health::Good, false),
                401 | 402 | 403 | 413 => ("Elsewhere", Health::Good, false),
                408 | 409 => ("Retry", Health::Unknown, false),
                421 => ("Nobody", Health::Good, true),
                425 => ("Retry", Health::Unknown, true),
                429 => ("Retry", Health::Throttled, true),
                ..=499 | 501 | 505 => ("Nobody", Health::Good, false),
                503 => ("Retry", Health::Bad, true),
                _ => ("Retry", Health::Bad, false),
            };
            let verdict = judge(&answer(status, &[]));
            let remedy = match verdict.remedy {
                Remedy::Done => "Done",
                Remedy::Retry { after: None } => "Retry",
                Remedy::Retry { .. } => "Retry after",
                Remedy::Elsewhere => "Elsewhere",
                Remedy::Nobody => "Nobody",
            };
            assert_eq!((remedy, verdict.health, verdict.nothing_done), expected, "{status}");
        }
    }

    #[test]
    fn our_own_refusals_are_told_from_the_upstreams_answers_on_every_wire() {
        for wire in [Wire::Http, Wire::Grpc] {
            let judge = |kind| judge(&refusal(kind, wire));
            let silent = judge(RejectionKind::FirstByteTimeout);
            assert_eq!(silent, Verdict::new(Remedy::Elsewhere, Health::Bad));
            let late = judge(RejectionKind::DeadlineExceeded);
            assert_eq!(late, Verdict::new(Remedy::Nobody, Health::Unknown));
            let broken = judge(RejectionKind::BodyFailed);
            assert_eq!(broken, Verdict::new(RETRY, Health::Bad));
        }
        // The upstream's own 504:
        assert_eq!(judge(&answer(504, &[])), Verdict::new(RETRY, Health::Bad));
    }

    #[test]
    fn a_silent_upstream_can_be_asked_again() {
        let silent = refusal(RejectionKind::FirstByteTimeout, Wire::Http);
        let verdict = Standard::new().retry_first_byte_timeout(true).classify(&Outcome::head(&silent));
        assert_eq!(verdict, Verdict::new(RETRY, Health::Bad));
    }

    #[test]
    fn a_hint_goes_with_the_retry_and_with_nothing_else() {
        let five = Some(Duration::from_secs(5).into());
        let hint = ("retry-after", "5");
        assert_eq!(judge(&answer(429, &[hint])).retry_after(), five);
        assert_eq!(judge(&answer(500, &[hint])).retry_after(), five);
        assert_eq!(judge(&answer(400, &[hint])).remedy, Remedy::Nobody);
        assert_eq!(judge(&answer(200, &[hint])).remedy, Remedy::Done);

        let refused = Rejection::new(RejectionKind::BodyFailed).with_retry_after(Duration::from_secs(5));
        for wire in [Wire::Http, Wire::Grpc] {
            assert_eq!(judge(&refused.clone().into_response(wire).map(drop)).retry_after(), five);
        }
    }

    #[test]
    fn the_server_overrules_the_table_but_not_the_health() {
        let (yes, no) = (("x-should-retry", "true"), ("x-should-retry", "false"));
        assert_eq!(judge(&answer(429, &[no])).remedy, Remedy::Elsewhere);
        assert_eq!(judge(&answer(429, &[no])).health, Health::Throttled);
        assert_eq!(judge(&answer(400, &[no])).remedy, Remedy::Nobody);
        assert_eq!(judge(&answer(200, &[no])).remedy, Remedy::Done);

        let verdict = judge(&answer(400, &[yes, ("retry-after-ms", "70")]));
        assert_eq!(verdict.retry_after(), Some(Duration::from_millis(70).into()));
        assert_eq!(verdict.health, Health::Good);
        assert_eq!(judge(&answer(403, &[yes])).remedy, RETRY);
        assert_eq!(judge(&answer(200, &[yes])).remedy, Remedy::Done);
    }

    #[test]
    fn errors_are_looked_at_through_their_sources() {
        let after = Duration::from_secs(5);
        let connect = judge_error(io::Error::other(ConnectElapsed::new(after)));
        assert_eq!(connect, Verdict::new(Remedy::Elsewhere, Health::Bad).nothing_done());
        let late = judge_error(io::Error::other(DeadlineExceeded::new(after)));
        assert_eq!(late, Verdict::new(Remedy::Nobody, Health::Unknown));
        let silent = judge_error(io::Error::other(Rejection::new(RejectionKind::FirstByteTimeout)));
        assert_eq!(silent, Verdict::new(Remedy::Elsewhere, Health::Bad));
        let refused = judge_error(io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused)));
        assert_eq!(refused, Verdict::new(RETRY, Health::Bad).nothing_done());

        let broken = Verdict::new(RETRY, Health::Bad);
        assert_eq!(judge_error(io::Error::from(io::ErrorKind::ConnectionReset)), broken);
        assert_eq!(judge_error(IdleBodyElapsed::new(after)), broken);
        assert_eq!(judge_error("anything else"), broken);
    }

    #[test]
    fn a_classifier_can_be_wrapped_and_shared() {
        let wrapped: std::sync::Arc<dyn Classify> = std::sync::Arc::new(|outcome: &Outcome<'_>| {
            let verdict = Standard::new().classify(outcome);
            if outcome.error::<io::Error>().is_some() { verdict.nothing_done() } else { verdict }
        });
        let broken: Result<Response<()>, _> = Err(io::Error::from(io::ErrorKind::ConnectionReset));
        assert!(wrapped.classify(&Outcome::of(&broken)).nothing_done);
        let fine = Ok::<_, Infallible>(answer(200, &[]));
        assert_eq!(Classify::classify(&wrapped, &Outcome::of(&fine)), DONE);
    }
}
