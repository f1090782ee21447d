//! Parsing an LLM stream gives the same result wherever it is cut, and a broken answer never parses as whole.

use tower_buttress::proto::dialect::{End, Kind, StreamReader};

#[path = "../../../src/proto/dialect/tests/golden.rs"]
#[expect(dead_code, reason = "the tests look at more of a stream")]
mod golden;

use golden::{GOLDEN, Golden};

pub(crate) const VOCABULARY: &[&[u8]] = &[
    b"\n",
    b"\r\n",
    b"\n\n",
    b": c\n\n",
    b"data: ",
    b"data: [DONE]\n\n",
    b"data: {\"error\":{\"message\":\"m\",\"code\":\"overloaded\"}}\n\n",
    b"event: error\n",
    b"event: message_stop\n",
    b"\"finish_reason\":\"stop\"",
    b"\"stop_reason\":\"end_turn\"",
    b"\"finishReason\":\"STOP\"",
    b"\"done\":true",
    b"{\"error\":\"m\"}\n",
    b"\\u00",
    b"\\ud83d",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\xEF\xBB\xBF",
    b"\xC3",
    b"\0",
    b"1e999",
];

/// The content of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    facts: Vec<String>,
    end: Option<End>,
}

/// The choices of an input's first bytes; the rest is written into the stream.
const CHOICES: usize = 6;

pub(crate) fn open_ai_chat(input: &[u8]) {
    run(Kind::OpenAiChat, input);
}

pub(crate) fn open_ai_responses(input: &[u8]) {
    run(Kind::OpenAiResponses, input);
}

pub(crate) fn anthropic(input: &[u8]) {
    run(Kind::Anthropic, input);
}

pub(crate) fn gemini(input: &[u8]) {
    run(Kind::Gemini, input);
}

pub(crate) fn cohere(input: &[u8]) {
    run(Kind::Cohere, input);
}

pub(crate) fn ollama(input: &[u8]) {
    run(Kind::Ollama, input);
}

fn run(kind: Kind, input: &[u8]) {
    let streams: Vec<&Golden> = GOLDEN.iter().filter(|golden| golden.kind == kind).collect();
    let (choices, written) = input.split_at(input.len().min(CHOICES));
    let choice = |nth: usize| choices.get(nth).copied().map_or(0, usize::from);
    let golden = streams[choice(0) % streams.len()];
    let at = |nth: usize| (choice(nth) * 256 + choice(nth + 1)) % (golden.stream.len() + 1);
    let cuts: Vec<usize> = choices.iter().map(|&byte| 1 + usize::from(byte)).collect();

    // A cut stream has not ended.
    let stream = golden.stream.as_bytes();
    let cut = &stream[..at(1)];
    let said = read(golden, cut, &cuts);
    assert_eq!(said.end.is_some(), golden.has_ended(cut.len()), "{}: {:?}", golden.name, String::from_utf8_lossy(cut));
    assert_eq!(said, read(golden, cut, &[cut.len()]), "{}", golden.name);

    // A stream with foreign content gives the same result however it arrives.
    let (from, until) = (at(1).min(at(3)), at(1).max(at(3)));
    let removed = if choice(5) % 2 == 0 { until } else { from };
    let changed = [&stream[..from], written, &stream[removed..]].concat();
    assert_eq!(read(golden, &changed, &cuts), read(golden, &changed, &[changed.len()]), "{}", golden.name);
}

/// The content of the stream, read in pieces of these lengths.
fn read(golden: &Golden, stream: &[u8], lengths: &[usize]) -> Said {
    let mut reader = StreamReader::new(Some(golden.kind), golden.framing);
    let mut facts = Vec::new();
    let (mut rest, mut lengths) = (stream, lengths.iter().cycle());
    while !rest.is_empty() {
        let length = lengths.next().copied().unwrap_or(1).clamp(1, rest.len());
        reader.read(&rest[..length], |fact, _| facts.push(format!("{fact:?}")));
        rest = &rest[length..];
    }
    reader.end(|fact, _| facts.push(format!("{fact:?}")));
    Said { facts, end: reader.ended() }
}
