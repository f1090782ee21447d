//! Streams of other APIs, at paths that look like those of a dialect.

use crate::proto::dialect::{Framing, Kind, StreamReader};

use super::{Read, at_once, read};

const KINDS: [Kind; 6] =
    [Kind::OpenAiChat, Kind::OpenAiResponses, Kind::Anthropic, Kind::Gemini, Kind::Cohere, Kind::Ollama];

/// llama.cpp's own API; the events of an AI SDK's front end; a service's own; JSON-RPC.
const FOREIGN: [&str; 5] = [
    r#"{"index":0,"content":"Hi","tokens":[1],"stop":false,"id_slot":0,"tokens_predicted":1}"#,
    r#"{"type":"text-delta","id":"0","delta":"Hi"}"#,
    r#"{"token":"Hi"}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    r#""Hi""#,
];

fn stream(framing: Framing, events: &[&str]) -> String {
    match framing {
        Framing::Lines => events.iter().map(|event| format!("{event}\n")).collect(),
        Framing::Array => format!("[{}]", events.join(",")),
        Framing::EventStream => events.iter().map(|event| format!("data: {event}\n\n")).collect(),
    }
}

#[test]
fn a_guess_ends_with_the_first_event_of_another_api() {
    for (kind, framing) in KINDS
        .map(|kind| (kind, Framing::EventStream))
        .into_iter()
        .chain([(Kind::Ollama, Framing::Lines), (Kind::Gemini, Framing::Array)])
    {
        for event in FOREIGN {
            let mut reader = StreamReader::new(Some(kind), framing);
            let stream = stream(framing, &[event, event, event, event, event, "[DONE]"]);
            reader.read(&stream.as_bytes()[..event.len() + 8], |fact, _| panic!("{kind:?}: {event} says {fact:?}"));
            assert!(!reader.is_recognised() && reader.kind().is_none(), "{kind:?}: {event}");
            let read = read(StreamReader::new(Some(kind), framing), [stream.as_bytes()]);
            assert_eq!((read.facts.len(), read.ended, read.closed), (0, None, false), "{kind:?}: {event}");
        }
    }
}

#[test]
fn a_guess_is_final_after_64_events_that_do_not_tell() {
    for (unclear, kind) in [(63, None), (64, Some(Kind::OpenAiChat))] {
        let mut reader = StreamReader::new(Some(Kind::OpenAiChat), Framing::EventStream);
        reader.read(stream(Framing::EventStream, &["{}"]).repeat(unclear).as_bytes(), |_, _| {});
        reader.read(stream(Framing::EventStream, &FOREIGN[..1]).as_bytes(), |_, _| {});
        assert_eq!(reader.kind(), kind, "{unclear}");
    }
}

#[test]
fn what_stands_before_the_first_event_decides_nothing() {
    for before in ["[DONE]", r#"{"type":"ping"}"#, "{}", r#"{"error":{"message":"x"}}"#, ""] {
        for kind in KINDS {
            let mut reader = StreamReader::new(Some(kind), Framing::EventStream);
            for _ in 0..9 {
                reader.read(stream(Framing::EventStream, &[before]).as_bytes(), |_, _| {});
            }
            assert_eq!(reader.kind(), Some(kind), "{before}");
            reader.read(stream(Framing::EventStream, &FOREIGN).as_bytes(), |_, _| {});
            assert_eq!(reader.kind(), None, "{before}");
        }
    }
}

#[test]
fn what_follows_an_event_of_its_own_may_be_anything() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    let Read { facts, .. } =
        at_once(Kind::OpenAiChat, Framing::EventStream, &stream(Framing::EventStream, &[chunk, FOREIGN[2], chunk]));
    assert_eq!(facts, ["0 Text \"a\"", "Other", "0 Text \"a\""]);
}

/// A gateway that has a word of its own to say first.
#[test]
fn a_dialect_is_recognised_behind_a_foreign_event_too() {
    let chunk = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    for (foreign, expected, is_recognised) in
        [(1, false, true), (3, false, true), (4, false, false), (4, true, true), (63, true, true), (64, true, false)]
    {
        for kind in [None, Some(Kind::OpenAiChat), Some(Kind::Anthropic)] {
            if kind.is_some() != expected {
                continue;
            }
            let mut reader = StreamReader::new(kind, Framing::EventStream);
            let events: Vec<&str> = std::iter::repeat_n(FOREIGN[2], foreign).chain([chunk]).collect();
            reader.read(stream(Framing::EventStream, &events).as_bytes(), |_, _| {});
            assert_eq!(reader.kind().is_some(), is_recognised, "{foreign}, {kind:?}");
        }
    }
}

#[test]
fn a_dialect_that_was_set_is_not_doubted() {
    let mut reader = StreamReader::of(Kind::OpenAiChat, Framing::EventStream);
    reader.read(stream(Framing::EventStream, &FOREIGN[..4]).as_bytes(), |_, _| {});
    assert_eq!(reader.kind(), Some(Kind::OpenAiChat));
}

#[test]
fn an_array_of_other_things_is_none_of_geminis() {
    for array in ["[1,2]", "[\"a\"]", "[[]]", "[null]"] {
        let mut reader = StreamReader::new(Some(Kind::Gemini), Framing::Array);
        reader.read(array.as_bytes(), |fact, _| panic!("{array}: {fact:?}"));
        assert!(!reader.is_recognised() && !reader.in_event(), "{array}");
        let facts = read(StreamReader::of(Kind::Gemini, Framing::Array), [array.as_bytes()]).facts;
        assert_eq!(facts, ["Unreadable"], "{array}");
    }
}

#[test]
fn a_line_that_is_cut_is_inside_of_an_event() {
    for (last, is_cut) in [("{\"token\":\"H", true), ("{\"token\":\"H\"}", false), ("\"a", true), ("text", false)] {
        let mut reader = StreamReader::new(Some(Kind::Ollama), Framing::Lines);
        reader.read(format!("{{\"token\":\"a\"}}\n{last}").as_bytes(), |_, _| {});
        reader.end(|_, _| {});
        assert_eq!(reader.in_event(), is_cut, "{last}");
    }
    let large = format!("{{\"token\":\"{}", "x".repeat(100_000));
    let mut reader = StreamReader::new(Some(Kind::Ollama), Framing::Lines);
    reader.read(large.as_bytes(), |_, _| {});
    reader.end(|_, _| {});
    assert!(reader.in_event());
}

#[test]
fn what_is_no_event_of_the_dialect_is_no_sign_of_life() {
    for (kind, alive, other) in [
        (Kind::OpenAiChat, r#"{"choices":[]}"#, r#"{"content":""}"#),
        (Kind::OpenAiChat, "{}", r#"{"id":7}"#),
        (Kind::Gemini, r#"{"candidates":[]}"#, r#"{"parts":[]}"#),
        (Kind::Ollama, r#"{"model":"m","message":{"content":""},"done":false}"#, r#"{"status":"pulling"}"#),
        (Kind::Anthropic, r#"{"type":"something_new"}"#, r#"{"status":"new"}"#),
    ] {
        let facts = |event: &str| {
            let mut facts = Vec::new();
            let mut reader = StreamReader::of(kind, Framing::Lines);
            reader.read(format!("{event}\n").as_bytes(), |fact, _| facts.push(format!("{fact:?}")));
            facts.retain(|fact| !fact.starts_with("Started"));
            facts
        };
        assert_eq!((facts(alive), facts(other)), (vec!["KeepAlive".to_owned()], vec!["Other".to_owned()]), "{kind:?}");
    }
}
