//! The wire format of OpenAI's chat completions.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// A parsed request.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) model: String,
    pub(crate) prompt: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// An answer, to be sent whole or piece by piece.
#[derive(Debug)]
pub(crate) struct GeneratedAnswer {
    id: String,
    created: u64,
    model: String,
    prompt_tokens: usize,
    include_usage: bool,
    words: Vec<String>,
    /// The number of pieces: the words, repeated from the start where there are fewer.
    pub(crate) pieces: usize,
    /// The least length of each piece.
    size: usize,
}

// === impl ChatRequest ===

impl ChatRequest {
    /// Parses a request's body; the error says what is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let body: Value = serde_json::from_slice(body).map_err(|_| "the body is not JSON")?;
        let model = body["model"].as_str().ok_or("you must provide a model parameter")?;
        let messages = body["messages"].as_array().ok_or("missing required parameter: 'messages'")?;
        let content = messages.last().map(|message| &message["content"]);
        let prompt = match content {
            Some(Value::String(text)) => text.clone(),
            // Content as a list of typed parts.
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => return Err("missing required parameter: 'messages[].content'"),
        };
        Ok(Self {
            model: model.to_owned(),
            prompt,
            stream: body["stream"].as_bool().unwrap_or(false),
            include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
        })
    }
}

// === impl GeneratedAnswer ===

impl GeneratedAnswer {
    pub(crate) fn new(asked: ChatRequest, call: u64, chunks: Option<usize>, size: usize) -> Self {
        let prompt_tokens = asked.prompt.split_whitespace().count();
        let text = format!(
            "You said \"{}\". I am a simulated model: I think nothing, but I stream what I do not think word by \
             word, as a real one does.",
            asked.prompt
        );
        let words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
        let pieces = chunks.unwrap_or(words.len());
        Self {
            id: format!("chatcmpl-{call:08}"),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: asked.model,
            prompt_tokens,
            include_usage: asked.include_usage,
            words,
            pieces,
            size,
        }
    }

    /// The answer that this prompt always gets.
    pub(crate) fn kept(asked: ChatRequest, chunks: Option<usize>, size: usize) -> Self {
        let number = asked.prompt.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        Self { created: 1_700_000_000, ..Self::new(asked, number, chunks, size) }
    }

    /// The same words, beginning with the `nth`.
    pub(crate) fn rotated(mut self, nth: usize) -> Self {
        let nth = nth.checked_rem(self.words.len()).unwrap_or_default();
        self.words.rotate_left(nth);
        self
    }

    /// The whole answer in one object.
    pub(crate) fn whole(&self) -> Bytes {
        let content = json!((0..self.pieces).map(|nth| self.content(nth)).collect::<String>());
        let choice = format!(
            r#"{{"index":0,"message":{{"role":"assistant","content":{content},"refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}"#
        );
        Bytes::from(self.object("chat.completion", &choice, &format!(r#","usage":{}"#, self.usage())))
    }

    /// The first event of a stream: it names the role.
    pub(crate) fn opening(&self) -> Bytes {
        Bytes::from(self.chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null"))
    }

    /// The event with the `nth` piece of content.
    pub(crate) fn piece(&self, nth: usize) -> Bytes {
        Bytes::from(self.chunk(&format!(r#"{{"content":{}}}"#, json!(self.content(nth))), "null"))
    }

    /// The events after the content: finish reason, usage if requested, end marker.
    pub(crate) fn closing(&self) -> Bytes {
        let mut closing = self.chunk("{}", r#""stop""#);
        if self.include_usage {
            closing.push_str(&self.event("", &format!(r#","usage":{}"#, self.usage())));
        }
        closing.push_str("data: [DONE]\n\n");
        Bytes::from(closing)
    }

    fn content(&self, nth: usize) -> String {
        let mut content = self.words[nth % self.words.len()].clone();
        content.extend(std::iter::repeat_n(' ', self.size.saturating_sub(content.len())));
        content
    }

    fn chunk(&self, delta: &str, finish_reason: &str) -> String {
        let choice = format!(r#"{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish_reason}}}"#);
        self.event(&choice, if self.include_usage { r#","usage":null"# } else { "" })
    }

    fn event(&self, choice: &str, usage: &str) -> String {
        format!("data: {}\n\n", self.object("chat.completion.chunk", choice, usage))
    }

    /// Written by hand to keep the order of fields of the real API.
    fn object(&self, object: &str, choice: &str, usage: &str) -> String {
        let Self { id, created, .. } = self;
        let model = json!(self.model);
        format!(
            r#"{{"id":"{id}","object":"{object}","created":{created},"model":{model},"service_tier":"default","system_fingerprint":"fp_simulated","choices":[{choice}]{usage}}}"#
        )
    }

    fn usage(&self) -> String {
        let (prompt, completion) = (self.prompt_tokens, self.pieces);
        let total = prompt + completion;
        format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}}}"#)
    }
}

/// The error object, for a body or an event.
pub(crate) fn error(status: StatusCode, code: Option<&str>, message: &str) -> Value {
    let (kind, usual) = match status.as_u16() {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        429 => ("requests", Some("rate_limit_exceeded")),
        400..=499 => ("invalid_request_error", None),
        _ => ("server_error", None),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code.or(usual)}})
}

pub(crate) fn error_event(data: &Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}
