//! Handles requests that are answered before their body was read.
//!
//! A client that still writes when its connection closes gets a reset, and loses the answer that is on its way. So the
//! gateway reads and drops the rest: a small rest before the answer, which keeps the connection; a large rest while it
//! sends the answer with `Connection: close`.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, EXPECT};
use http::{HeaderMap, HeaderValue, Response, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer_body::AnswerBody;

/// The limits of bytes and time to keep a connection.
const SMALL: u64 = 64 * 1024;
const SOON: Duration = Duration::from_secs(1);
/// The limits of bytes, time and silence to let the client read its answer.
const LARGE: u64 = 64 * 1024 * 1024;
const LINGER: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(1);

/// What a client may still send. Taken before its body goes elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// Whether the request has the connection to itself. An HTTP/2 stream can be reset alone.
    has_connection: bool,
    /// Whether the client waits for `100 Continue` before it sends.
    waits: bool,
}

// === impl Sender ===

impl Sender {
    pub(crate) fn new(version: Version, headers: &HeaderMap) -> Self {
        let waits = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { has_connection: version < Version::HTTP_2, waits }
    }

    /// Answers a request whose body was not read. Boxed, as below, because few calls need the room of these futures.
    pub(crate) fn refuse(
        self,
        body: Incoming,
        response: Response<AnswerBody>,
    ) -> BoxFuture<'static, Response<AnswerBody>> {
        if self.waits && !body.is_end_stream() && self.has_connection {
            return Box::pin(std::future::ready(closing(response)));
        }
        self.answer(body, response)
    }

    /// Answers a request with this unread rest.
    pub(crate) fn answer(
        self,
        mut rest: Incoming,
        response: Response<AnswerBody>,
    ) -> BoxFuture<'static, Response<AnswerBody>> {
        Box::pin(async move {
            if rest.is_end_stream() || !self.has_connection {
                return response;
            }
            let small = rest.size_hint().exact().is_none_or(|length| length <= SMALL);
            if small && timeout(SOON, discard(&mut rest, SMALL)).await == Ok(true) {
                return response;
            }
            tokio::spawn(linger(rest));
            closing(response)
        })
    }

    /// Discards the rest of a body that is still read elsewhere, after the answer has gone out.
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

/// Reads up to `limit` bytes; returns whether that was all.
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
