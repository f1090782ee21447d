//! A request that was answered before all of it was read.
//!
//! A client that still writes when its connection is closed gets a reset, and with it loses the answer that was on its
//! way. So what is left is read and dropped: a small rest before the answer, which keeps the connection; a large one
//! beside an answer that says `Connection: close`.

use std::time::Duration;

use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Response, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer_body::AnswerBody;

/// How much is read, and for how long, to keep a connection.
const SMALL: u64 = 64 * 1024;
const SOON: Duration = Duration::from_secs(1);
/// How much is read, and for how long, so that the client can read the answer; the last is its longest silence.
const LARGE: u64 = 64 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(1);

/// What a client may still be sending. Known before its body goes elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// In HTTP/2 each request has a stream of its own, and nothing is lost with it.
    has_connection: bool,
    /// It sends nothing before the body is asked for.
    waits: bool,
}

// === impl Sender ===

impl Sender {
    pub(crate) fn new(version: Version, headers: &HeaderMap) -> Self {
        let waits = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { has_connection: version < Version::HTTP_2, waits }
    }

    /// Answers a request of whose body nothing was read.
    pub(crate) async fn refuse(self, body: Incoming, response: Response<AnswerBody>) -> Response<AnswerBody> {
        if self.waits && !body.is_end_stream() && self.has_connection {
            return closing(response);
        }
        self.answer(body, response).await
    }

    /// Answers a request of whose body this is the rest.
    pub(crate) async fn answer(self, mut rest: Incoming, response: Response<AnswerBody>) -> Response<AnswerBody> {
        if rest.is_end_stream() || !self.has_connection {
            return response;
        }
        let small = rest.size_hint().exact().is_none_or(|length| length <= SMALL);
        if small && timeout(SOON, discard(&mut rest, SMALL)).await == Ok(true) {
            return response;
        }
        tokio::spawn(linger(rest));
        closing(response)
    }

    /// Sees to what is left of a body that is still being read elsewhere, when the answer has gone out already.
    pub(crate) fn later(self, rest: oneshot::Receiver<Incoming>) {
        if self.has_connection {
            tokio::spawn(async {
                if let Ok(rest) = rest.await {
                    linger(rest).await;
                }
            });
        }
    }
}

fn closing(mut response: Response<AnswerBody>) -> Response<AnswerBody> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn linger(mut rest: Incoming) {
    let _ = timeout(LINGER, discard(&mut rest, LARGE)).await;
}

/// Reads up to `limit` bytes; tells whether that was all.
async fn discard(rest: &mut Incoming, limit: u64) -> bool {
    let mut read = 0;
    while let Ok(frame) = timeout(SILENCE, rest.frame()).await {
        match frame {
            None => return true,
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) => return false,
        }
        if read > limit {
            return false;
        }
    }
    false
}
