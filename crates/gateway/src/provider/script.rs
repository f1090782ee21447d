//! The faults of one call, parsed from `x-fault`, `?fault=` or the model's name.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};

/// One call's script. The default is a healthy call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script {
    /// The status of the head, or what happens instead of it.
    pub(crate) opening: Opening,
    /// The error code in an answer that is not a 200.
    pub(crate) code: Option<String>,
    pub(crate) retry_after: Option<HeaderValue>,
    pub(crate) retry_after_ms: Option<HeaderValue>,
    pub(crate) should_retry: Option<HeaderValue>,
    /// The delay before the head.
    pub(crate) head: Duration,
    /// The delay between the head and the first byte.
    pub(crate) first_byte: Duration,
    /// The delay between two pieces.
    pub(crate) gap: Duration,
    /// The number of pieces; by default the number of words in the answer.
    pub(crate) chunks: Option<usize>,
    /// Pads each piece to this number of bytes.
    pub(crate) size: usize,
    /// The index of the first word, so that two answers to one prompt can differ.
    pub(crate) first_word: usize,
    /// Sends only comments, at this interval.
    pub(crate) comments: Option<Duration>,
    /// How the body ends early, and after how many pieces.
    pub(crate) ending: Option<(usize, Interruption)>,
    /// Gives each event an id. An answer can be continued behind `Last-Event-ID`: the same prompt gives the same
    /// words.
    pub(crate) ids: bool,
    /// This many calls in a row follow the script, then one call is healthy, and so on.
    pub(crate) times: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Status(StatusCode),
    /// The request is read and never answered.
    Silent,
    /// The connection is reset.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Silence on an open connection.
    Stall,
    /// Silence in the middle of a line.
    Torn,
    /// The connection is reset.
    Reset,
    /// The connection is closed before the end of the body.
    Close,
    /// The body ends cleanly, without `[DONE]`.
    Truncate,
    /// Only keep-alive comments, one per gap.
    Comments,
    /// An error object in the stream, as OpenAI sends it, then the end.
    Error,
}

/// An invalid script.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadScript(String);

const KNOWN: &str = "status, code, retry-after, retry-after-ms, should-retry, silent, reset, head, first-byte, gap, \
                     chunks, size, first-word, comments, stall-after, torn-after, reset-after, close-after, truncate-after, \
                     comments-after, error-after, ids, times, id";

// === impl Script ===

impl Default for Script {
    fn default() -> Self {
        Self {
            opening: Opening::Status(StatusCode::OK),
            code: None,
            retry_after: None,
            retry_after_ms: None,
            should_retry: None,
            head: Duration::ZERO,
            first_byte: Duration::ZERO,
            gap: Duration::from_millis(40),
            chunks: None,
            size: 0,
            first_word: 0,
            comments: None,
            ending: None,
            ids: false,
            times: None,
        }
    }
}

impl Script {
    /// Parses `name=value; name=value; name`. The separator is a semicolon because an HTTP-date contains a comma.
    pub(crate) fn parse(text: &str) -> Result<Self, BadScript> {
        let mut script = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').map_or((part, ""), |(n, v)| (n.trim(), v.trim()));
            script.set(name, value)?;
        }
        Ok(script)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), BadScript> {
        let bad = || BadScript(format!("cannot read the value of the fault {name:?}: {value:?}"));
        let duration = || humantime::parse_duration(value).map_err(|_| bad());
        let number = || value.parse::<usize>().map_err(|_| bad());
        let field = || HeaderValue::from_str(value).map(Some).map_err(|_| bad());
        match name {
            "status" => self.opening = Opening::Status(value.parse().map_err(|_| bad())?),
            "silent" => self.opening = Opening::Silent,
            "reset" => self.opening = Opening::Reset,
            "code" => self.code = Some(value.to_owned()),
            "retry-after" => self.retry_after = field()?,
            "retry-after-ms" => self.retry_after_ms = field()?,
            "should-retry" => self.should_retry = field()?,
            "head" => self.head = duration()?,
            "first-byte" => self.first_byte = duration()?,
            "gap" => self.gap = duration()?,
            "chunks" => self.chunks = Some(number()?),
            "size" => self.size = number()?,
            "first-word" => self.first_word = number()?,
            "comments" => self.comments = Some(duration()?),
            "stall-after" => self.ending = Some((number()?, Interruption::Stall)),
            "torn-after" => self.ending = Some((number()?, Interruption::Torn)),
            "reset-after" => self.ending = Some((number()?, Interruption::Reset)),
            "close-after" => self.ending = Some((number()?, Interruption::Close)),
            "truncate-after" => self.ending = Some((number()?, Interruption::Truncate)),
            "comments-after" => self.ending = Some((number()?, Interruption::Comments)),
            "error-after" => self.ending = Some((number()?, Interruption::Error)),
            "ids" => self.ids = true,
            "times" => self.times = Some(value.parse().map_err(|_| bad())?),
            // Only distinguishes otherwise equal scripts, and their counts.
            "id" => {}
            _ => return Err(BadScript(format!("no such fault: {name:?}; known are {KNOWN}"))),
        }
        Ok(())
    }
}

// === impl BadScript ===

impl fmt::Display for BadScript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_part_by_part() {
        let script = Script::parse("status=429; retry-after=Sun, 06 Nov 1994 08:49:37 GMT; times=2; id=a").unwrap();
        assert_eq!(script.opening, Opening::Status(StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(script.retry_after.unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(script.times, Some(2));
        assert_eq!(Script::parse(" ; ").unwrap(), Script::default());
        assert_eq!(Script::parse("stall-after=3").unwrap().ending, Some((3, Interruption::Stall)));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert!(Script::parse("head=soon").unwrap_err().to_string().contains("\"head\""));
        assert!(Script::parse("explode").unwrap_err().to_string().contains("known are"));
        assert!(Script::parse("status=9").is_err());
    }
}
