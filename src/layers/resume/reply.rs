//! What the answer to a request for the rest of a stream says.

use std::time::Duration;

use http::{Response, StatusCode};

use crate::proto::event_stream::EventStream;
use crate::proto::retry_after;
use crate::rt::clock;

/// What an upstream says to a request for the rest of its stream.
pub(super) enum Reply {
    /// A stream, which may be the rest.
    Stream,
    /// The same request may be answered otherwise a moment later.
    Later { retry_after: Option<Duration> },
    /// It has nothing behind this cursor.
    NoCursor,
    /// There is nothing to come, or nothing for this caller.
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
            // A success that is no stream says that there is nothing to come (204), or is no answer to the question.
            Self::Refused
        }
    }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

/// Whether it would be refused for another answer too.
fn concerns_credential(status: StatusCode) -> bool {
    use StatusCode as S;

    matches!(status, S::UNAUTHORIZED | S::PAYMENT_REQUIRED | S::FORBIDDEN | S::PROXY_AUTHENTICATION_REQUIRED)
}
