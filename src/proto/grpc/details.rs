//! `google.rpc.RetryInfo`: tells a gRPC application, not only its channel, when to retry.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use http::{HeaderMap, HeaderValue};
use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt, pb};

use super::GRPC_STATUS_DETAILS_BIN;

/// By the gRPC specification senders should not pad, and receivers must accept both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// Returns when the server wants to be tried again, from the [`RetryInfo`] of its status; `None` without one, or if the
/// details cannot be read.
///
/// [`RetryInfo`]: https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
///
/// ```
/// use std::time::Duration;
/// use http::HeaderMap;
/// use tower_buttress::proto::grpc::{self, GRPC_STATUS_DETAILS_BIN};
///
/// let mut trailers = HeaderMap::new();
/// assert_eq!(grpc::retry_info(&trailers), None);
/// let details = grpc::status_details(8, "slowly", Duration::from_millis(1500));
/// trailers.insert(GRPC_STATUS_DETAILS_BIN, details);
/// assert_eq!(grpc::retry_info(&trailers), Some(Duration::from_millis(1500)));
/// ```
#[must_use]
pub fn retry_info(headers: &HeaderMap) -> Option<Duration> {
    let details = BASE64.decode(headers.get(GRPC_STATUS_DETAILS_BIN)?).ok()?;
    let status = pb::Status::decode(&*details).ok()?;
    let info = status.details.iter().find(|detail| detail.type_url == RETRY_INFO)?;
    let delay = pb::RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    // The type's own conversion panics at the smallest number.
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?))
}

/// Returns the value of [`GRPC_STATUS_DETAILS_BIN`] that asks for a retry after `wait`.
#[must_use]
pub fn status_details(code: u8, message: &str, wait: Duration) -> HeaderValue {
    let status =
        Status::with_error_details(Code::from(i32::from(code)), message, ErrorDetails::with_retry_info(Some(wait)));
    let text = BASE64.encode(status.details());
    // Base64 is always a valid header value.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delay_of(seconds: i64, nanos: i32) -> HeaderMap {
        let mut info = pb::RetryInfo { retry_delay: Some(Default::default()) };
        let delay = info.retry_delay.as_mut().unwrap();
        (delay.seconds, delay.nanos) = (seconds, nanos);
        let mut status = pb::Status { details: vec![Default::default()], ..pb::Status::default() };
        RETRY_INFO.clone_into(&mut status.details[0].type_url);
        status.details[0].value = info.encode_to_vec();
        details(BASE64.encode(status.encode_to_vec()).as_bytes())
    }

    fn details(value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_STATUS_DETAILS_BIN, HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn what_is_written_is_read() {
        for wait in [Duration::ZERO, Duration::from_millis(1_500), Duration::new(86_400, 1)] {
            let value = status_details(14, "later", wait);
            assert_eq!(retry_info(&details(value.as_bytes())), Some(wait));
        }
        // Longer than the format can say: ten thousand years, and no panic.
        let longest = retry_info(&details(status_details(14, "later", Duration::MAX).as_bytes())).unwrap();
        assert_eq!(longest.as_secs(), 315_576_000_000);
    }

    #[test]
    fn padding_may_be_there() {
        // As protoc encodes it: code 8, and one detail, a delay of 2 s.
        let padded = "CAgaMAoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLlJldHJ5SW5mbxIECgIIAg==";
        for value in [padded, padded.trim_end_matches('=')] {
            assert_eq!(retry_info(&details(value.as_bytes())), Some(Duration::from_secs(2)), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for odd in [&b""[..], b"!", b"AAAA", b"CAg", b"////////"] {
            assert_eq!(retry_info(&details(odd)), None, "{odd:?}");
        }
    }

    #[test]
    fn a_delay_that_is_none_says_nothing() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MIN, 0), (0, i32::MIN), (i64::MIN, i32::MIN), (i64::MAX, -1)] {
            assert_eq!(retry_info(&delay_of(seconds, nanos)), None, "{seconds} {nanos}");
        }
        assert_eq!(retry_info(&delay_of(1, 5)), Some(Duration::new(1, 5)));
        assert!(retry_info(&delay_of(i64::MAX, i32::MAX)).is_some());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), raw: bool) {
            let value = if raw { bytes } else { BASE64.encode(bytes).into_bytes() };
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let _ = retry_info(&HeaderMap::from_iter([(GRPC_STATUS_DETAILS_BIN, value)]));
            }
        }
    }
}
