//! Errors in the formats of providers.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::proto::retry_after::decimal;

/// An error that an upstream reported: in the body of a 4xx or 5xx, of a 200, or inside a stream.
///
/// It holds the common parts of the formats, without judging them.
///
/// ```
/// use tower_buttress::proto::dialect::Fault;
///
/// let body = br#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
/// let fault = Fault::of_body(body).unwrap();
/// assert_eq!(fault.type_name(), Some("overloaded_error"));
/// assert_eq!(fault.message(), "Overloaded");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fault {
    status: Option<u16>,
    code: Option<String>,
    type_name: Option<String>,
    reasons: Vec<String>,
    message: String,
    retry_delay: Option<Duration>,
}

/// Longer texts are not names.
const MAX_NAME: usize = 128;
const MAX_REASONS: usize = 8;
/// Enough for the beginning of a message.
const MAX_MESSAGE: usize = 1024;

// === impl Fault ===

impl Fault {
    /// Returns an error with this code, for a dialect that reports it without an error object.
    #[must_use]
    pub fn of_code(code: &str) -> Self {
        Self { code: Some(code.to_owned()), ..Self::default() }
    }

    /// Returns an error with only a message.
    #[must_use]
    pub fn of_message(message: &str) -> Self {
        Self { message: cut(message, MAX_MESSAGE).to_owned(), ..Self::default() }
    }

    /// Adds a message, unless there is one.
    #[must_use]
    pub fn or_message(mut self, message: &str) -> Self {
        if self.message.is_empty() {
            cut(message, MAX_MESSAGE).clone_into(&mut self.message);
        }
        self
    }

    /// Reads the error in the body of a 4xx or 5xx: `None` if the body is not JSON, or contains no error.
    #[must_use]
    pub fn of_body(body: &[u8]) -> Option<Self> {
        Self::of(&super::json::parse(body)?)
    }

    /// The same for a parsed body.
    #[must_use]
    pub fn of(body: &Value) -> Option<Self> {
        match body {
            Value::Array(errors) => errors.first().and_then(Self::of),
            Value::Object(object) => Self::inside(object).or_else(|| Self::of_object(object)),
            Value::String(text) => Self::of_text(text),
            _ => None,
        }
    }

    /// The error inside an object, if any: in its `error` (or the first of its `errors`). `"error": null` and `"error":
    /// {}` are no errors, nor is an object without a message, code or type.
    pub(super) fn inside(object: &Map<String, Value>) -> Option<Self> {
        let nested = match object.get("error") {
            Some(Value::Object(error)) => Self::of_object(error),
            Some(Value::String(text)) => Self::of_text(text),
            _ => None,
        };
        let failed = object.get("success") == Some(&Value::Bool(false));
        nested.or_else(|| failed.then(|| object.get("errors").and_then(Self::of)).flatten())
    }

    /// A bare text: a code, if it is a single word.
    fn of_text(text: &str) -> Option<Self> {
        let code = name(Some(text)).filter(|text| !text.contains(char::is_whitespace));
        (!text.is_empty()).then(|| Self { code, ..Self::of_message(text) })
    }

    /// Reads the members of an error object.
    pub(super) fn of_object(error: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| error.get(key).and_then(Value::as_str);
        let mut fault = Self {
            type_name: name(text("type")).filter(|name| name != "error" && name != "about:blank"),
            ..Self::default()
        };
        for key in ["message", "detail", "error_description", "msg"] {
            fault = fault.or_message(text(key).unwrap_or_default());
        }
        fault.read_code(error.get("code"));
        fault.read_code(error.get("status"));
        fault.read_details(error.get("details"));
        if let Some(inner) = error.get("innererror").or_else(|| error.get("inner_error")).and_then(Value::as_object) {
            fault.reason(inner.get("code"));
        }
        if error.get("metadata").and_then(|metadata| metadata.get("reasons")).is_some_and(Value::is_array) {
            // OpenRouter's moderation lists what was flagged.
            fault.reason(Some(&Value::from("content_policy_violation")));
        }
        let says = fault.code.is_some()
            || fault.type_name.is_some()
            || !fault.message.is_empty()
            || fault.status.is_some()
            || !fault.reasons.is_empty();
        says.then_some(fault)
    }

    /// A number is a status, even as a string; anything else a name.
    fn read_code(&mut self, code: Option<&Value>) {
        let status = match code {
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) if text.len() == 3 => text.parse().ok(),
            _ => None,
        };
        match (status.and_then(|status| u16::try_from(status).ok()), code.and_then(Value::as_str)) {
            (Some(status @ 400..=599), _) => self.status = self.status.or(Some(status)),
            (_, Some(text)) if self.code.is_none() => self.code = name(Some(text)),
            (_, Some(_)) => self.reason(code),
            _ => {}
        }
    }

    /// Google's `details`, a list of typed objects, or Anthropic's, a single object.
    fn read_details(&mut self, details: Option<&Value>) {
        let list = match details {
            Some(Value::Array(list)) => list.as_slice(),
            Some(one @ Value::Object(_)) => std::slice::from_ref(one),
            _ => return,
        };
        for detail in list.iter().take(MAX_REASONS) {
            self.reason(detail.get("error_code"));
            self.reason(detail.get("reason"));
            let violations = detail.get("violations").and_then(Value::as_array);
            for violation in violations.into_iter().flatten().take(MAX_REASONS) {
                self.reason(violation.get("quotaId"));
            }
            if detail.get("@type").and_then(Value::as_str).is_some_and(|name| name.ends_with("google.rpc.RetryInfo")) {
                self.retry_delay = self.retry_delay.or_else(|| detail.get("retryDelay").and_then(retry_delay));
            }
        }
    }

    fn reason(&mut self, reason: Option<&Value>) {
        if self.reasons.len() < MAX_REASONS {
            self.reasons.extend(name(reason.and_then(Value::as_str)));
        }
    }

    /// The status in the error itself, from 400 to 599.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        self.status
    }

    /// Its code, as a name: `"insufficient_quota"`.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Its type: `"invalid_request_error"`.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.type_name.as_deref()
    }

    /// All its names, the most precise first: reasons from its details, its code, its type.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.reasons.iter().map(String::as_str).chain(self.code()).chain(self.type_name())
    }

    /// The message for people: at most 1 KiB. It may echo parts of the request.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Google's `RetryInfo`.
    #[must_use]
    pub const fn retry_delay(&self) -> Option<Duration> {
        self.retry_delay
    }
}

/// Without the message, which may echo the request.
impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("status", &self.status)
            .field("code", &self.code)
            .field("type_name", &self.type_name)
            .field("reasons", &self.reasons)
            .field("retry_delay", &self.retry_delay)
            .finish_non_exhaustive()
    }
}

fn name(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty() && text.len() <= MAX_NAME).map(str::to_owned)
}

/// The beginning of a text, cut at a character boundary.
fn cut(text: &str, at_most: usize) -> &str {
    let end = (0..=at_most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// A `google.protobuf.Duration`: as JSON writes it (`"3.7s"`), or in its parts.
fn retry_delay(delay: &Value) -> Option<Duration> {
    if let Some(text) = delay.as_str() {
        return decimal(text.strip_suffix('s')?.as_bytes(), Duration::from_secs(1));
    }
    let parts = delay.as_object()?;
    let part = |key| parts.get(key).map_or(Some(0), |part| part.as_u64().or_else(|| part.as_str()?.parse().ok()));
    let nanos = u32::try_from(part("nanos")?).ok()?;
    Duration::from_secs(part("seconds")?).checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fault(body: &str) -> Fault {
        Fault::of_body(body.as_bytes()).unwrap_or_else(|| panic!("no fault in {body}"))
    }

    #[test]
    fn the_forms_of_all_providers_are_read() {
        for (body, status, names, message) in [
            // OpenAI
            (
                r#"{"error":{"message":"m","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
                None,
                &["insufficient_quota", "insufficient_quota"][..],
                "m",
            ),
            // Anthropic
            (
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"x"}}}"#,
                None,
                &["x", "rate_limit_error"],
                "m",
            ),
            // Google, as an object and as a stream answers it
            (r#"{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}"#, Some(503), &["UNAVAILABLE"], "m"),
            (r#"[{"error":{"code":429,"message":"m","status":"X"}}]"#, Some(429), &["X"], "m"),
            // vLLM
            (
                r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
                Some(400),
                &["BadRequestError"],
                "m",
            ),
            // OpenRouter
            (
                r#"{"error":{"code":403,"message":"m","metadata":{"reasons":["violence"]}}}"#,
                Some(403),
                &["content_policy_violation"],
                "m",
            ),
            // Azure
            (
                r#"{"error":{"code":"content_filter","message":"m","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
                None,
                &["ResponsibleAIPolicyViolation", "content_filter"],
                "m",
            ),
            // Two names, of which one is the code
            (
                r#"{"error":{"code":"quota","message":"m","status":"RESOURCE_EXHAUSTED"}}"#,
                None,
                &["RESOURCE_EXHAUSTED", "quota"],
                "m",
            ),
            // Cohere, Ollama, FastAPI, Cloudflare, a bare text
            (r#"{"message":"m"}"#, None, &[], "m"),
            (r#"{"error":"model not found"}"#, None, &[], "model not found"),
            (r#"{"detail":"m"}"#, None, &[], "m"),
            (r#"{"success":false,"errors":[{"code":7003,"message":"m"}]}"#, None, &[], "m"),
            (r#""overloaded""#, None, &["overloaded"], "overloaded"),
            (r#"{"error":{"code":"529","message":"m"}}"#, Some(529), &[], "m"),
        ] {
            let fault = fault(body);
            assert_eq!(fault.status(), status, "{body}");
            assert_eq!(fault.names().collect::<Vec<_>>(), names, "{body}");
            assert_eq!(fault.message(), message, "{body}");
        }
    }

    #[test]
    fn what_says_nothing_is_no_error() {
        for body in [
            "",
            "x",
            "null",
            "{}",
            "[]",
            r#"{"error":null}"#,
            r#"{"error":{}}"#,
            r#"{"error":""}"#,
            r#"{"error":{"message":"","code":null}}"#,
            r#"{"error":false}"#,
        ] {
            assert_eq!(Fault::of_body(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn google_says_when_to_come_back() {
        let delay = |value: &str| {
            fault(&format!(
                r#"{{"error":{{"code":429,"details":[{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{value}}}]}}}}"#
            ))
            .retry_delay()
        };
        assert_eq!(delay(r#""46s""#), Some(Duration::from_secs(46)));
        assert_eq!(delay(r#""3.700s""#), Some(Duration::from_millis(3_700)));
        assert_eq!(delay(r#"{"seconds":"7","nanos":500000000}"#), Some(Duration::from_millis(7_500)));
        assert_eq!(delay(r#"{"seconds":7}"#), Some(Duration::from_secs(7)));
        assert_eq!(delay(r#"{"seconds":18446744073709551615,"nanos":4294967295}"#), None);
        assert_eq!(delay(r#""46""#), None);
        assert_eq!(delay(r#""-1s""#), None);
        assert_eq!(delay("46"), None);
    }

    #[test]
    fn what_is_long_is_cut_and_what_is_said_is_not_printed() {
        let body = format!(r#"{{"error":{{"message":"{}","code":"{}"}}}}"#, "ü".repeat(2_000), "c".repeat(200));
        let fault = fault(&body);
        assert_eq!(fault.message().len(), 1_024);
        assert_eq!(fault.code(), None);
        assert!(!format!("{fault:?}").contains('ü'));
    }

    #[test]
    fn debug_shows_its_names_and_no_message() {
        let shown = format!("{:?}", fault(r#"{"error":{"message":"secret","type":"t","code":"c"}}"#));
        assert!(shown.contains("\"t\"") && shown.contains("\"c\"") && !shown.contains("secret"), "{shown}");
    }
}
