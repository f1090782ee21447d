//! What a JSON request says about the call: its model, and whether it wants an event stream, though its `Accept` may not
//! say so.

mod members;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body as _;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use tokio::time::timeout_at;
use tower_buttress::{Deadline, DeadlineHeader, ExpectsEventStream, Memory, Model, Reservation, Tenant};

use self::members::Members;
use super::begun::Begun;

/// A request's body: read already, or not, or not all of it.
pub(crate) type MaybeRead = Either<Full<Bytes>, Begun>;

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
    /// The route depends on the model: what is JSON is read also where it is called something else.
    pub(crate) chooses_by_model: bool,
    /// The longest a call may take. It begins here, where no layer has seen the request yet that could bound that.
    pub(crate) limit: Option<Duration>,
    /// Where callers say the same.
    pub(crate) header: Option<DeadlineHeader>,
    /// What was read of all calls is counted in it. When it is spent, requests are not read.
    pub(crate) memory: Memory,
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

/// In a request's extensions: there was no memory to read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoMemory;

/// What reading a request came to.
enum Read {
    Whole(Bytes),
    /// There was no memory for more.
    Begun(Begun),
}

// === impl Inspector ===

impl Inspector {
    /// Notes the model of a JSON request, and whether it says `"stream": true`.
    pub(crate) async fn inspect(&self, request: Request<Incoming>) -> Result<Request<MaybeRead>, Unread> {
        let is_json = is_json(request.headers());
        let may_say = (is_json || self.chooses_by_model) && is_small(request.headers());
        if !self.is_on || request.method() != Method::POST || !may_say {
            return Ok(request.map(|body| Either::Right(Begun::unread(body))));
        }
        let (mut parts, body) = request.into_parts();
        let theirs = self.header.as_ref().and_then(|header| header.read(&parts.headers).ok().flatten());
        let limit = self.limit.into_iter().chain(theirs).min();
        let mut patience = READ_TIMEOUT;
        if let Some(deadline) = limit.and_then(Deadline::after) {
            parts.extensions.insert(deadline);
            patience = patience.min(deadline.instant().saturating_duration_since(Instant::now()));
        }
        let reservation = self.memory.reserve(parts.extensions.get::<Tenant>());
        let data = match read(body, patience, reservation).await? {
            Read::Whole(data) => data,
            Read::Begun(body) => {
                parts.extensions.insert(NoMemory);
                return Ok(Request::from_parts(parts, Either::Right(body)));
            }
        };
        let members = Members::of(&data);
        if members.stream {
            parts.extensions.insert(ExpectsEventStream);
        }
        if let Some(name) = members.model
            && is_name(&name)
        {
            parts.extensions.insert(Model::new(name));
        }
        // Uploads of another kind, which some endpoints take, do not begin so.
        let looks_like_json = is_json || data.trim_ascii_start().starts_with(b"{");
        if members.is_unclear && looks_like_json {
            parts.extensions.insert(UnclearModel);
        }
        Ok(Request::from_parts(parts, Either::Left(Full::new(data))))
    }
}

/// Reads a body whose length is known to be small.
async fn read(mut body: Incoming, patience: Duration, mut reservation: Reservation) -> Result<Read, Unread> {
    let until = tokio::time::Instant::now() + patience;
    let length = usize::try_from(body.size_hint().lower()).unwrap_or_default();
    // A body that comes at once is not copied.
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    let mut may_read = true;
    while may_read {
        let Ok(frame) = timeout_at(until, body.frame()).await else { return Err(Unread::Late(body)) };
        let Some(frame) = frame else { break };
        // A length was given, and so there are no trailers.
        let data = frame.map_err(Unread::Broken)?.into_data().unwrap_or_default();
        may_read = reservation.grow(data.len());
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(length);
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    let data = if rest.is_empty() { first } else { rest.freeze() };
    let data = reservation.keep(data);
    Ok(if may_read { Read::Whole(data) } else { Read::Begun(Begun::new(data, body)) })
}

fn is_small(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= LIMIT)
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let essence = essence.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_MODEL).contains(&text.len()) && !text.chars().any(char::is_control)
}
