//! Server-Sent Events, read from bytes as they come.
//!
//! The [`text/event-stream`] format of the WHATWG HTML standard, rule for rule: lines end in LF, CR or CRLF, in any
//! mixture and split anywhere; one leading byte order mark is dropped; an `id` with a NUL is ignored; a blank line
//! without data dispatches nothing, but still commits the id; data after the last blank line is discarded.
//!
//! - [`Scanner`] only follows the stream. It answers "was that an event?" and "may something be inserted here?", in a few
//!   bytes of memory and without holding a byte back. The layers of this crate use it.
//! - [`Parser`] reads the events, for consumers of a stream.
//!
//! Both use the same line splitter, so they cannot disagree.
//!
//! ```
//! use tower_buttress::proto::sse::{Item, Parser, Scanner};
//!
//! let chunks: [&[u8]; 3] = [b": hello\r\n\r\ndata: a\r", b"\nda", b"ta: b\r\n\r\n"];
//!
//! let mut scanner = Scanner::new();
//! let events: usize = chunks.iter().map(|chunk| scanner.scan(chunk).events).sum();
//! assert_eq!(events, 1);
//!
//! let mut parser = Parser::new();
//! let mut seen = Vec::new();
//! for mut chunk in chunks {
//!     while let Some(item) = parser.next(&mut chunk) {
//!         if let Item::Message(message) = item {
//!             seen.push((message.event_type.into_owned(), message.data.into_owned()));
//!         }
//!     }
//! }
//! assert_eq!(seen, [("message".to_owned(), "a\nb".to_owned())]);
//! ```
//!
//! [`text/event-stream`]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

#[cfg(feature = "llm")]
mod blocks;
mod event_ids;
pub(super) mod field;
pub(super) mod lines;
mod parser;
mod scanner;
#[cfg(test)]
mod tests;

#[cfg(feature = "llm")]
pub(crate) use self::blocks::{Block, Blocks, behind_lf, without_bom};
pub(crate) use self::event_ids::{EventId, EventIds};
pub use self::lines::LineEnding;
pub use self::parser::{Item, Message, Parser};
pub use self::scanner::{Progress, Scanner};
