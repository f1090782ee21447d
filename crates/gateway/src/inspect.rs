//! What a JSON request says about the call: its model, and whether it wants an event stream, though its `Accept` may not
//! say so.

mod members;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower_buttress::{Deadline, DeadlineHeader, ExpectsEventStream, Model};

use self::members::Members;

/// A request's body: read already, or not.
pub(crate) type MaybeRead = Either<Full<Bytes>, Incoming>;

/// As much as the layers keep for another attempt. A longer body is passed on as it comes.
const LIMIT: u64 = 2 * 1024 * 1024;
/// How long reading may take where no deadline is nearer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// No provider has a longer name, and it appears in logs and figures.
const LONGEST_MODEL: usize = 128;

/// Reads requests, where there is any use in it.
#[derive(Clone, Debug)]
pub(crate) struct Inspector {
    /// Off, nothing is read.
    pub(crate) is_on: bool,
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

/// In a request's extensions: parsers read different models in it, or some read one where others read none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnclearModel;

// === impl Inspector ===

impl Inspector {
    /// Notes the model of a JSON request, and whether it says `"stream": true`. No other request is read.
    pub(crate) async fn inspect(&self, request: Request<Incoming>) -> Result<Request<MaybeRead>, Unread> {
        if !self.is_on || request.method() != Method::POST || !is_small_json(request.headers()) {
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
        let members = Members::of(&data);
        if members.stream {
            parts.extensions.insert(ExpectsEventStream);
        }
        if let Some(name) = members.model
            && is_name(&name)
        {
            parts.extensions.insert(Model::new(name));
        }
        if members.is_unclear {
            parts.extensions.insert(UnclearModel);
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

fn is_name(text: &str) -> bool {
    (1..=LONGEST_MODEL).contains(&text.len()) && !text.chars().any(char::is_control)
}
