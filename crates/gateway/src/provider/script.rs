//! What one call should go through: parsed from `x-fault`, `?fault=` or the model's name.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};

/// One call's script. The default is a healthy call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Script {
    /// What happens instead of an answer's head, or the status of that head.
    pub(crate) opening: Opening,
    /// The error code in the body of an answer that is not a 200.
    pub(crate) code: Option<String>,
    pub(crate) retry_after: Option<HeaderValue>,
    pub(crate) retry_after_ms: Option<HeaderValue>,
    pub(crate) should_retry: Option<HeaderValue>,
    /// Before the head.
    pub(crate) head: Duration,
    /// Between the head and the first byte.
    pub(crate) first_byte: Duration,
    /// Between two pieces.
    pub(crate) gap: Duration,
    /// How many pieces of content; otherwise as many as the answer has words.
    pub(crate) chunks: Option<usize>,
    /// Pads each piece of content to this many bytes.
    pub(crate) size: usize,
    /// The word that the content begins with, so that two answers to one prompt can differ.
    pub(crate) first_word: usize,
    /// Comments at this interval, and never anything else.
    pub(crate) comments: Option<Duration>,
    /// How the body ends before its time, and after how many pieces of content.
    pub(crate) ending: Option<(usize, Interruption)>,
    /// Each event has an id, and an answer can be had from the one behind `Last-Event-ID`: the same words for the same
    /// prompt.
    pub(crate) ids: bool,
    /// This number of calls in a row go through it; the next one is healthy, and then it starts again.
    pub(crate) times: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Status(StatusCode),
    /// The request is read and nothing is ever answered.
    Silent,
    /// The connection is reset.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Silence, with the connection open.
    Stall,
    /// The same, in the middle of a line.
    Torn,
    /// The connection is reset.
    Reset,
    /// The connection is closed without the end of the body.
    Close,
    /// The body ends as if it were whole, but `[DONE]` is missing.
    Truncate,
    /// Keep-alive comments, one at each gap, and nothing else.
    Comments,
    /// An error object in the stream, as OpenAI sends it, and then the end.
    Error,
}

/// A script that cannot be followed.
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
    /// Reads `name=value; name=value; name`. A semicolon separates, since an HTTP-date has a comma in it.
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
            // Only there to tell two otherwise equal scripts, and so their counts, apart.
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
