//! Which answers may be given to somebody who asks again.

use http::{HeaderMap, StatusCode};

use crate::proto::grpc::GRPC_STATUS;

/// How a request was recognised as one that may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// By its caller, with an `Idempotency-Key`: whatever came of it is the answer to that key.
    ByKey,
    /// By us, by what it says: whoever repeats it after an error wants another attempt, not the error again.
    ByFingerprint,
}

impl KeySource {
    /// Whether an answer with this head may be given to those who come later. Those who wait already get any answer.
    ///
    /// `refused`: a layer of ours gave it in the upstream's place.
    pub(crate) fn keeps_head(self, status: StatusCode, headers: &HeaderMap, refused: bool) -> bool {
        if refused || status.is_informational() {
            return false;
        }
        match self {
            Self::ByFingerprint => status.is_success() && !grpc_failed(headers),
            Self::ByKey => {
                // Nothing was executed (RFC 9110, 15.5.9 and 15.5.20; RFC 8470, 5.2), so there is nothing to remember. A
                // 409 is no answer either: an upstream that knows keys itself gives it while the key's call goes on.
                use StatusCode as Is;
                let executed = !matches!(
                    status,
                    Is::REQUEST_TIMEOUT
                        | Is::CONFLICT
                        | Is::MISDIRECTED_REQUEST
                        | Is::TOO_EARLY
                        | Is::TOO_MANY_REQUESTS
                        | Is::SERVICE_UNAVAILABLE
                );
                executed && !grpc_not_executed(headers)
            }
        }
    }

    /// The same, once its trailers are known.
    pub(crate) fn keeps_trailers(self, trailers: &HeaderMap) -> bool {
        match self {
            Self::ByFingerprint => !grpc_failed(trailers),
            Self::ByKey => !grpc_not_executed(trailers),
        }
    }
}

fn grpc_failed(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| status != "0")
}

/// `RESOURCE_EXHAUSTED`, `ABORTED` and `UNAVAILABLE`: gRPC's 429, 409 and 503.
fn grpc_not_executed(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| ["8", "10", "14"].iter().any(|given| status == given))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn keeps(named: KeySource, status: u16) -> bool {
        named.keeps_head(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), false)
    }

    #[test]
    fn an_error_is_the_answer_to_a_key_and_to_no_fingerprint() {
        for (status, by_key, by_fingerprint) in [
            (200, true, true),
            (201, true, true),
            (204, true, true),
            (302, true, false),
            (400, true, false),
            (422, true, false),
            (500, true, false),
            (502, true, false),
            (408, false, false),
            (409, false, false),
            (429, false, false),
            (503, false, false),
            (421, false, false),
            (425, false, false),
            (101, false, false),
        ] {
            assert_eq!(keeps(KeySource::ByKey, status), by_key, "{status}");
            assert_eq!(keeps(KeySource::ByFingerprint, status), by_fingerprint, "{status}");
        }
    }

    #[test]
    fn our_own_refusals_are_nobodys_answer() {
        assert!(!KeySource::ByKey.keeps_head(StatusCode::GATEWAY_TIMEOUT, &HeaderMap::new(), true));
    }

    #[test]
    fn grpc_says_it_in_trailers() {
        let trailers = |status: &'static str| HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))]);
        for (status, by_key, by_fingerprint) in
            [("0", true, true), ("3", true, false), ("8", false, false), ("10", false, false), ("14", false, false)]
        {
            assert_eq!(KeySource::ByKey.keeps_trailers(&trailers(status)), by_key, "{status}");
            assert_eq!(KeySource::ByFingerprint.keeps_trailers(&trailers(status)), by_fingerprint, "{status}");
            assert_eq!(KeySource::ByKey.keeps_head(StatusCode::OK, &trailers(status), false), by_key, "{status}");
        }
        assert!(KeySource::ByFingerprint.keeps_trailers(&HeaderMap::new()));
    }
}
