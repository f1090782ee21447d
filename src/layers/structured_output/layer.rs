use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::Config;
use super::service::StructuredOutput;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::structured::OutputSchema;
use crate::rt::retry_budget::RetryBudget;

/// Checks answers that should be JSON, extracts the JSON from a sentence around it, and asks the model again, naming the
/// fault, if the answer does not match the schema.
///
/// Models that are asked for JSON write "Sure! Here is your JSON:", leave a comma after the last member, or invent a
/// member. A program that reads the answer then fails, though another try, with the error, nearly always helps.
///
/// # When to use it, and when not
///
/// For requests whose answers a program reads. If the provider constrains the model's output itself (`strict: true`), the
/// layer finds few faults. It withholds an answer until it is complete.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use serde_json::{Value, json};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_buttress::{OutputUsage, StructuredOutputLayer};
///
/// // A model that gets it right the second time.
/// static CALLS: AtomicU32 = AtomicU32::new(0);
/// let model = service_fn(|_: Request<_>| async {
///     let said = ["{\"town\": \"Paris\"}", "Sorry! {\"city\": \"Paris\"}"][CALLS.fetch_add(1, Ordering::Relaxed) as usize];
///     let answer = json!({ "choices": [{ "message": { "content": said }, "finish_reason": "stop" }] });
///     let response = Response::builder().header("content-type", "application/json");
///     Ok::<_, Infallible>(response.body(Full::<Bytes>::from(answer.to_string())).unwrap())
/// });
///
/// let schema = json!({ "type": "object", "required": ["city"], "properties": { "city": { "type": "string" } } });
/// let request = json!({
///     "model": "m", "messages": [{ "role": "user", "content": "Which city?" }],
///     "response_format": { "type": "json_schema", "json_schema": { "name": "city", "schema": schema } },
/// });
/// let request = Request::post("/v1/chat/completions").body(Full::<Bytes>::from(request.to_string())).unwrap();
/// let response = StructuredOutputLayer::new().layer(model).oneshot(request).await.unwrap();
///
/// assert_eq!(response.extensions().get::<OutputUsage>().unwrap().calls, 2);
/// let body = response.into_body().collect().await.unwrap().to_bytes();
/// let answer: Value = serde_json::from_slice(&body).unwrap();
/// assert_eq!(answer["choices"][0]["message"]["content"], "{\"city\": \"Paris\"}");
/// # }
/// ```
///
/// # Which answers are checked
///
/// Answers to a POST to a generation path of a dialect that [`proto::dialect`](crate::proto::dialect) knows, whose body
/// asks for JSON (`response_format`, `text.format`, `output_config.format`, `responseJsonSchema`, `format`), or with an
/// [`OutputSchema`] in the request's extensions or [set](Self::schema) here, which replaces the request's own.
///
/// Only a 200 in JSON that the model reported as complete. Answers that were cut at a limit, filtered or refused pass
/// unchanged, and tool calls too unless [`tool_calls`](Self::tool_calls) is set. So do answers to requests for several
/// answers (`n`), and to requests that end with the beginning of the answer, as an `assistant` message. Streams are
/// checked only with [`hold_streams`](Self::hold_streams).
///
/// # What happens to an answer
///
/// 1. *It is JSON and matches the schema*: the layer returns it, byte for byte.
/// 2. *It contains such a value*: as the only value of the schema's type, or in its only block that is fenced as JSON,
///    with no such value outside it (of two the layer takes neither: one may be a quotation of the user's text); or it
///    has commas before closing brackets, or raw control characters in strings. The layer replaces the text by the value
///    and corrects `Content-Length` ([`extract`](Self::extract)). It repairs nothing else, and never closes a truncated
///    text.
/// 3. *It does not*: the layer asks the model again, with its answer and the faults (paths and rules, without the
///    values), at most [twice](Self::max_reasks), after an empty answer once. That is a new call: it has its own key (if
///    the request has an `Idempotency-Key`), the same deadline, and passes the retries, limits and circuit inside. A
///    [budget](Self::budget) bounds all such calls.
/// 4. *Still not*: the response has [`InvalidOutput`](crate::InvalidOutput) in its extensions, on which a
///    [`FallbackLayer`](crate::FallbackLayer) outside asks a backup, if it may. If no answer is better, the caller gets
///    this one, as a 200.
///
/// [`OutputUsage`](crate::OutputUsage) in the response's extensions sums the usage of all calls, at both upstreams if a
/// backup was asked.
///
/// # Schemas of callers
///
/// The layer checks a schema before use: at most 64 KiB, 64 levels deep, 10,000 parts (each counted as often as
/// references lead to it), references only into itself and without cycles, regular expressions that take linear time. It
/// ignores a schema beyond these limits, with an event: the answer then only has to be JSON. It compiles schemas on a
/// thread for blocking work, and keeps the last 128 of them, in 32 MiB.
///
/// # Place in the stack
///
/// Around each upstream: inside [`FallbackLayer`](crate::FallbackLayer), outside
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer). Inside [`DedupLayer`](crate::DedupLayer), so that callers
/// of a shared call get one answer.
///
/// # What happens when
///
/// - *The call that asks again fails*, or its answer is an error inside a 200, truncated or unreadable: the layer returns
///   the earlier answer, marked. A refusal, a filtered answer or a tool call counts as the model's answer.
/// - *Several answers are invalid*: the layer returns the best of them, the latest of equals. JSON is better than no
///   JSON, and no JSON better than an empty answer.
/// - *The request carries [`NoRetry`](crate::NoRetry)*: the layer does not ask again.
/// - *Less time is left than the last call took*, or the budget is spent: the layer does not ask again.
/// - *An answer is longer than [`max_answer`](Self::max_answer)* (1 MiB): it passes unread, with an event.
/// - *An answer is longer than 64 KiB*, or its check may take more than 65,536 steps (its bytes times the parts of the
///   schema, of which a regular expression counts as 1,024, or as its states): the layer checks it on a thread for
///   blocking work.
/// - *An answer breaks off*: its body fails, and the layer forwards nothing of it.
/// - *An answer is long, and its schema is large* (a million of its bytes times the schema's parts): the layer tells the
///   model that the answer is wrong, but not where. Beyond 268 million, including the states of its regular expressions,
///   it does not check the schema, and the answer only has to be JSON.
/// - *A request body is longer than [`max_body_bytes`](Self::max_body_bytes)* (2 MiB), or takes longer than
///   [`read_timeout`](Self::read_timeout) (30 s): it passes, with an event.
/// - *The older completions, Ollama's `/api/generate`*: the layer checks answers but does not ask again: these APIs have
///   no place for the earlier answer.
///
/// # Cancel safety
///
/// Dropping the future drops the running call.
///
/// # Errors
///
/// The service's own, unchanged.
///
/// # Cost
///
/// The layer reads and parses a request to a generation path before it sends it; one allocation for the call. It buffers,
/// parses and validates an answer that it checks. Other calls cost a look at the method and the path.
#[derive(Clone, Debug)]
pub struct StructuredOutputLayer {
    config: Arc<Config>,
}

// === impl StructuredOutputLayer ===

impl StructuredOutputLayer {
    /// Checks answers to requests for JSON, and asks again at most twice.
    #[must_use]
    pub fn new() -> Self {
        Self { config: Arc::default() }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self { config: Arc::new(Config { enabled: false, ..Config::default() }) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Checks the answers to all requests by this schema. A schema in a request's extensions takes precedence. Default:
    /// none, the request's own schema applies.
    #[must_use]
    pub fn schema(self, schema: OutputSchema) -> Self {
        self.with(|config| config.schema = Some(schema))
    }

    /// Whether the layer replaces the text by a value inside a sentence, or by a repaired value. If not, it asks the
    /// model again. Default: yes.
    #[must_use]
    pub fn extract(self, extract: bool) -> Self {
        self.with(|config| config.extract = extract)
    }

    /// Checks tool calls too: their arguments must be JSON and match the request's schema of the tool. If not, the layer
    /// asks the model again, naming the fault. Default: no, tool calls pass unchanged.
    ///
    /// Calls in JSON answers, of up to 64 tools; calls in streams pass. Gemini's schemas are read from
    /// `parametersJsonSchema`.
    #[must_use]
    pub fn tool_calls(self, check: bool) -> Self {
        self.with(|config| config.tool_calls = check)
    }

    /// How often the layer asks the model again. Default: 2, the maximum.
    #[must_use]
    pub fn max_reasks(self, max: u32) -> Self {
        self.with(|config| config.max_reasks = max.min(2))
    }

    /// Holds streams of up to this many bytes until they are complete, and checks them too. Their text is never replaced:
    /// for a value inside a sentence the layer asks again. Default: streams pass.
    ///
    /// Callers get nothing meanwhile: an [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) outside keeps the connection
    /// alive.
    #[must_use]
    pub fn hold_streams(self, bytes: usize) -> Self {
        self.with(|config| config.hold_streams = Some(bytes))
    }

    /// The budget of calls that ask again. Default: the layer's own, 20 % of the calls and ten a second, over 10 s.
    #[must_use]
    pub fn budget(self, budget: RetryBudget) -> Self {
        self.with(|config| config.budget = budget)
    }

    /// The longest answer that is checked, in bytes. Default: 1 MiB.
    #[must_use]
    pub fn max_answer(self, bytes: usize) -> Self {
        self.with(|config| config.max_answer = bytes)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_body_bytes = bytes)
    }

    /// How long a request body may take to arrive. Default: 30 s.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// The memory that counts requests and answers while they are held. Default: 512 MiB of the layer's own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// Reports invalid answers, and requests and answers that the layer could not handle, to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|config| config.emitter = Emitter::to(observer))
    }

    fn with(mut self, set: impl FnOnce(&mut Config)) -> Self {
        set(Arc::make_mut(&mut self.config));
        self
    }
}

impl Default for StructuredOutputLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for StructuredOutputLayer {
    type Service = StructuredOutput<S>;

    fn layer(&self, inner: S) -> Self::Service {
        StructuredOutput::new(inner, Arc::clone(&self.config))
    }
}
