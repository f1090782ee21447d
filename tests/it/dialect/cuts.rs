//! Whole streams, cut at every byte.

use proptest::prelude::*;
use tower_buttress::proto::dialect::{Framing, Kind, Reader};

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

/// Where the answer has ended.
fn terminal(golden: &Golden) -> usize {
    golden.stream.rfind(golden.terminal).expect(golden.name) + golden.terminal.len()
}

#[test]
fn a_stream_that_is_cut_has_not_ended() {
    for golden in GOLDEN {
        let terminal = terminal(golden);
        for cut in 0..=golden.stream.len() {
            let (before, _) = golden.stream.as_bytes().split_at(cut);
            let read = read(Reader::new(Some(golden.kind), golden.framing), [before]);
            let whole = read.ended.is_some() && !(golden.framing == Framing::Array && read.in_event);
            assert_eq!(whole, cut >= terminal, "{}, cut at {cut}", golden.name);
        }
    }
}

#[test]
fn the_dialect_is_recognised_without_a_hint_and_in_spite_of_a_wrong_one() {
    for golden in GOLDEN.iter().filter(|golden| golden.framing == Framing::EventStream) {
        for hint in [None, Some(Kind::OpenAiChat), Some(Kind::Anthropic)] {
            let read = read(Reader::new(hint, golden.framing), [golden.stream.as_bytes()]);
            assert_eq!(read.ended, Some(golden.end), "{}, taken for {hint:?}", golden.name);
        }
    }
}

#[test]
fn what_is_recognised_by_likeness_says_what_a_parse_says() {
    for golden in GOLDEN {
        let parsed = Reader::custom(Parsed(golden.kind.dialect()), golden.framing);
        let parsed = read(parsed, [golden.stream.as_bytes()]);
        assert_eq!(at_once(golden.kind, golden.framing, golden.stream).facts, parsed.facts, "{}", golden.name);
    }
}

fn golden() -> impl Strategy<Value = &'static Golden> {
    (0..GOLDEN.len()).prop_map(|index| &GOLDEN[index])
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
        let cut = read(Reader::new(Some(golden.kind), golden.framing), chunks);
        prop_assert_eq!(cut.facts, at_once(golden.kind, golden.framing, golden.stream).facts);
    }

    /// Streams that were damaged: likeness and parse agree on those too, and nothing panics.
    #[test]
    fn what_is_damaged_says_the_same_however_it_is_read(
        golden in golden(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        size in 1..300_usize,
    ) {
        let mut bytes = golden.stream.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let parsed = read(Reader::custom(Parsed(golden.kind.dialect()), golden.framing), [&bytes[..]]);
        let whole = read(Reader::of(golden.kind, golden.framing), [&bytes[..]]);
        let cut = read(Reader::of(golden.kind, golden.framing), bytes.chunks(size));
        prop_assert_eq!(&whole.facts, &parsed.facts);
        prop_assert_eq!(&cut.facts, &parsed.facts);
    }
}
