//! The wire formats ("dialects") of LLM APIs.
//!
//! [`Kind`] names the dialects that this crate knows, and recognises one by the path of a request. Each has its own form of
//! an error inside a stream ([`StreamError`]) and of a heartbeat ([`KeepAlive`]).
//!
//! With the feature `llm`, `StreamReader` turns the bytes of a stream into facts, in one vocabulary for all dialects: the
//! answer has begun, a piece of text, how it ended, an error. `AnswerReader` does the same for answers that do not
//! stream, and `Fault` for the errors of all of them. Implement the trait `Dialect` for another dialect.
//!
//! # When an answer has ended
//!
//! Not with a marker: servers write `[DONE]` after an error too. It has ended when the model has reported how:
//!
//! | Dialect | Complete if | Cut at a limit; blocked |
//! |---|---|---|
//! | Chat | each choice that began has `finish_reason` `stop`, `tool_calls` or `function_call` | `length`; `content_filter` |
//! | Responses | `response.completed` | `response.incomplete` |
//! | Anthropic | `message_delta` has given a `stop_reason`, and `message_stop` came | `max_tokens`; `refusal` |
//! | Gemini | the stream has ended, and each candidate has `finishReason` `STOP` | `MAX_TOKENS`; `SAFETY` and similar |
//! | Cohere | `message-end` has `finish_reason` `COMPLETE`, `STOP_SEQUENCE` or `TOOL_CALL` | `MAX_TOKENS` |
//! | Ollama | `"done": true` with `done_reason` `stop` | `length` |
//!
//! ```
//! use tower_buttress::proto::dialect::{KeepAlive, Kind, StreamError};
//! use tower_buttress::proto::sse::LineEnding;
//!
//! let kind = Kind::of_path("/v1beta/models/gemini-3-pro:streamGenerateContent");
//! assert_eq!(kind, Some(Kind::Gemini));
//! assert_eq!(Kind::Gemini.keep_alive(), KeepAlive::BareNewline);
//!
//! let frame = StreamError::of_status(503).message("The upstream is overloaded.").frame(kind, LineEnding::Lf);
//! assert_eq!(
//!     frame,
//!     "data: {\"error\":{\"code\":503,\"message\":\"The upstream is overloaded.\",\"status\":\"UNAVAILABLE\"}}\n\n",
//! );
//! ```

#[cfg(feature = "llm")]
mod answer;
#[cfg(feature = "llm")]
mod compose;
mod end;
#[cfg(feature = "llm")]
mod event;
#[cfg(feature = "llm")]
mod fact;
#[cfg(feature = "llm")]
mod fault;
#[cfg(feature = "llm")]
mod framer;
#[cfg(feature = "llm")]
mod json;
mod kind;
#[cfg(feature = "llm")]
mod known;
#[cfg(feature = "llm")]
mod likeness;
#[cfg(feature = "llm")]
mod members;
mod notice;
#[cfg(feature = "llm")]
mod prose;
#[cfg(feature = "llm")]
mod reader;
mod stream_error;
#[cfg(feature = "llm")]
mod template;
#[cfg(test)]
#[cfg(feature = "llm")]
mod tests;

#[cfg(feature = "llm")]
pub use self::answer::{Answer, AnswerReader};
#[cfg(feature = "llm")]
pub(crate) use self::compose::Composed;
pub use self::end::End;
#[cfg(feature = "llm")]
pub use self::event::{Framing, StreamEvent};
#[cfg(feature = "llm")]
pub use self::fact::{Channel, Fact, Text, Usage};
#[cfg(feature = "llm")]
pub use self::fault::Fault;
pub use self::kind::{KeepAlive, Kind};
pub(crate) use self::notice::NoticeWriter;
#[cfg(feature = "llm")]
pub(crate) use self::prose::wait as wait_in_prose;
#[cfg(feature = "llm")]
pub(crate) use self::reader::sequence_number;
#[cfg(feature = "llm")]
pub use self::reader::{Dialect, StreamReader};
pub use self::stream_error::StreamError;
