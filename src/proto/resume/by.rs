//! The cursors of known servers, and of others.

use std::borrow::Cow;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderName, Method, Request};
use serde_json::Value;

use crate::proto::dialect::{Kind, sequence_number};
use crate::proto::event_stream;
use crate::proto::sse::Block;

/// A server's cursor in a stream, and how to ask for the events after it: for
/// [`ResumeLayer::resume_by`](crate::ResumeLayer::resume_by).
///
/// The cursor is read from each event: its SSE `id` ([`sse_id`](Self::sse_id)), a member of its JSON
/// ([`json_pointer`](Self::json_pointer)), or the number of bytes so far ([`bytes`](Self::bytes)). It travels in the
/// header `Last-Event-ID`, unless you name another place. The layer asks for the rest with a `GET` of the same URL,
/// unless the request is [sent again](Self::resend).
///
/// ```
/// use tower_buttress::ResumeBy;
///
/// // The server takes `POST /generate` with `{"prompt": "..", "resume_from": 41}` for the rest behind the event 41.
/// let tokens = ResumeBy::json_pointer("/token").in_json_field("resume_from");
/// // MCP before 2026-07-28: `GET` with `Last-Event-ID`, also for the rest of an answer to a `POST`.
/// let mcp = ResumeBy::sse_id();
/// // `GET /v1/runs/run_7/stream?after=41` for the rest of an answer whose id is `run_7`.
/// let runs = ResumeBy::sse_id().at_path("/v1/runs/{id}/stream?after={cursor}");
/// # let _ = (tokens, mcp, runs);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeBy {
    pub(crate) cursor: Cursor,
    pub(crate) carry: Carry,
    /// Whether method and body are sent again.
    pub(crate) resend: bool,
}

/// Where the cursor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    SseId,
    /// A member of each event's JSON.
    Pointer(Cow<'static, str>),
    /// `sequence_number`, as in OpenAI's Responses.
    Sequence,
    /// The number of bytes of the stream.
    Bytes,
}

/// Where the cursor goes in the request for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    Header(HeaderName),
    Query(Cow<'static, str>),
    /// A top-level member of the request's JSON.
    JsonField(Cow<'static, str>),
    /// Another path and query, with `{cursor}` and `{id}`.
    Path(Cow<'static, str>),
    /// The answer's own URL, as in OpenAI's Responses.
    Response,
    /// llama.cpp's `/stream`, by the conversation's id.
    Conversation,
}

/// The cursor of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) text: String,
    /// Whether it was a number in JSON.
    pub(crate) is_number: bool,
}

/// A server recognised by its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recognised {
    pub(crate) by: ResumeBy,
    /// Whether the answer must report that it is made in the background: otherwise it ends with its connection.
    pub(crate) in_background: bool,
}

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const CONVERSATION_ID: HeaderName = HeaderName::from_static("x-conversation-id");
pub(super) const STARTING_AFTER: &str = "starting_after";
/// A longer cursor does not fit into a header.
const MAX_MARK: usize = 4 * 1024;

// === impl ResumeBy ===

impl ResumeBy {
    const fn new(cursor: Cursor) -> Self {
        Self { cursor, carry: Carry::Header(LAST_EVENT_ID), resend: false }
    }

    /// Uses the `id` of each event.
    #[must_use]
    pub const fn sse_id() -> Self {
        Self::new(Cursor::SseId)
    }

    /// Uses a text or a whole number in the JSON of each event, at a JSON pointer (RFC 6901) such as `"/seq"`.
    #[must_use]
    pub fn json_pointer(pointer: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Cursor::Pointer(pointer.into()))
    }

    /// Uses the number of bytes from the start of the stream, without a content encoding.
    #[must_use]
    pub const fn bytes() -> Self {
        Self::new(Cursor::Bytes)
    }

    /// Sends the cursor in this header.
    #[must_use]
    pub fn in_header(mut self, name: HeaderName) -> Self {
        self.carry = Carry::Header(name);
        self
    }

    /// Sends the cursor in this query parameter, and replaces a parameter of the same name.
    #[must_use]
    pub fn in_query(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.carry = Carry::Query(name.into());
        self
    }

    /// Sends the request again with the cursor in this member of its JSON object; a numeric cursor stays a number.
    #[must_use]
    pub fn in_json_field(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.carry = Carry::JsonField(name.into());
        self.resend(true)
    }

    /// Sends the cursor in the path or the query of another resource of the same origin: the template's `{cursor}` is
    /// replaced by the cursor and `{id}` by the id of the answer, if its dialect has one, both percent-encoded. The
    /// request's own query parameters stay.
    #[must_use]
    pub fn at_path(mut self, template: impl Into<Cow<'static, str>>) -> Self {
        self.carry = Carry::Path(template.into());
        self
    }

    /// Whether the request is sent again with its method and its body, and the cursor: for servers that expect a `POST`
    /// for the rest. Default: no, a `GET` without a body.
    #[must_use]
    pub const fn resend(mut self, resend: bool) -> Self {
        self.resend = resend;
        self
    }
}

// === impl Cursor ===

impl Cursor {
    /// Returns the cursor of an event. A number of bytes is counted instead.
    pub(crate) fn read(&self, block: &Block<'_>) -> Option<Mark> {
        match self {
            // As a client would read it, and send it back.
            Self::SseId => Mark::new(String::from_utf8_lossy(block.id?).into_owned(), false),
            Self::Sequence => Mark::new(sequence_number(block.data.as_deref()?)?.to_string(), true),
            Self::Pointer(pointer) => {
                let data: Value = serde_json::from_slice(block.data.as_deref()?).ok()?;
                match data.pointer(pointer)? {
                    Value::String(text) => Mark::new(text.clone(), false),
                    Value::Number(number) => Mark::new(number.as_u64()?.to_string(), true),
                    _ => None,
                }
            }
            Self::Bytes => None,
        }
    }

    /// Whether the event has an id that is too long to store, so that a repetition would not be noticed.
    pub(crate) fn is_unreadable(&self, block: &Block<'_>) -> bool {
        *self == Self::SseId && self.read(block).is_none() && block.id.is_some_and(|id| !id.is_empty())
    }
}

// === impl Mark ===

impl Mark {
    /// An empty id means that the stream cannot be resumed.
    fn new(text: String, is_number: bool) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX_MARK).then_some(Self { text, is_number })
    }

    /// A number of bytes.
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        Self { text: bytes.to_string(), is_number: true }
    }

    /// The text before the trailing digits, and their number.
    pub(crate) fn numbered(&self) -> Option<(&str, u64)> {
        let digits = self.text.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, digits) = self.text.split_at_checked(self.text.len() - digits)?;
        Some((prefix, digits.parse().ok()?))
    }
}

// === impl Recognised ===

impl Recognised {
    /// Recognises the server by the request.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        let path = request.uri().path().trim_end_matches('/');
        let by = |cursor, carry| ResumeBy { cursor, carry, resend: false };
        match *request.method() {
            Method::POST if Kind::of_path(path) == Some(Kind::OpenAiResponses) => {
                Some(Self { by: by(Cursor::Sequence, Carry::Response), in_background: true })
            }
            Method::POST if path.ends_with("/chat/completions") && request.headers().contains_key(CONVERSATION_ID) => {
                Some(Self { by: by(Cursor::Bytes, Carry::Conversation), in_background: false })
            }
            Method::GET if is_of_response(path, request.uri().query()) => {
                let carry = Carry::Query(Cow::Borrowed(STARTING_AFTER));
                Some(Self { by: by(Cursor::Sequence, carry), in_background: false })
            }
            Method::GET if accepts_events(request.headers()) => {
                Some(Self { by: ResumeBy::sse_id(), in_background: false })
            }
            _ => None,
        }
    }
}

fn accepts_events(headers: &HeaderMap) -> bool {
    headers.contains_key(ACCEPT) && event_stream::is_accepted(headers)
}

/// Whether it asks for the events of an existing answer: `GET /v1/responses/{id}?stream=true`.
fn is_of_response(path: &str, query: Option<&str>) -> bool {
    let streams = query.is_some_and(|query| query.split('&').any(|parameter| parameter == "stream=true"));
    streams && path.rsplit_once('/').is_some_and(|(parent, _)| parent.ends_with("/responses"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(by: &ResumeBy, block: &str) -> Option<String> {
        by.cursor.read(&Block::parse(block.as_bytes())).map(|mark| mark.text)
    }

    #[test]
    fn an_id_that_is_too_long_to_be_kept_is_unreadable() {
        let long = format!("id: {}\ndata: x\n\n", "7".repeat(MAX_MARK + 1));
        let is_unreadable = |cursor: &Cursor, block: &str| cursor.is_unreadable(&Block::parse(block.as_bytes()));
        assert!(is_unreadable(&Cursor::SseId, &long));
        for block in ["id: 7\ndata: x\n\n", "id:\ndata: x\n\n", "data: x\n\n"] {
            assert!(!is_unreadable(&Cursor::SseId, block), "{block}");
        }
        assert!(!is_unreadable(&Cursor::Sequence, &long) && !is_unreadable(&Cursor::Bytes, &long));
    }

    #[test]
    fn the_cursor_of_an_event_is_where_it_was_said_to_be() {
        let id = ResumeBy::sse_id();
        assert_eq!(read(&id, "id: a-7\ndata: x\n\n").as_deref(), Some("a-7"));
        assert_eq!(read(&id, "data: x\n\n"), None);
        assert_eq!(read(&id, "id:\ndata: x\n\n"), None, "there is nothing to come back with");
        let broken = id.cursor.read(&Block::parse(b"id: \xCF7\ndata: x\n\n"));
        assert_eq!(broken.map(|mark| mark.text).as_deref(), Some("\u{FFFD}7"), "which a client would repeat");
        let pointer = ResumeBy::json_pointer("/meta/seq");
        assert_eq!(read(&pointer, "data: {\"meta\":{\"seq\":12}}\n\n").as_deref(), Some("12"));
        assert_eq!(read(&pointer, "data: {\"meta\":{\"seq\":\"x\"}}\n\n").as_deref(), Some("x"));
        for none in ["data: {\"meta\":{\"seq\":-1}}\n\n", "data: {\"seq\":1}\n\n", "data: {\n\n", ": c\n"] {
            assert_eq!(read(&pointer, none), None, "{none}");
        }
        let sequence = ResumeBy { cursor: Cursor::Sequence, ..ResumeBy::sse_id() };
        let event = "data: {\"delta\":\"\\\"sequence_number\\\":9\",\"sequence_number\": 4}\n\n";
        assert_eq!(read(&sequence, event).as_deref(), Some("4"), "and not what the model says");
    }

    #[test]
    fn a_mark_is_taken_apart_at_its_last_digits() {
        let parts = |text: &str| {
            let mark = Mark { text: text.to_owned(), is_number: false };
            mark.numbered().map(|(prefix, number)| (prefix.to_owned(), number))
        };
        assert_eq!(parts("41"), Some((String::new(), 41)));
        assert_eq!(parts("run_7-é3"), Some(("run_7-é".to_owned(), 3)));
        assert_eq!(parts("abc"), None);
        assert_eq!(parts("99999999999999999999"), None);
    }

    #[test]
    fn servers_are_known_by_the_request() {
        let of = |request: http::request::Builder| {
            let recognised = Recognised::of(&request.body(()).unwrap())?;
            Some((recognised.by.cursor, recognised.in_background))
        };
        let events = "text/event-stream";
        assert_eq!(of(Request::post("/v1/responses")), Some((Cursor::Sequence, true)));
        assert_eq!(of(Request::get("/v1/responses/r_1?stream=true")), Some((Cursor::Sequence, false)));
        assert_eq!(of(Request::get("/v1/responses/r_1")), None);
        assert_eq!(of(Request::get("/events").header("accept", events)), Some((Cursor::SseId, false)));
        assert_eq!(of(Request::get("/events")), None);
        assert_eq!(of(Request::post("/events").header("accept", events)), None);
        assert_eq!(of(Request::post("/v1/chat/completions")), None);
        let llama = Request::post("/v1/chat/completions").header("x-conversation-id", "c1");
        assert_eq!(of(llama), Some((Cursor::Bytes, false)));
    }

    #[test]
    fn a_get_is_for_a_stream_only_where_it_says_so() {
        let of = |request: http::request::Builder| Recognised::of(&request.body(()).unwrap());
        assert!(of(Request::get("/events")).is_none(), "it says nothing");
        assert!(of(Request::get("/events").header("accept", "application/json")).is_none());
        assert!(of(Request::get("/events").header("accept", "text/event-stream")).is_some());
        assert!(of(Request::post("/events").header("accept", "text/event-stream")).is_none());
        let background = of(Request::post("/v1/responses")).unwrap();
        assert!(background.in_background && background.by.cursor == Cursor::Sequence);
        assert!(!of(Request::get("/v1/responses/r?stream=true")).unwrap().in_background);
        assert!(of(Request::get("/v1/responses/r?stream=false")).is_none());
        assert!(of(Request::get("/v1/others/r?stream=true")).is_none());
    }
}
