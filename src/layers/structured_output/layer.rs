use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::Config;
use super::service::StructuredOutput;
use crate::call::Memory;
use crate::event::{Emitter, Observer};
use crate::policy::structured::OutputSchema;
use crate::rt::retry_budget::RetryBudget;

/// Makes answers parse: what was to be JSON is checked, taken out of the sentence around it, and asked for again, with what is
/// wrong, where it is not what the schema describes.
///
/// Models that are asked for JSON write "Sure! Here is your JSON:", leave a comma behind the last member, or invent a member.
/// A program that reads the answer then fails, though another try, with the error, nearly always helps.
///
/// # When to use it, and when not
///
/// For requests whose answers a program reads. Where the provider constrains the model's output itself (`strict: true`), it
/// finds little. It holds the answer back until it is whole.
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
/// Those to a POST to a generation path of a dialect that [`proto::dialect`](crate::proto::dialect) knows, whose body asks for
/// JSON (`response_format`, `text.format`, `output_config.format`, `responseJsonSchema`, `format`), or with an
/// [`OutputSchema`] in the request's extensions or [set](Self::schema) here, which takes the place of the request's own.
///
/// A 200 in JSON that is whole, by the model's own word. Never one that was cut at a limit, filtered or refused, nor, unless
/// [`tool_calls`](Self::tool_calls) is set, a call of a tool: those are returned as they are. Nor where several answers are asked
/// for (`n`), or where the request ends with the beginning of the answer, as an `assistant` message. A stream only where
/// [`hold_streams`](Self::hold_streams) is set.
///
/// # What happens to an answer
///
/// 1. *It is JSON, and what the schema describes*: it is returned, byte for byte.
/// 2. *Such a value stands in it*: as the only value of the schema's type, or in its only block that is fenced as JSON, where no
///    such value stands outside of it (of two neither is taken: one may be a quotation of what a user wrote); or it
///    has commas before closing brackets, or raw control characters in strings: the text is replaced by the value, and
///    `Content-Length` is put right ([`extract`](Self::extract)). Nothing else is mended: a text that was cut is never closed.
/// 3. *It is not*: the model is asked again, with its answer and what is wrong with it (paths and rules, without the values), at
///    most [twice](Self::max_reasks), an empty answer once. That is a new call: it has a key of its own (where the request has an
///    `Idempotency-Key`), the same deadline, and passes the retries, limits and circuit inside; a [budget](Self::budget) bounds
///    all of them.
/// 4. *Still not*: the response has [`InvalidOutput`](crate::InvalidOutput) in its extensions, on which a
///    [`FallbackLayer`](crate::FallbackLayer) outside asks a backup, if it may. If none does better, the caller is given the
///    answer as the 200 that it is.
///
/// [`OutputUsage`](crate::OutputUsage) in the response's extensions sums what all calls have cost, those at both upstreams
/// where a backup was asked.
///
/// # Schemas of callers
///
/// A schema is checked before it is used: at most 64 KiB, 64 levels deep, 10,000 parts (each counted as often as references lead
/// to it), references into itself only and none in a circle, regular expressions that take linear time. One that is beyond that
/// is not used, with an event: the answer then has to be JSON, and no more. It is compiled on a thread for blocking work; the last
/// 128 stay compiled, in 32 MiB.
///
/// # Place in the stack
///
/// Around each upstream: inside [`FallbackLayer`](crate::FallbackLayer), outside of
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer). Inside [`DedupLayer`](crate::DedupLayer), so that callers who share
/// a call share one answer.
///
/// # What happens when
///
/// - *The call that asks again fails*, or is answered by an error inside a 200, by what was cut or by what cannot be looked at: the
///   answer that there was is returned, marked. A refusal, a filter or a call of a tool is the model's answer.
/// - *Several answers are not in their form*: the one that came nearest is returned, the latest of these. One that is JSON comes
///   nearer than one that is none, and that nearer than an empty one.
/// - *The request carries [`NoRetry`](crate::NoRetry)*: nothing is asked again.
/// - *Less time is left than the last call took*, or the budget is spent: nothing is asked again.
/// - *An answer longer than [`max_answer`](Self::max_answer)* (1 MiB): it passes unread, with an event.
/// - *An answer longer than 64 KiB*, or one whose check may take more than 65,536 steps (its bytes times the parts of the schema, of
///   which a regular expression counts as 1,024, or as its states): it is looked at on a thread for blocking work.
/// - *An answer breaks off*: its body fails, and nothing of it is handed on.
/// - *An answer is long, and its schema is large* (a million of its bytes times the schema's parts): the model is told that it is
///   wrong, and not where. Beyond 268 million, to which the states of its regular expressions count, too: it is not checked by the
///   schema, and has to be JSON.
/// - *A request body longer than [`max_body_bytes`](Self::max_body_bytes)* (2 MiB), or that takes longer to come than
///   [`read_timeout`](Self::read_timeout) (30 s): it passes, with an event.
/// - *The older completions, Ollama's `/api/generate`*: they are checked, and not asked again: they have no place for an answer.
///
/// # Cancel safety
///
/// Dropping the future drops the call that is under way.
///
/// # Errors
///
/// The service's own, unchanged.
///
/// # Cost
///
/// A request to a generation path is read before it is sent, and parsed; one allocation for the call. An answer that is checked
/// is held, parsed and validated. What passes costs a look at the method and the path.
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

    /// A layer of the same type that lets everything pass.
    #[must_use]
    pub fn disabled() -> Self {
        Self { config: Arc::new(Config { enabled: false, ..Config::default() }) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Checks the answers to all requests by this schema, whatever they ask for. One in a request's extensions wins. Default:
    /// none, the request's own counts.
    #[must_use]
    pub fn schema(self, schema: OutputSchema) -> Self {
        self.with(|config| config.schema = Some(schema))
    }

    /// Whether a value that stands in a sentence, or has a mistake that can be mended, takes the place of the text. If not, the
    /// model is asked again. Default: yes.
    #[must_use]
    pub fn extract(self, extract: bool) -> Self {
        self.with(|config| config.extract = extract)
    }

    /// Checks calls of tools, too: their arguments have to be JSON, and what the request's own schema of the tool describes. If
    /// not, the model is asked again, with what is wrong. Default: no, calls are returned as they are.
    ///
    /// Calls in JSON answers, of up to 64 tools; those in streams pass. Gemini's schemas are read from `parametersJsonSchema`.
    #[must_use]
    pub fn tool_calls(self, check: bool) -> Self {
        self.with(|config| config.tool_calls = check)
    }

    /// How often the model is asked again. Default: 2, which is the most.
    #[must_use]
    pub fn max_reasks(self, max: u32) -> Self {
        self.with(|config| config.max_reasks = max.min(2))
    }

    /// Holds streams of up to this many bytes until they are whole, and checks them too. Their text is never replaced: a value in
    /// a sentence is asked for again. Default: streams pass.
    ///
    /// Their callers see nothing meanwhile: an [`SseHeartbeatLayer`](crate::SseHeartbeatLayer) outside keeps the connection.
    #[must_use]
    pub fn hold_streams(self, bytes: usize) -> Self {
        self.with(|config| config.hold_streams = Some(bytes))
    }

    /// The budget of calls that ask again. Default: 20 % of the calls and ten a second, over ten seconds, of the layer's own.
    #[must_use]
    pub fn budget(self, budget: RetryBudget) -> Self {
        self.with(|config| config.budget = budget)
    }

    /// The longest answer that is looked at, in bytes. Default: 1 MiB.
    #[must_use]
    pub fn max_answer(self, bytes: usize) -> Self {
        self.with(|config| config.max_answer = bytes)
    }

    /// The longest request body that is read, in bytes. Default: 2 MiB.
    #[must_use]
    pub fn max_body_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.max_body_bytes = bytes)
    }

    /// How long a request body may take to come. Default: 30 s.
    #[must_use]
    pub fn read_timeout(self, timeout: Duration) -> Self {
        self.with(|config| config.read_timeout = timeout)
    }

    /// The memory in which requests and answers are counted while they are held. Default: 512 MiB of the layer's own.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        self.with(|config| config.memory = memory)
    }

    /// Tells `observer` of every answer that is not in its form, and of what the layer could not treat.
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
