//! Classifies the answer to a request for the rest of a stream.

use std::time::Duration;

use http::{Response, StatusCode};

use crate::proto::event_stream::EventStream;
use crate::proto::retry_after;
use crate::rt::clock;

/// An upstream's answer to a request for the rest.
pub(super) enum Reply {
    /// A stream, possibly the rest.
    Stream,
    /// A retry may succeed a moment later.
    Later { retry_after: Option<Duration> },
    /// It has nothing after this cursor.
    NoCursor,
    /// There is no rest, or none for this caller.
    Refused,
}

// === impl Reply ===

impl Reply {
    pub(super) fn of<B>(response: &Response<B>) -> Self {
        let status = response.status();
        if status.is_success() && EventStream::of(response.headers()) == EventStream::Plain {
            Self::Stream
        } else if is_transient(status) {
            let retry_after = retry_after::retry_after(response.headers()).map(|after| after.wait(clock::wall()));
            Self::Later { retry_after }
        } else if status.is_client_error() && !concerns_credential(status) {
            Self::NoCursor
        } else {
            // A success without a stream means no rest (204), or no answer to the request.
            Self::Refused
        }
    }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

/// Whether another request would be refused too.
fn concerns_credential(status: StatusCode) -> bool {
    use StatusCode as S;

    matches!(status, S::UNAUTHORIZED | S::PAYMENT_REQUIRED | S::FORBIDDEN | S::PROXY_AUTHENTICATION_REQUIRED)
}
