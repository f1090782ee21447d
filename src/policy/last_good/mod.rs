//! Decides when an earlier answer replaces a failure, and which.

pub(crate) mod cache;
pub(crate) mod cache_control;
pub(crate) mod normalize;
pub(crate) mod similar;
pub(crate) mod template;

use super::verdict::{Health, Matter, NextStep, Verdict};

/// Whether an earlier answer may be returned after this verdict.
///
/// It may if the upstream failed, is overloaded, or was not asked because of a limit of this crate. A fault of the caller
/// (its request, its credential) must reach the caller: an earlier answer would hide it.
pub(crate) fn may_stand_in(verdict: &Verdict) -> bool {
    let unserved = verdict.next != NextStep::Done;
    let failed = matches!(verdict.health, Health::Failure | Health::Throttled);
    unserved && (failed || verdict.matter == Matter::Ours)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Response};

    use super::*;
    use crate::policy::verdict::{Classify, Outcome, Standard};
    use crate::rejection::{Rejection, RejectionFormat, RejectionKind};

    fn of<B>(response: &Response<B>) -> bool {
        may_stand_in(&Standard::new().classify(&Outcome::head(response)))
    }

    #[test]
    fn only_for_what_is_not_the_callers_matter() {
        let status = |status: u16| of(&Response::builder().status(status).body(()).unwrap());
        for failed in [429, 500, 502, 503, 504, 529] {
            assert!(status(failed), "{failed}");
        }
        for other in [200, 204, 304, 400, 401, 402, 403, 404, 407, 408, 409, 413, 422, 501] {
            assert!(!status(other), "{other}");
        }
    }

    #[test]
    fn our_limits_are_no_answer_and_a_wrong_key_is_one() {
        let refused = |kind| of(&Rejection::new(kind).into_response(RejectionFormat::of(&HeaderMap::new())));
        use RejectionKind::{
            BodyFailed, CircuitOpen, DeadlineExceeded, FirstByteTimeout, IdempotencyKeyInvalid, IdempotencyKeyReused,
            Paced, QueueFull, UpstreamFailed,
        };
        for ours in [BodyFailed, CircuitOpen, DeadlineExceeded, FirstByteTimeout, Paced, QueueFull, UpstreamFailed] {
            assert!(refused(ours), "{ours}");
        }
        for callers in [IdempotencyKeyInvalid, IdempotencyKeyReused] {
            assert!(!refused(callers), "{callers}");
        }
    }
}
