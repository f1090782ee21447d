//! The provider's answers. Two numbers determine each, so that an hour of answers can be checked without storing any.

use std::fmt::Write as _;

/// One answer to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) call: u64,
    /// Another version has other words.
    pub(crate) version: u64,
}

/// What a caller holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Whole(Answer),
    /// The recognisable beginning of an answer.
    Broken,
    Wrong(String),
}

/// The end of every stream.
const DONE: &str = "data: [DONE]";

// === impl Answer ===

impl Answer {
    /// The number of events in the stream.
    pub(crate) fn len(self) -> u64 {
        self.pieces() + 3
    }

    /// Whether its events have ids.
    pub(crate) fn has_ids(self) -> bool {
        mix(self.call, 1).is_multiple_of(2)
    }

    fn pieces(self) -> u64 {
        5 + mix(self.call, 2) % 25
    }

    /// The `nth` event, without its id and the blank line.
    pub(crate) fn event(self, nth: u64) -> Option<String> {
        let last = self.pieces() + 1;
        Some(match nth {
            0 => self.chunk(r#"{"role":"assistant","content":""}"#, "null"),
            nth if nth < last => self.chunk(&format!(r#"{{"content":"{}"}}"#, self.piece(nth)), "null"),
            nth if nth == last => self.chunk("{}", r#""stop""#),
            nth if nth == last + 1 => DONE.to_owned(),
            _ => return None,
        })
    }

    /// The id of an event, for callers that come back.
    pub(crate) fn id(self, nth: u64) -> String {
        format!("{}.{}.{nth}", self.call, self.version)
    }

    /// The answer that this id belongs to, and the next event.
    pub(crate) fn of_id(id: &str) -> Option<(Self, u64)> {
        let mut parts = id.split('.').map(str::parse);
        let (call, version, nth) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        Some((Self { call, version }, u64::checked_add(nth, 1)?))
    }

    /// The whole answer in one object.
    pub(crate) fn object(self) -> String {
        let Self { call, version } = self;
        let content: String = (1..=self.pieces()).map(|nth| self.piece(nth)).collect();
        format!(
            r#"{{"id":"chatcmpl-{call}-{version}","object":"chat.completion","created":1700000000,"model":"sim","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}]}}"#
        )
    }

    fn chunk(self, delta: &str, reason: &str) -> String {
        let Self { call, version } = self;
        format!(
            r#"data: {{"id":"chatcmpl-{call}-{version}","object":"chat.completion.chunk","created":1700000000,"model":"sim","choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}"#
        )
    }

    fn piece(self, nth: u64) -> String {
        let seed = mix(mix(self.call, self.version), nth);
        (0..1 + seed % 16).fold(String::new(), |mut text, word| {
            let _ = write!(text, "{:x} ", mix(seed, word));
            text
        })
    }

    /// The answer that a chunk or object belongs to.
    fn named(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once(r#""id":"chatcmpl-"#)?;
        let (call, version) = rest.split_once('"')?.0.split_once('-')?;
        Some(Self { call: call.parse().ok()?, version: version.parse().ok()? })
    }
}

// === impl Held ===

impl Held {
    /// Adds to a wrong answer how the caller got it.
    pub(crate) fn of(self, how: &str) -> Self {
        match self {
            Self::Wrong(what) => Self::Wrong(format!("{how}: {what}")),
            held => held,
        }
    }
}

/// Classifies what a caller of `call` has read; `has_ended`: to its end.
pub(crate) fn stream(call: u64, text: &str, has_ended: bool) -> Held {
    let mut answer = None;
    let (mut next, mut has_failed) = (0, false);
    for block in text.split_inclusive("\n\n") {
        let is_whole = block.ends_with("\n\n");
        // The gateway writes comments and ids.
        let is_said = |line: &&str| !(line.is_empty() || line.starts_with(':') || line.starts_with("id: "));
        let said = block.lines().filter(is_said).collect::<Vec<_>>().join("\n");
        if said.is_empty() || (!is_whole && !has_ended) {
            continue;
        }
        if has_failed {
            return Held::Wrong(format!("call {call} goes on behind an error: {said}"));
        }
        let one = *answer.get_or_insert_with(|| Answer::named(&said).unwrap_or(Answer { call, version: 0 }));
        if one.call == call && one.event(next).as_ref() == Some(&said) && is_whole {
            next += 1;
        } else if said.contains(r#""error":{"#) && is_whole {
            has_failed = true;
        } else {
            return Held::Wrong(format!("call {call}, event {next}: {said:?} in place of {:?}", one.event(next)));
        }
    }
    match answer {
        Some(answer) if next == answer.len() && !has_failed => Held::Whole(answer),
        _ if has_ended && !has_failed => {
            let end = text.get(text.len().saturating_sub(500)..).unwrap_or(text);
            Held::Wrong(format!("call {call} ends after {next} events as if it were whole: {end:?}"))
        }
        _ => Held::Broken,
    }
}

/// Classifies an answer that is not a stream.
pub(crate) fn object(call: u64, text: &str) -> Held {
    match Answer::named(text) {
        Some(answer) if answer.call == call && answer.object() == text => Held::Whole(answer),
        _ => Held::Wrong(format!("call {call}: {text}")),
    }
}

/// A pseudo-random number.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    let mut mixed = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_add(0xd1b5_4a32_d192_ed03);
    for shift in [30, 27, 31] {
        mixed = (mixed ^ (mixed >> shift)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    mixed ^ (mixed >> 29)
}
