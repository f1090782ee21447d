//! Finds the model in a request's path or JSON, and whether it wants an event stream, which `Accept` may not say.

mod gathered;
mod members;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, Method};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::coop::consume_budget;
use tokio::time::timeout_at;
use tower_buttress::proto::media_type::{is_encoded, is_json};
use tower_buttress::{Deadline, DeadlineHeader, ExpectsEventStream, Memory, Model, Reservation};

use self::gathered::Gathered;
use self::members::{LONGEST_MODEL, Members};
use super::account::holder;
use super::begun::Begun;
use super::{grace, paths};

/// A request's body: whole in memory, or partly read.
#[derive(Debug)]
pub(crate) enum MaybeRead {
    Whole(Bytes),
    Begun(Begun),
}

/// The size that layers keep for a retry. A longer body streams through, unless its route depends on it.
const LIMIT: usize = 2 * 1024 * 1024;
/// The limit where the route depends on the body.
const LONGEST: usize = 32 * 1024 * 1024;
/// The time limit for reading, unless a deadline is nearer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How an object may begin, after white space: some parsers also read UTF-16 and UTF-32.
const MARKS: [&[u8]; 4] = [b"{", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];
const LONGEST_MARK: usize = 3;

/// Reads requests where it is useful.
#[derive(Clone, Debug)]
pub(crate) struct Inspector {
    /// If off, reads only what the route depends on.
    pub(crate) is_on: bool,
    /// The time limit of a call. It starts here, because no layer has seen the request yet.
    pub(crate) limit: Option<Duration>,
    /// The header with the caller's deadline.
    pub(crate) header: Option<DeadlineHeader>,
    /// Counts the bytes read of all calls. When it is full, requests are not read.
    pub(crate) memory: Memory,
}

/// Why a request was not read.
#[derive(Debug)]
pub(crate) enum NotInspected {
    Broken(hyper::Error),
    Late(Incoming),
    /// The route depends on a body longer than the limit.
    TooLong(Incoming),
}

/// In a request's extensions: servers may find different models in it, or only some find one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnclearModel;

/// In a request's extensions: there was no memory to read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoMemory;

/// The result of reading a request.
enum InspectResult {
    Whole(MaybeRead, Bytes),
    /// The body is not JSON, whatever its content type says.
    NoJson(Begun),
    /// There was no memory for more of it.
    NoMemory(Begun),
}

/// The limits of reading.
struct Bounds {
    longest: usize,
    /// Whether to stop at a body that does not begin like JSON.
    only_json: bool,
    until: tokio::time::Instant,
}

// === impl Inspector ===

impl Inspector {
    /// Records the model of a request, and whether its JSON has `"stream": true`. Where the route `depends` on the
    /// model, reads JSON of any content type and method.
    pub(crate) async fn inspect(
        &self,
        parts: &mut Parts,
        body: Incoming,
        depends: bool,
    ) -> Result<MaybeRead, NotInspected> {
        // Where an API has the model in its paths, the path decides.
        let in_path = paths::model(parts.uri.path()).filter(|name| is_name(name));
        if let Some(name) = &in_path {
            parts.extensions.insert(Model::new(name.as_str()));
        }
        if depends && paths::has_unclear_model(parts.uri.path()) {
            parts.extensions.insert(UnclearModel);
        }
        let is_post = parts.method == Method::POST;
        let has_body = parts.method != Method::CONNECT && !body.is_end_stream();
        if !has_body && !is_post {
            return Ok(unread(body));
        }
        let is_json = is_json(&parts.headers);
        let may_say = (depends && has_body) || (self.is_on && is_post && is_json && is_small(&parts.headers));
        if !may_say {
            return Ok(unread(body));
        }
        if depends && is_encoded(&parts.headers) {
            parts.extensions.insert(UnclearModel);
            return Ok(unread(body));
        }
        let theirs = self.header.as_ref().and_then(|header| header.read(&parts.headers).ok().flatten());
        let limit = self.limit.into_iter().chain(theirs).min();
        let mut patience = READ_TIMEOUT;
        if let Some(deadline) = limit.and_then(Deadline::after) {
            parts.extensions.insert(deadline);
            patience = patience.min(deadline.instant().saturating_duration_since(Instant::now()));
        }
        let bounds = Bounds {
            longest: if depends { LONGEST } else { LIMIT },
            only_json: depends && !is_json,
            until: tokio::time::Instant::now() + patience,
        };
        let (body, data) = match read(body, bounds, self.memory.reserve(Some(&holder(parts)))).await? {
            InspectResult::Whole(body, data) => (body, data),
            InspectResult::NoJson(body) => return Ok(MaybeRead::Begun(body)),
            InspectResult::NoMemory(body) => {
                parts.extensions.insert(NoMemory);
                return Ok(MaybeRead::Begun(body));
            }
        };
        let members = Members::of(&data);
        if members.stream && is_post {
            parts.extensions.insert(ExpectsEventStream);
        }
        match (in_path, members.model) {
            (Some(in_path), Some(name)) if !is_same_model(&in_path, &name) => {
                parts.extensions.insert(UnclearModel);
            }
            (None, Some(name)) if is_name(&name) => {
                parts.extensions.insert(Model::new(name));
            }
            _ => {}
        }
        // Uploads of other kinds do not begin like JSON.
        if members.is_unclear && (is_json || begins_like_json(&data)) {
            parts.extensions.insert(UnclearModel);
        }
        Ok(body)
    }
}

async fn read(mut body: Incoming, bounds: Bounds, reservation: Reservation) -> Result<InspectResult, NotInspected> {
    let Bounds { longest, mut only_json, mut until } = bounds;
    let (mut gathered, mut is_put_off) = (Gathered::new(reservation), false);
    // How many of the first bytes are known to be white space.
    let mut spaces = 0;
    loop {
        // Without a budget, a body that is always ready would occupy its worker, and its time limit would never fire.
        let next = async {
            consume_budget().await;
            body.frame().await
        };
        let frame = match timeout_at(until, next).await {
            Ok(frame) => frame.transpose().map_err(NotInspected::Broken)?,
            Err(_) => match grace::put_off(until).filter(|_| !is_put_off) {
                Some(later) => {
                    (until, is_put_off) = (later, true);
                    continue;
                }
                None => return Err(NotInspected::Late(body)),
            },
        };
        let is_over = frame.is_none();
        let trailers = match frame.map(http_body::Frame::into_data) {
            Some(Ok(data)) => {
                // A chunked body has an unknown length.
                let left = body.size_hint().exact().and_then(|left| usize::try_from(left).ok());
                if !gathered.add(data, left.unwrap_or(longest)) {
                    return Ok(InspectResult::NoMemory(Begun::new(gathered.into_bytes(), body)));
                }
                None
            }
            Some(Err(frame)) => frame.into_trailers().ok(),
            None => None,
        };
        if only_json {
            let start = without_space(gathered.as_slice().get(spaces..).unwrap_or_default());
            spaces = gathered.as_slice().len() - start.len();
            if is_over || start.len() >= LONGEST_MARK {
                if !begins_like_json(start) {
                    return Ok(InspectResult::NoJson(Begun::new(gathered.into_bytes(), body)));
                }
                only_json = false;
            }
        }
        if is_over || trailers.is_some() {
            let data = gathered.into_bytes();
            let read = match trailers {
                Some(trailers) => MaybeRead::Begun(Begun::new(data.clone(), body).with_trailers(trailers)),
                None => MaybeRead::Whole(data.clone()),
            };
            return Ok(InspectResult::Whole(read, data));
        }
        // A body that is not JSON may have any length.
        let to_come = if only_json { 0 } else { body.size_hint().lower() };
        if to_come.saturating_add(gathered.as_slice().len() as u64) > longest as u64 {
            return Err(NotInspected::TooLong(body));
        }
    }
}

fn unread(body: Incoming) -> MaybeRead {
    MaybeRead::Begun(Begun::unread(body))
}

fn is_small(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= LIMIT as u64)
}

fn begins_like_json(data: &[u8]) -> bool {
    let start = without_space(data);
    MARKS.iter().any(|mark| start.starts_with(mark))
}

/// Strips leading white space. A zero byte counts as white space, for UTF-16 and UTF-32.
fn without_space(data: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
    let start = data.iter().position(|byte| !is_space(byte)).unwrap_or(data.len());
    data.get(start..).unwrap_or_default()
}

/// Gemini's `models/NAME` equals `NAME`.
fn is_same_model(in_path: &str, in_body: &str) -> bool {
    let last = in_body.rsplit('/').next().unwrap_or_default();
    [in_body, last].iter().any(|name| name.eq_ignore_ascii_case(in_path))
}

fn is_name(text: &str) -> bool {
    (1..=LONGEST_MODEL).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::Empty;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_came_while_the_process_was_suspended_is_read() {
        let inspector = Inspector { is_on: true, limit: None, header: None, memory: Memory::default() };
        let service = service_fn(move |request: http::Request<Incoming>| {
            let inspector = inspector.clone();
            async move {
                let (mut parts, body) = request.into_parts();
                let status = if inspector.inspect(&mut parts, body, false).await.is_ok() { 200 } else { 408 };
                Ok::<_, Infallible>(Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
            }
        });
        let (mut client, server) = tokio::io::duplex(1024 * 1024);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        let body = format!(r#"{{"model":"sim","prompt":"{}"}}"#, "x".repeat(500 * 1024));
        let head = format!(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.write_all(format!("{head}{}", &body[..100]).as_bytes()).await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        // The read is polled only when both are ready: the rest of the body, and its time limit.
        client.write_all(&body.as_bytes()[100..]).await.unwrap();
        tokio::time::advance(READ_TIMEOUT + Duration::from_secs(1)).await;
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), "HTTP/1.1 200");
    }

    #[test]
    fn json_is_known_by_its_first_letter_in_every_encoding() {
        for json in ["{", " \r\n\t{\"", "\u{feff}{"] {
            assert!(begins_like_json(json.as_bytes()), "{json:?}");
            let (mut little, mut big) = (Vec::new(), Vec::new());
            for unit in json.encode_utf16() {
                little.extend_from_slice(&unit.to_le_bytes());
                big.extend_from_slice(&unit.to_be_bytes());
            }
            assert!(begins_like_json(&little) && begins_like_json(&big), "{json:?} in UTF-16");
        }
        for other in [b"--boundary".as_slice(), b"model=deep", b"RIFF", b"\0\0\0\x18ftyp", b"[1]", b""] {
            assert!(!begins_like_json(other), "{other:?}");
        }
    }
}
