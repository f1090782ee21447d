//! What a request asks for, and the request that asks again.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderValue, Method, Request};
use serde_json::Value;

use super::config::Config;
use crate::body::request::CallBody;
use crate::policy::structured::{Complaint, OutputSchema, ToolSchemas};
use crate::proto::answer_text;
use crate::proto::dialect::Kind;
use crate::proto::digests;
use crate::proto::idempotency_key::IdempotencyKey;
use crate::proto::output_format::{self, OutputFormat};
use crate::proto::prompt;
use crate::proto::tool_calls::{self, Tool};
use crate::rt::clock;
use crate::rt::deadline::Deadline;
use crate::rt::random_key::RandomKeys;

/// A request whose answer is checked.
pub(super) struct CheckedRequest {
    pub(super) kind: Kind,
    pub(super) head: Parts,
    pub(super) body: Bytes,
    /// `None`: any JSON is valid.
    pub(super) schema: Option<OutputSchema>,
    /// The schema in the request, until it is compiled.
    named: Option<Value>,
    /// Whether the text of an answer is checked; not if only tool calls are.
    pub(super) wants_json: bool,
    /// Set if tool calls are checked.
    pub(super) tools: Option<ToolSchemas>,
    /// The tools, until their schemas are compiled.
    offered: Vec<Tool>,
    pub(super) streams: bool,
}

/// The most tools whose calls are checked.
const MAX_TOOLS: usize = 64;

/// Returns the dialect of a request whose body is worth reading.
pub(super) fn kind_of<B>(request: &Request<B>) -> Option<Kind> {
    let (method, headers) = (request.method(), request.headers());
    let readable = || !headers.contains_key(CONTENT_ENCODING) && !headers.contains_key(UPGRADE);
    Kind::of_path(request.uri().path()).filter(|_| method == Method::POST && readable())
}

/// Whether a request with this body asks for plain text, as most do; a tree of the body is built only for the others.
pub(super) fn asks_for_text(extensions: &Extensions, body: &[u8], config: &Config) -> bool {
    let has_schema = config.schema.is_some() || extensions.get::<OutputSchema>().is_some();
    !has_schema && !config.tool_calls && !OutputFormat::may_be_in(body)
}

// === impl CheckedRequest ===

impl CheckedRequest {
    /// `Err`: the answer to this request is not checked.
    pub(super) fn new(kind: Kind, head: Parts, body: Bytes, config: &Config) -> Result<Self, Box<(Parts, Bytes)>> {
        if asks_for_text(&head.extensions, &body, config) {
            return Err(Box::new((head, body)));
        }
        let given = head.extensions.get().or(config.schema.as_ref()).cloned();
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        let Some(value) = value.filter(Value::is_object) else { return Err(Box::new((head, body))) };
        let streams = prompt::asks_for_stream(kind, head.uri.path(), &body);
        let offered = if config.tool_calls { tool_calls::offered(kind, &value) } else { Vec::new() };
        let forces_tool = output_format::forces_tool(kind, &value);
        let is_other = (forces_tool && offered.is_empty())
            || output_format::continues_answer(kind, &value)
            || prompt::asks_for_several(&body)
            || (streams && config.hold_streams.is_none());
        let (wants_json, schema, named) = match (given, OutputFormat::of(kind, &value)) {
            _ if is_other => return Err(Box::new((head, body))),
            _ if forces_tool => (false, None, None),
            (Some(given), _) => (true, Some(given), None),
            (None, OutputFormat::Text | OutputFormat::Other) if offered.is_empty() => {
                return Err(Box::new((head, body)));
            }
            (None, OutputFormat::Text | OutputFormat::Other) => (false, None, None),
            (None, OutputFormat::Json) => (true, None, None),
            (None, OutputFormat::Schema(schema)) => (true, None, Some(schema)),
        };
        Ok(Self { kind, head, body, schema, named, wants_json, tools: None, offered, streams })
    }

    /// Compiles the schemas in the request.
    pub(super) async fn compiled(mut self, config: &Config) -> Self {
        if let Some(schema) = self.named.take() {
            match config.compiled.get(schema).await {
                Ok(schema) => self.schema = Some(schema),
                Err(why) => config.bypassed(why.reason()),
            }
        }
        let offered = std::mem::take(&mut self.offered);
        if offered.len() > MAX_TOOLS {
            config.bypassed("a request with too many tools");
        } else if !offered.is_empty() {
            let mut tools = Vec::with_capacity(offered.len());
            for Tool { name, schema } in offered {
                let schema = match schema {
                    Some(schema) => config.compiled.get(schema).await.map_err(|why| config.bypassed(why.reason())).ok(),
                    None => None,
                };
                tools.push((name, schema));
            }
            self.tools = Some(ToolSchemas::new(tools));
        }
        self
    }

    /// The request as it came.
    pub(super) fn first(&self) -> Request<CallBody> {
        Request::from_parts(self.head.clone(), self.body.clone().into())
    }

    /// Returns the request again, with the answer and its fault: a new call, with its own key.
    pub(super) fn again(&self, answer: &str, complaint: &Complaint, keys: &RandomKeys) -> Option<Request<CallBody>> {
        let body = answer_text::ask_again(self.kind, &self.body, answer, &complaint.text())?;
        let mut head = self.head.clone();
        Deadline::refresh_headers(&mut head, clock::now());
        let headers = &mut head.headers;
        if headers.contains_key(CONTENT_LENGTH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        headers.remove(TRANSFER_ENCODING);
        digests::remove(headers);
        if headers.contains_key(IdempotencyKey::HEADER) {
            headers.insert(IdempotencyKey::HEADER, keys.next()?);
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
