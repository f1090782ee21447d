//! Reads the body of an answer that does not stream.

use super::end::End;
use super::event::StreamEvent;
use super::fact::{Fact, Usage};
use super::fault::Fault;
use super::framer::PartialEvent;
use super::json::JsonPosition;
use super::kind::Kind;
use super::known::chat;
use super::reader::Dialect;

/// Follows the body of a JSON answer as it arrives, and returns at its end whether it is complete, and its content.
///
/// It holds at most 64 KiB of the unchanged body; of a larger body, at most 1 MiB with its long strings cut.
///
/// ```
/// use tower_buttress::proto::dialect::{AnswerReader, Kind};
///
/// let mut reader = AnswerReader::new();
/// reader.read(br#"{"error":{"code":502,"message":"Provider returned error"}}"#);
/// let answer = reader.end(&mut *Kind::OpenAiChat.dialect());
/// assert_eq!(answer.fault.unwrap().status(), Some(502));
///
/// let mut reader = AnswerReader::new();
/// reader.read(br#"{"choices":[{"message":{"content":"He"#);
/// assert!(reader.is_cut());
/// ```
#[derive(Debug, Default)]
pub struct AnswerReader {
    /// The first byte that is not white space.
    first: Option<u8>,
    position: JsonPosition,
    body: PartialEvent,
}

/// The content of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// How it ended, if reported.
    pub end: Option<End>,
    /// The error that it contains in place of an answer.
    pub fault: Option<Fault>,
    /// Its token usage.
    pub usage: Option<Usage>,
}

// === impl AnswerReader ===

impl AnswerReader {
    /// A reader at the start of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes.
    pub fn read(&mut self, bytes: &[u8]) {
        self.first = self.first.or_else(|| bytes.trim_ascii_start().first().copied());
        if self.is_json() {
            // No value closes at that depth.
            let _ = self.position.close(bytes, usize::MAX);
            self.body.push(bytes);
        }
    }

    /// The first byte that is not white space: `[` for a stream of Gemini's, `{` for an answer.
    #[must_use]
    pub const fn first(&self) -> Option<u8> {
        self.first
    }

    /// Whether it begins like a JSON object or array.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        matches!(self.first, Some(b'{' | b'['))
    }

    /// Whether the body, if it ends here, is truncated: it began as JSON, and a bracket or a string is open.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_json() && self.position.is_open()
    }

    /// The same as [`end`](Self::end) with a dialect of this crate.
    pub(crate) fn end_of(self, kind: Kind) -> Answer {
        let body = self.body.whole().filter(|_| kind == Kind::OpenAiChat);
        match body.and_then(chat::plain_answer) {
            Some((end, usage)) => Answer { end, fault: None, usage },
            None => self.end(&mut *kind.dialect()),
        }
    }

    /// Returns the content of the complete body.
    #[must_use]
    pub fn end(mut self, dialect: &mut dyn Dialect) -> Answer {
        let mut answer = Answer::default();
        self.body.finish(|data, shortened| {
            let Some(data) = data else { return };
            let event = StreamEvent { shortened, ..StreamEvent::new("", data) };
            dialect.answer(&event, &mut |fact| match fact {
                Fact::Ended(end) => answer.end = Some(end),
                Fact::Failed(fault) => answer.fault = answer.fault.take().or(Some(fault)),
                Fact::Usage(usage) => answer.usage = Some(usage),
                _ => {}
            });
        });
        if answer.fault.is_some() {
            answer.end = None;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&str]) -> AnswerReader {
        let mut reader = AnswerReader::new();
        pieces.iter().for_each(|piece| reader.read(piece.as_bytes()));
        reader
    }

    #[test]
    fn only_json_can_be_cut() {
        assert!(read(&["{\"a\":"]).is_cut() && read(&[" \n", "[", "1"]).is_cut() && read(&["{\"a\":\"}"]).is_cut());
        assert!(!read(&["{\"a\":", "1}"]).is_cut() && !read(&["[]"]).is_cut());
        for text in ["", "  ", "it's [", "\"a", "null"] {
            assert!(!read(&[text]).is_cut() && !read(&[text]).is_json(), "{text}");
        }
        assert_eq!((read(&[" \n", " [1"]).first(), read(&["{", "["]).first()), (Some(b'['), Some(b'{')));
        assert_eq!(read(&["  "]).first(), None);
    }

    #[test]
    fn an_answer_says_how_it_ended_and_what_it_cost() {
        let end = |text: &str| read(&[text]).end(&mut *Kind::OpenAiChat.dialect());
        let whole = end(
            r#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
        );
        assert_eq!((whole.end, whole.fault, whole.usage), (Some(End::Limit), None, Some(Usage::new(Some(3), Some(4)))));
        let failed = end(r#"{"error":{"message":"no","code":500}}"#);
        assert_eq!((failed.end, failed.fault.unwrap().message()), (None, "no"));
        assert_eq!(end("no answer"), Answer::default());
    }

    #[test]
    fn an_ordinary_answer_is_read_without_a_tree_and_says_the_same() {
        let usual = [
            r#"{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"content":"a \"]}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
            r#" {"choices":[{"finish_reason":"stop"},{"index":1,"finish_reason":"length"}],"error":null,"usage":null}"#,
            r#"{"choices":[{"index":0,"finish_reason":null},{"index":1,"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"finish_reason":"content_filter"}],"choices":[{"finish_reason":"other"}]}"#,
            r#"{"choices":[{"index":200,"finish_reason":"stop"}],"usage":{"prompt_tokens":null}}"#,
            r#"{"choices":[]}"#,
            r#"{"usage":{}}"#,
            "[]",
        ];
        let unusual = [
            r#"{"choices":[{"finish_reason":"stop"}],"error":{"message":"no"}}"#,
            r#"{"error":{"message":"no","code":500}}"#,
            r#"{"err\u006fr":{"message":"no","code":500}}"#,
            r#"{"object":"error","message":"no","code":500}"#,
            r#"{"obj\u0065ct":"error","message":"no","code":500}"#,
            r#"{"object":"\u0065rror","message":"no","code":500}"#,
            r#"{"success":false,"errors":[{"message":"no"}]}"#,
            r#"{"choices":[{"error":{"message":"no"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"finish_reason":"error"}]}"#,
            r#"{"choices":[{"finish_reason":"st\u006fp"}]}"#,
            r#"{"choices":[{"index":"0","finish_reason":"stop"},7]}"#,
            r#"{"choices":[{"index":1.0,"finish_reason":"stop"}],"usage":{"prompt_tokens":3.5,"completion_tokens":-1}}"#,
            r#"{"choices":{},"usage":[]}"#,
            r#"{"choices":[{"finish_reason":"stop"}]"#,
            r#"{"choices":[{"finish_reason":"stop"}]}]"#,
            r#"{"choices":[{"finish_reason":"stop" "index":0}]}"#,
            "no answer",
        ];
        // Not every parser minds half of a surrogate pair in a text that nothing reads.
        let either = r#"{"choices":[{"message":{"content":"\ud800"},"finish_reason":"stop"}]}"#;
        let of = |text| (read(&[text]).end_of(Kind::OpenAiChat), read(&[text]).end(&mut *Kind::OpenAiChat.dialect()));
        let (quick, slow) = of(either);
        assert_eq!(quick, slow);
        for (texts, is_usual) in [(&usual[..], true), (&unusual, false)] {
            for text in texts {
                let (quick, slow) = of(text);
                assert_eq!(quick, slow, "{text}");
                assert_eq!(chat::plain_answer(text.as_bytes()).is_some(), is_usual, "{text}");
            }
        }
        let mut reader = read(&[r#"{"choices":[{"message":{"content":""#]);
        reader.read(b"\xff");
        reader.read(br#""},"finish_reason":"stop"}]}"#);
        assert_eq!(reader.end_of(Kind::OpenAiChat), Answer::default(), "it is not UTF-8");
    }
}
