//! What a request asks for, and the request that asks again.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request};
use serde_json::Value;

use super::config::Config;
use crate::body::request::CallBody;
use crate::policy::structured::{Complaint, OutputSchema};
use crate::proto::answer_text;
use crate::proto::dialect::Kind;
use crate::proto::digests;
use crate::proto::output_format::{self, OutputFormat};
use crate::proto::prompt;
use crate::rt::clock;
use crate::rt::deadline::Deadline;

/// A request whose answer is checked.
pub(super) struct Asked {
    pub(super) kind: Kind,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// `None`: any JSON will do.
    pub(super) schema: Option<OutputSchema>,
    /// The schema that the request names, as long as it is not compiled.
    named: Option<Value>,
    pub(super) streams: bool,
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The dialect of a request whose body is worth reading.
pub(super) fn kind_of(head: &Parts) -> Option<Kind> {
    let readable = head.method == Method::POST
        && !head.headers.contains_key(CONTENT_ENCODING)
        && !head.headers.contains_key(UPGRADE);
    Kind::of_path(head.uri.path()).filter(|_| readable)
}

// === impl Asked ===

impl Asked {
    /// `Err`: the answer to this request is not checked.
    pub(super) fn new(kind: Kind, head: Parts, body: Bytes, config: &Config) -> Result<Self, Box<(Parts, Bytes)>> {
        let given = head.extensions.get().or(config.schema.as_ref()).cloned();
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        let Some(value) = value.filter(Value::is_object) else { return Err(Box::new((head, body))) };
        let streams = prompt::asks_for_stream(kind, head.uri.path(), &body);
        let several = ["n", "num_generations"].iter().any(|name| value.get(*name).and_then(Value::as_u64) > Some(1))
            || value.pointer("/generationConfig/candidateCount").and_then(Value::as_u64) > Some(1);
        let is_other = output_format::forces_tool(kind, &value)
            || output_format::continues_answer(kind, &value)
            || several
            || (streams && config.hold_streams.is_none());
        let (schema, named) = match (given, OutputFormat::of(kind, &value)) {
            _ if is_other => return Err(Box::new((head, body))),
            (Some(given), _) => (Some(given), None),
            (None, OutputFormat::Text | OutputFormat::Other) => return Err(Box::new((head, body))),
            (None, OutputFormat::Json) => (None, None),
            (None, OutputFormat::Schema(schema)) => (None, Some(schema)),
        };
        Ok(Self { kind, head, body, schema, named, streams })
    }

    /// The same, with the schema that the request names compiled.
    pub(super) async fn compiled(mut self, config: &Config) -> Self {
        if let Some(schema) = self.named.take() {
            match config.compiled.get(schema).await {
                Ok(schema) => self.schema = Some(schema),
                Err(why) => config.bypassed(why.reason()),
            }
        }
        self
    }

    /// The request as it came.
    pub(super) fn first(&self) -> Request<CallBody> {
        Request::from_parts(self.head.clone(), self.body.clone().into())
    }

    /// The request once more, behind an answer and what is wrong with it: a call of its own, with a key of its own.
    pub(super) fn again(&self, answer: &str, complaint: &Complaint) -> Option<Request<CallBody>> {
        let body = answer_text::ask_again(self.kind, &self.body, answer, &complaint.text())?;
        let mut head = self.head.clone();
        Deadline::refresh_headers(&mut head, clock::now());
        let headers = &mut head.headers;
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        headers.remove(TRANSFER_ENCODING);
        digests::remove(headers);
        if headers.contains_key(IDEMPOTENCY_KEY) {
            let key = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::try_from(key).ok()?);
        }
        Some(Request::from_parts(head, body.into()))
    }
}

/// Takes off what no longer holds of an answer whose body was changed, and corrects its length.
pub(super) fn correct_headers(head: &mut http::response::Parts, length: usize) {
    digests::remove(&mut head.headers);
    if head.headers.contains_key(CONTENT_LENGTH) {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}
