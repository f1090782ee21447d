//! Whole streams, cut at every byte.

use crate::proto::dialect::{Framing, Kind, StreamReader};
use proptest::prelude::*;

use super::golden::{GOLDEN, Golden};
use super::{Parsed, at_once, read};

#[test]
fn a_whole_stream_says_how_it_ended_and_what_the_model_said() {
    for golden in GOLDEN {
        let read = at_once(golden.kind, golden.framing, golden.stream);
        assert_eq!(read.ended, Some(golden.end), "{}: {:#?}", golden.name, read.facts);
        assert_eq!(read.text, golden.text, "{}", golden.name);
        assert!(!read.facts.iter().any(|fact| fact == "Unreadable"), "{}: {:#?}", golden.name, read.facts);
    }
}

#[test]
fn a_stream_that_is_cut_has_not_ended() {
    for golden in GOLDEN {
        for cut in 0..=golden.stream.len() {
            let (before, _) = golden.stream.as_bytes().split_at(cut);
            let read = read(StreamReader::new(Some(golden.kind), golden.framing), [before]);
            assert_eq!(read.ended.is_some(), golden.has_ended(cut), "{}, cut at {cut}", golden.name);
        }
    }
}

#[test]
fn the_dialect_is_recognised_without_a_hint_and_in_spite_of_a_wrong_one() {
    for golden in GOLDEN.iter().filter(|golden| golden.framing == Framing::EventStream) {
        for hint in [None, Some(Kind::OpenAiChat), Some(Kind::Anthropic)] {
            let read = read(StreamReader::new(hint, golden.framing), [golden.stream.as_bytes()]);
            assert_eq!(read.ended, Some(golden.end), "{}, taken for {hint:?}", golden.name);
        }
    }
}

#[test]
fn what_is_recognised_by_likeness_says_what_a_parse_says() {
    for golden in GOLDEN {
        let parsed = StreamReader::custom(Parsed(golden.kind.dialect()), golden.framing);
        let parsed = read(parsed, [golden.stream.as_bytes()]);
        assert_eq!(at_once(golden.kind, golden.framing, golden.stream).facts, parsed.facts, "{}", golden.name);
    }
}

#[test]
fn a_stream_with_a_line_that_ends_early_says_the_same_in_any_pieces() {
    for golden in GOLDEN.iter().filter(|golden| golden.kind == Kind::Anthropic) {
        for at in 0..golden.stream.len() {
            let mut bytes = golden.stream.as_bytes().to_vec();
            bytes[at] = b'\r';
            let parsed = read(StreamReader::custom(Parsed(golden.kind.dialect()), golden.framing), [&bytes[..]]);
            let whole = read(StreamReader::of(golden.kind, golden.framing), [&bytes[..]]);
            let cut = read(StreamReader::of(golden.kind, golden.framing), bytes.chunks(1));
            assert_eq!((&whole.facts, &cut.facts), (&parsed.facts, &parsed.facts), "{}, at {at}", golden.name);
        }
    }
}

/// An event with a piece of text, as it stands in JSON, under an id, at a time, of lines that end so.
fn piece(kind: Kind, text: &str, id: u8, at: u32, ending: &str) -> String {
    match kind {
        Kind::OpenAiResponses => format!(
            "event: response.output_text.delta{ending}data: {{\"type\":\"response.output_text.delta\",\"sequence_number\":{at},\
             \"item_id\":\"msg_{id}\",\"output_index\":0,\"content_index\":0,\"delta\":\"{text}\"}}{ending}{ending}"
        ),
        Kind::Anthropic => format!(
            "event: content_block_delta{ending}data: {{\"type\":\"content_block_delta\",\"index\":{},\
             \"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}{ending}{ending}",
            id % 2
        ),
        Kind::Gemini => format!(
            "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}],\"role\":\"model\"}},\"index\":0}}],\
             \"usageMetadata\":{{\"promptTokenCount\":7,\"candidatesTokenCount\":{at}}},\"responseId\":\"{id}\"}}{ending}{ending}"
        ),
        _ => format!(
            "data: {{\"id\":\"c{id}\",\"created\":{at},\"model\":\"m\",\"choices\":[{{\"index\":0,\
             \"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}{ending}{ending}"
        ),
    }
}

/// How many bytes of each chunk belong to whole events.
fn whole<'a>(mut reader: StreamReader, chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<usize> {
    chunks.into_iter().map(|chunk| reader.read(chunk, |_, _| ())).collect()
}

fn golden() -> impl Strategy<Value = &'static Golden> {
    (0..GOLDEN.len()).prop_map(|index| &GOLDEN[index])
}

/// An upstream that writes a thing twice, so that a comparison cannot see which of both a parser takes.
#[test]
fn what_stands_twice_is_what_a_parser_takes() {
    let chat = |delta: &str, more: &str| {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{{delta}}},\"finish_reason\":null}}]{more}}}\n\n")
    };
    let texts = |first: &str| chat(&format!("\"content\":\"{first}\",\"con\\u0074ent\":\"A\""), "");
    let decoy = |text: &str| chat("\"refusal\":\"A\"", &format!(",\"content\":\"{text}\""));
    let usage = |first: u32, text: &str| {
        let usage = format!(",\"usage\":{{\"completion_tokens\":{first},\"completion_tokens\":7}}");
        chat(&format!("\"content\":\"{text}\""), &usage)
    };
    for events in [
        ["A", "A", "B"].map(texts),
        ["A", "A", "B"].map(decoy),
        [(0, "a"), (0, "b"), (3, "c")].map(|(n, t)| usage(n, t)),
    ] {
        let all = events.concat();
        let parsed =
            read(StreamReader::custom(Parsed(Kind::OpenAiChat.dialect()), Framing::EventStream), [all.as_bytes()]);
        assert_eq!(at_once(Kind::OpenAiChat, Framing::EventStream, &all).facts, parsed.facts, "{all}");
    }
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_facts(golden in golden(), sizes in proptest::collection::vec(1..200_usize, 1..9)) {
        let mut rest = golden.stream.as_bytes();
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        let cut = read(StreamReader::new(Some(golden.kind), golden.framing), chunks);
        prop_assert_eq!(cut.facts, at_once(golden.kind, golden.framing, golden.stream).facts);
    }

    /// Long streams, of events that differ in one thing and another, in chunks that hold some of them, one, or a part.
    #[test]
    fn events_that_are_alike_say_what_a_parse_says(
        kind in prop_oneof![Just(Kind::OpenAiChat), Just(Kind::OpenAiResponses), Just(Kind::Anthropic), Just(Kind::Gemini)],
        pieces in proptest::collection::vec(
            ("[a-c\u{e9}]{0,3}(\\\\n|\\\\\"|\\\\u00e9|\\\\ud83d|\"|[a-z ]{0,40})?", 0..3_u8, 0..3_u32, 0..10_u8), 1..30,
        ),
        crlf in any::<bool>(),
        per_chunk in 1..4_usize,
        size in 1..400_usize,
    ) {
        let ending = if crlf { "\r\n" } else { "\n" };
        let events: Vec<String> = pieces
            .iter()
            .map(|(text, id, at, form)| match form {
                // Now and then one in another form.
                0 => piece(kind, text, *id, *at, ending).replace("data: ", "data:"),
                1 => format!(": alive{ending}{ending}{}", piece(kind, text, *id, *at, ending)),
                2 => piece(kind, text, *id, *at, if crlf { "\n" } else { "\r\n" }),
                3 => format!("id: {at}{ending}{}", piece(kind, text, *id, *at, ending)),
                _ => piece(kind, text, *id, *at, ending),
            })
            .collect();
        let chunks: Vec<String> = events.chunks(per_chunk).map(<[String]>::concat).collect();
        let all = events.concat();
        let parsed = || StreamReader::custom(Parsed(kind.dialect()), Framing::EventStream);
        let alike = || StreamReader::of(kind, Framing::EventStream);
        let facts = read(parsed(), [all.as_bytes()]).facts;
        prop_assert_eq!(&read(alike(), [all.as_bytes()]).facts, &facts);
        prop_assert_eq!(&read(alike(), chunks.iter().map(String::as_bytes)).facts, &facts);
        prop_assert_eq!(&read(alike(), all.as_bytes().chunks(size)).facts, &facts);
        let by_event = || chunks.iter().map(String::as_bytes);
        prop_assert_eq!(whole(alike(), by_event()), whole(parsed(), by_event()));
        prop_assert_eq!(whole(alike(), all.as_bytes().chunks(size)), whole(parsed(), all.as_bytes().chunks(size)));
    }

    /// The same for elements of an array, each on several lines.
    #[test]
    fn elements_that_are_alike_say_what_a_parse_says(
        pieces in proptest::collection::vec(("[a-c\u{e9}]{0,3}(\\\\n|\\\\\"|\"|[a-z ]{0,40})?", 0..3_u8, 0..3_u32), 1..20),
        size in 1..400_usize,
    ) {
        let element = |(text, id, at): &(String, u8, u32)| {
            let event = piece(Kind::Gemini, text, *id, *at, "");
            event.trim_start_matches("data: ").replace(":{", ": {\n  ").replace("},", "},\n  ")
        };
        let all = format!("[{}\n]", pieces.iter().map(element).collect::<Vec<_>>().join(",\r\n"));
        let facts = read(StreamReader::custom(Parsed(Kind::Gemini.dialect()), Framing::Array), [all.as_bytes()]).facts;
        prop_assert_eq!(&read(StreamReader::of(Kind::Gemini, Framing::Array), [all.as_bytes()]).facts, &facts);
        prop_assert_eq!(&read(StreamReader::of(Kind::Gemini, Framing::Array), all.as_bytes().chunks(size)).facts, &facts);
    }

    /// Streams that were damaged: likeness and parse agree on those too, and nothing panics.
    #[test]
    fn a_damaged_stream_says_the_same_in_any_pieces(
        golden in golden(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        size in 1..300_usize,
    ) {
        let mut bytes = golden.stream.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let parsed = read(StreamReader::custom(Parsed(golden.kind.dialect()), golden.framing), [&bytes[..]]);
        let whole = read(StreamReader::of(golden.kind, golden.framing), [&bytes[..]]);
        let cut = read(StreamReader::of(golden.kind, golden.framing), bytes.chunks(size));
        prop_assert_eq!(&whole.facts, &parsed.facts);
        prop_assert_eq!(&cut.facts, &parsed.facts);
    }
}
