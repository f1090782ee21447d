//! The request for the rest of a stream.

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

use super::by::{CONVERSATION_ID, Carry, Mark, ResumeBy, STARTING_AFTER};
use crate::proto::idempotency_key::IdempotencyKey;

/// The body of the request for the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// No body.
    Nothing,
    /// The original body.
    Same,
    /// This body.
    Changed(Bytes),
}

/// Fields about a body that is not sent, or about another representation than the rest of a stream.
const NOT_OF_A_GET: [HeaderName; 12] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    TRANSFER_ENCODING,
    EXPECT,
    RANGE,
    IF_RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    IdempotencyKey::HEADER,
];

/// Turns the head of a request into the head of the request for the rest after `mark`, and returns its body. Host,
/// credentials and query parameters stay. `None` if the cursor or the answer's id cannot be written, or if the `body` is
/// not a JSON object that could carry it.
pub(crate) fn rest_of(head: &mut Parts, by: &ResumeBy, mark: &Mark, id: &str, body: Option<&Bytes>) -> Option<Rest> {
    let cursor = encoded(&mark.text);
    match &by.carry {
        Carry::Header(name) => {
            head.headers.insert(name, HeaderValue::from_bytes(mark.text.as_bytes()).ok()?);
        }
        Carry::Query(name) => head.uri = with_target(&head.uri, None, &[(&encoded(name), &cursor)])?,
        Carry::Path(template) => {
            if template.contains("{id}") && id.is_empty() {
                return None;
            }
            let target = template.replace("{cursor}", &cursor).replace("{id}", &encoded(id));
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            head.uri = with_target(&head.uri, Some(path), &pairs(query))?;
        }
        Carry::Response => {
            if id.is_empty() {
                return None;
            }
            let path = format!("{}/{}", head.uri.path().trim_end_matches('/'), encoded(id));
            head.uri = with_target(&head.uri, Some(&path), &[("stream", "true"), (STARTING_AFTER, &cursor)])?;
        }
        Carry::Conversation => {
            let parent = head.uri.path().trim_end_matches('/').strip_suffix("/chat/completions")?;
            let path = format!("{parent}/stream");
            let conversation = encoded(head.headers.get(CONVERSATION_ID)?.to_str().ok()?);
            head.uri = with_target(&head.uri, Some(&path), &[("conv_id", &conversation), ("from", &cursor)])?;
        }
        Carry::JsonField(name) => {
            let body = with_field(body?, name, mark)?;
            head.headers.remove(TRANSFER_ENCODING);
            head.headers.remove(IdempotencyKey::HEADER);
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            return Some(Rest::Changed(body));
        }
    }
    if by.resend {
        return Some(Rest::Same);
    }
    head.method = Method::GET;
    as_get(&mut head.headers);
    Some(Rest::Nothing)
}

fn as_get(headers: &mut HeaderMap) {
    for name in NOT_OF_A_GET {
        headers.remove(name);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn pairs(query: &str) -> Vec<(&str, &str)> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, ""))).collect()
}

/// Replaces the path, if given, and the parameters of the same names.
fn with_target(uri: &Uri, path: Option<&str>, parameters: &[(&str, &str)]) -> Option<Uri> {
    let is_new = |parameter: &str| {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        parameters.iter().any(|(new, _)| *new == name)
    };
    let kept = uri.query().into_iter().flat_map(|query| query.split('&')).filter(|parameter| !is_new(parameter));
    let new = parameters.iter().map(|(name, value)| format!("{name}={value}"));
    let query: Vec<String> = kept.filter(|parameter| !parameter.is_empty()).map(str::to_owned).chain(new).collect();
    let path = path.unwrap_or(uri.path());
    let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Percent-encodes all but the unreserved characters (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn with_field(body: &Bytes, name: &str, mark: &Mark) -> Option<Bytes> {
    let Value::Object(mut body) = serde_json::from_slice(body).ok()? else { return None };
    let number = mark.text.parse::<u64>().ok().filter(|_| mark.is_number);
    body.insert(name.to_owned(), number.map_or_else(|| Value::from(mark.text.as_str()), Value::from));
    serde_json::to_vec(&body).ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::Recognised;
    use super::*;

    fn mark(text: &str) -> Mark {
        Mark { text: text.to_owned(), is_number: text.bytes().all(|byte| byte.is_ascii_digit()) }
    }

    fn head(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn responses_are_asked_at_their_own_url() {
        let mut head = head(
            Request::post("http://h/openai/v1/responses?api-version=3&stream=false").header("content-length", "9"),
        );
        let by = Recognised::of(&Request::from_parts(head.clone(), ())).unwrap().by;
        assert_eq!(rest_of(&mut head, &by, &mark("41"), "resp_1", None), Some(Rest::Nothing));
        assert_eq!(head.uri, "http://h/openai/v1/responses/resp_1?api-version=3&stream=true&starting_after=41");
        assert_eq!((head.method, head.headers.get("content-length")), (Method::GET, None));
    }

    #[test]
    fn llama_is_asked_for_bytes_of_its_conversation() {
        let mut head = head(Request::post("http://h/v1/chat/completions").header("x-conversation-id", "a b"));
        let by = Recognised::of(&Request::from_parts(head.clone(), ())).unwrap().by;
        assert_eq!(rest_of(&mut head, &by, &Mark::of_bytes(512), "", None), Some(Rest::Nothing));
        assert_eq!(head.uri, "http://h/v1/stream?conv_id=a%20b&from=512");
    }

    #[test]
    fn the_id_goes_into_a_header_and_credentials_stay() {
        let mut head =
            head(Request::get("http://h/events?key=k").header("authorization", "Bearer x").header("range", "bytes=1-"));
        assert_eq!(rest_of(&mut head, &ResumeBy::sse_id(), &mark("7"), "", None), Some(Rest::Nothing));
        assert_eq!(head.uri, "http://h/events?key=k");
        assert_eq!(
            (&head.headers["last-event-id"], &head.headers["authorization"]),
            (&"7".parse().unwrap(), &"Bearer x".parse().unwrap())
        );
        assert!(!head.headers.contains_key("range"));
        assert_eq!(rest_of(&mut head, &ResumeBy::sse_id(), &mark("a\nb"), "", None), None, "not into a header");
    }

    #[test]
    fn a_cursor_travels_where_it_was_said_to() {
        let by = |by: ResumeBy, text: &str| {
            let mut head = head(Request::post("http://h/a?from=1&x=2"));
            let body = Bytes::from_static(br#"{"prompt":"p","resume_from":1}"#);
            rest_of(&mut head, &by, &mark(text), "r/1", Some(&body))
                .map(|rest| (head.method, head.uri.to_string(), rest))
        };
        let (method, uri, rest) = by(ResumeBy::sse_id().in_query("from").resend(true), "a&b").unwrap();
        assert_eq!((method, uri.as_str(), rest), (Method::POST, "http://h/a?x=2&from=a%26b", Rest::Same));
        let (method, uri, _) = by(ResumeBy::sse_id().at_path("/runs/{id}/s?after={cursor}"), "5").unwrap();
        assert_eq!((method, uri.as_str()), (Method::GET, "http://h/runs/r%2F1/s?from=1&x=2&after=5"));
        for (text, field) in [("5", "5"), ("e5", "\"e5\"")] {
            let (method, _, rest) = by(ResumeBy::sse_id().in_json_field("resume_from"), text).unwrap();
            let Rest::Changed(body) = rest else { panic!("{rest:?}") };
            assert_eq!(method, Method::POST);
            assert_eq!(body, format!(r#"{{"prompt":"p","resume_from":{field}}}"#));
        }
    }
}
