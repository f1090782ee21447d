//! Which requests are answered with an event stream, though their `Accept` does not say so.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower_buttress::{Deadline, DeadlineHeader, ExpectsEventStream};

/// A request's body: read already, or not.
pub(crate) type MaybeRead = Either<Full<Bytes>, Incoming>;

/// As much as the layers keep for another attempt. A longer body is passed on as it comes.
const LIMIT: u64 = 2 * 1024 * 1024;
/// How long reading may take where no deadline is nearer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Marks requests, where there is any use in it.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    /// Whether streams begin early at all.
    pub(crate) enabled: bool,
    /// The longest a call may take. It begins here, where no layer has seen the request yet that could bound that.
    pub(crate) limit: Option<Duration>,
    /// Where callers say the same.
    pub(crate) header: Option<DeadlineHeader>,
}

/// Why a request was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    Broken(hyper::Error),
    Late(Incoming),
}

// === impl Marker ===

impl Marker {
    /// Marks a JSON request that says `"stream": true`, which takes reading it; no other is read.
    pub(crate) async fn mark(&self, request: Request<Incoming>) -> Result<Request<MaybeRead>, Unread> {
        if !self.enabled || request.method() != Method::POST || !is_small_json(request.headers()) {
            return Ok(request.map(Either::Right));
        }
        let (mut parts, mut body) = request.into_parts();
        let theirs = self.header.as_ref().and_then(|header| header.read(&parts.headers).ok().flatten());
        let limit = self.limit.into_iter().chain(theirs).min();
        let mut patience = READ_TIMEOUT;
        if let Some(deadline) = limit.and_then(Deadline::after) {
            parts.extensions.insert(deadline);
            patience = patience.min(deadline.instant().saturating_duration_since(Instant::now()));
        }
        let Ok(collected) = timeout(patience, (&mut body).collect()).await else { return Err(Unread::Late(body)) };
        // A length was given, and so there were no trailers.
        let data = collected.map_err(Unread::Broken)?.to_bytes();
        if wants_stream(&data) {
            parts.extensions.insert(ExpectsEventStream);
        }
        Ok(Request::from_parts(parts, Either::Left(Full::new(data))))
    }
}

fn is_small_json(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let essence = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = essence.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    length.is_some_and(|length| length <= LIMIT) && essence.eq_ignore_ascii_case(b"application/json")
}

fn wants_stream(body: &[u8]) -> bool {
    let json = serde_json::from_slice::<serde_json::Value>(body);
    json.is_ok_and(|json| json["stream"] == serde_json::Value::Bool(true))
}
