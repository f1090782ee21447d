//! Decides which answers are stored for identical later requests.

use http::{HeaderMap, StatusCode};

use crate::proto::dialect::End;
use crate::proto::grpc::GRPC_STATUS;
use crate::proto::media_type::BodyForm;

/// How a duplicate request is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// By an `Idempotency-Key`: its caller relies on it.
    ByKey,
    /// By its fingerprint: a caller that repeats it after an error wants another attempt, not the stored error.
    ByFingerprint,
}

/// How an answer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Storable {
    /// It is not stored. Its current readers still read it.
    No,
    /// While there is room.
    Evictable,
    /// For the whole window.
    Guaranteed,
}

/// Whether the end of a body with these headers does not prove that it is complete.
pub(crate) fn has_unproven_end(headers: &HeaderMap) -> bool {
    // A stream of messages may end early, and its end looks like any other.
    matches!(BodyForm::of(headers), BodyForm::EventStream | BodyForm::JsonLines)
}

// === impl KeySource ===

impl KeySource {
    /// Returns how an answer with this head is stored.
    ///
    /// Stored under a key are a success, and an answer that the request itself cannot be served (400, 422), which a
    /// repetition would get again. Any other answer may differ the next time, once the caller has logged in, the upstream
    /// has recovered, or the first call with this key has ended (409). A stranger can also provoke those at will.
    ///
    /// `ours`: a layer of this crate gave the answer. `may_retry`: the upstream says that the same request may get
    /// another answer.
    pub(crate) fn of_head(self, status: StatusCode, headers: &HeaderMap, ours: bool, may_retry: bool) -> Storable {
        if ours {
            return Storable::No;
        }
        if status.is_success() {
            return self.of_grpc_status(headers);
        }
        match (self, status) {
            (Self::ByKey, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY) if !may_retry => {
                Storable::Evictable
            }
            _ => Storable::No,
        }
    }

    /// The same for a gRPC status, in the head or in trailers; a success without one.
    pub(crate) fn of_grpc_status(self, headers: &HeaderMap) -> Storable {
        match (self, headers.get(GRPC_STATUS).map(|status| status.as_bytes())) {
            (Self::ByKey, None | Some(b"0")) => Storable::Guaranteed,
            // INVALID_ARGUMENT: gRPC's 400.
            (Self::ByKey, Some(b"3")) | (Self::ByFingerprint, None | Some(b"0")) => Storable::Evictable,
            _ => Storable::No,
        }
    }

    /// Whether a message stream with this end is stored: `None` if its end is unknown.
    ///
    /// A caller's key stands for one execution, however the model ended it. Without a key, an answer that a model refused
    /// or a filter blocked may differ the next time. If the reason is unknown, the answer may be incomplete.
    pub(crate) fn keeps(self, end: Option<End>) -> bool {
        match (self, end) {
            (_, Some(End::Whole | End::Paused | End::Limit)) => true,
            (Self::ByKey, Some(End::Refused | End::Filtered)) => true,
            (_, Some(End::Refused | End::Filtered | End::Unknown) | None) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(source: KeySource, status: u16) -> Storable {
        source.of_head(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), false, false)
    }

    #[test]
    fn a_success_is_kept_and_for_a_key_what_the_request_itself_is_to_blame_for() {
        use Storable::{Evictable, Guaranteed, No};
        for (status, by_key, by_fingerprint) in [
            (200, Guaranteed, Evictable),
            (201, Guaranteed, Evictable),
            (204, Guaranteed, Evictable),
            (400, Evictable, No),
            (422, Evictable, No),
            (101, No, No),
            (302, No, No),
            (401, No, No),
            (402, No, No),
            (403, No, No),
            (404, No, No),
            (405, No, No),
            (407, No, No),
            (408, No, No),
            (409, No, No),
            (413, No, No),
            (415, No, No),
            (421, No, No),
            (425, No, No),
            (429, No, No),
            (500, No, No),
            (502, No, No),
            (503, No, No),
            (504, No, No),
        ] {
            assert_eq!(of(KeySource::ByKey, status), by_key, "{status}");
            assert_eq!(of(KeySource::ByFingerprint, status), by_fingerprint, "{status}");
        }
    }

    #[test]
    fn what_may_be_tried_again_is_not_kept() {
        assert_eq!(KeySource::ByKey.of_head(StatusCode::BAD_REQUEST, &HeaderMap::new(), false, true), Storable::No);
    }

    #[test]
    fn the_end_of_a_stream_of_messages_proves_nothing() {
        let of = |kind: &'static str| {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            has_unproven_end(&headers)
        };
        for stream in ["text/event-stream", "Text/Event-Stream; charset=utf-8", "application/x-ndjson"] {
            assert!(of(stream), "{stream}");
        }
        for whole in ["application/json", "text/plain", "application/grpc"] {
            assert!(!of(whole), "{whole}");
        }
        assert!(!has_unproven_end(&HeaderMap::new()));
    }

    #[test]
    fn a_stream_is_kept_when_its_end_is_known() {
        for (end, by_key, by_fingerprint) in [
            (Some(End::Whole), true, true),
            (Some(End::Paused), true, true),
            (Some(End::Limit), true, true),
            (Some(End::Refused), true, false),
            (Some(End::Filtered), true, false),
            (Some(End::Unknown), false, false),
            (None, false, false),
        ] {
            let kept = (KeySource::ByKey.keeps(end), KeySource::ByFingerprint.keeps(end));
            assert_eq!(kept, (by_key, by_fingerprint), "{end:?}");
        }
    }

    #[test]
    fn our_own_refusals_are_not_kept() {
        for status in [StatusCode::OK, StatusCode::BAD_REQUEST, StatusCode::GATEWAY_TIMEOUT] {
            assert_eq!(KeySource::ByKey.of_head(status, &HeaderMap::new(), true, false), Storable::No);
        }
    }

    #[test]
    fn grpc_says_it_in_head_or_trailers() {
        use Storable::{Evictable, Guaranteed, No};
        let said = |status: &'static str| HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(status))]);
        for (status, by_key, by_fingerprint) in [
            ("0", Guaranteed, Evictable),
            ("3", Evictable, No),
            ("8", No, No),
            ("10", No, No),
            ("13", No, No),
            ("14", No, No),
            ("16", No, No),
        ] {
            assert_eq!(KeySource::ByKey.of_grpc_status(&said(status)), by_key, "{status}");
            assert_eq!(KeySource::ByFingerprint.of_grpc_status(&said(status)), by_fingerprint, "{status}");
            assert_eq!(KeySource::ByKey.of_head(StatusCode::OK, &said(status), false, false), by_key, "{status}");
        }
        assert_eq!(KeySource::ByFingerprint.of_grpc_status(&HeaderMap::new()), Evictable);
    }
}
