//! What is taken for an event that was seen before.

use super::form::{MAX_EVENT, MAX_HOLES};
use super::scan::{SHORT, long_string};
use super::*;

fn learned(kind: Kind, data: &str, text: &str) -> Templates {
    let mut templates = Templates::default();
    let said = Delta { choice: 0, channel: Channel::Text, text: text.to_owned() };
    templates.learn(kind, &StreamEvent::new("", data.as_bytes()), &said, None);
    templates
}

/// As Google's servers write the elements of an array.
fn element(text: &str) -> String {
    format!(
        "{{\n  \"candidates\": [\n    {{\n      \"content\": {{\n        \"parts\": [\n          {{\n            \"text\": \"{text}\"\n          }}\n\
         \x20       ],\n        \"role\": \"model\"\n      }},\n      \"index\": 0\n    }}\n  ],\n  \"modelVersion\": \"gemini-3\"\n}}"
    )
}

#[test]
fn an_event_of_several_lines_is_recognised_and_not_taken_for_lines_of_a_stream() {
    let templates = learned(Kind::Gemini, &element("Hel"), "Hel");
    let next = element("lo");
    let found = templates.find(&StreamEvent::new("", next.as_bytes())).unwrap();
    assert_eq!(found.text, b"lo");
    let stream = format!("data: {next}\n\n");
    assert!(templates.find_in(stream.as_bytes(), LineEnding::Lf).is_none());
    let templates = learned(Kind::Gemini, &element("Hel").replace('\n', ""), "Hel");
    let stream = stream.replacen('\n', "", next.matches('\n').count());
    assert!(templates.find_in(stream.as_bytes(), LineEnding::Lf).is_some());
}

#[test]
fn of_an_event_with_many_values_nothing_is_learned() {
    let event = |text: &str, ids: usize| {
        let ids: String = (0..ids).map(|id| format!(",\"id\":\"{id}\"")).collect();
        format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{ids}}}")
    };
    for (ids, is_learned) in [(MAX_HOLES - 1, true), (MAX_HOLES, false)] {
        let templates = learned(Kind::OpenAiChat, &event("Hel", ids), "Hel");
        let next = event("lo", ids);
        assert_eq!(templates.find(&StreamEvent::new("", next.as_bytes())).is_some(), is_learned, "{ids}");
    }
}

fn chunk(id: &str, text: &str) -> String {
    format!("{{\"id\":\"{id}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}")
}

fn finds(templates: &Templates, data: &str) -> Option<String> {
    let found = templates.find(&StreamEvent::new("", data.as_bytes()))?;
    Some(String::from_utf8(found.text.to_vec()).unwrap())
}

#[test]
fn a_value_that_may_differ_is_compared_until_it_has_differed() {
    let mut templates = learned(Kind::OpenAiChat, &chunk("a", "Hel"), "Hel");
    assert_eq!(finds(&templates, &chunk("a", "lo")).as_deref(), Some("lo"));
    assert_eq!(finds(&templates, &chunk("b", "lo")), None, "another id");
    let mut learn = |id: &str| {
        let said = Delta { choice: 0, channel: Channel::Text, text: "Hel".to_owned() };
        templates.learn(Kind::OpenAiChat, &StreamEvent::new("", chunk(id, "Hel").as_bytes()), &said, None);
        finds(&templates, &chunk("z", "lo"))
    };
    assert_eq!(learn("a"), None, "the same id again");
    assert_eq!(learn("b").as_deref(), Some("lo"));
    assert_eq!(learn("b").as_deref(), Some("lo"), "it has differed before");
}

#[test]
fn what_is_not_one_text_in_one_place_is_not_learned() {
    let twice = "{\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"x\":\"Hel\"}";
    assert!(learned(Kind::OpenAiChat, twice, "Hel").known.is_empty());
    let two = "{\"choices\":[{\"delta\":{\"content\":\"Hel\",\"reasoning\":\"x\"}}]}";
    assert!(learned(Kind::OpenAiChat, two, "Hel").known.is_empty());
    let elsewhere = "{\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"y\":\"Hel\"}";
    assert!(learned(Kind::OpenAiChat, elsewhere, "Hel").known.is_empty());
    let escaped = "{\"a\\u0062\":\"x\",\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}";
    assert!(learned(Kind::OpenAiChat, escaped, "Hel").known.is_empty(), "a key that is written in another way");
    let counted = "{\"choices\":[{\"delta\":{\"content\":\"Hel\"}}],\"prompt_tokens\":1,\"prompt_tokens\":2}";
    assert!(learned(Kind::OpenAiChat, counted, "Hel").known.is_empty(), "two numbers for one");
}

#[test]
fn an_event_is_learned_up_to_a_length() {
    let padded = |text: &str, length: usize| {
        let rest = chunk("a", text).len() + "{\"pad\":\"\",".len() - 1;
        chunk("a", text).replacen('{', &format!("{{\"pad\":\"{}\",", "x".repeat(length - rest)), 1)
    };
    for (length, is_learned) in [(MAX_EVENT, true), (MAX_EVENT + 1, false)] {
        let event = padded("Hel", length);
        assert_eq!(event.len(), length);
        let templates = learned(Kind::OpenAiChat, &event, "Hel");
        assert_eq!(finds(&templates, &padded("low", length)).is_some(), is_learned, "{length}");
    }
}

#[test]
fn at_most_four_forms_are_kept_and_the_oldest_goes() {
    let mut templates = Templates::default();
    let form =
        |number: u32, text: &str| format!("{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"n\":{number}}}");
    let mut learn = |number| {
        let said = Delta { choice: 0, channel: Channel::Text, text: "Hel".to_owned() };
        templates.learn(Kind::OpenAiChat, &StreamEvent::new("", form(number, "Hel").as_bytes()), &said, None);
        (1..7).filter(|number| finds(&templates, &form(*number, "lo")).is_some()).collect::<Vec<_>>()
    };
    for number in 1..4 {
        learn(number);
    }
    assert_eq!(learn(4), [1, 2, 3, 4]);
    assert_eq!(learn(5), [2, 3, 4, 5]);
    assert_eq!(learn(3), [2, 3, 4, 5], "it is known");
    assert_eq!(learn(6), [3, 4, 5, 6]);
}

#[test]
fn a_string_ends_at_its_quote_if_it_is_valid() {
    for (text, length) in [
        ("abc\"d", Some(3)),
        ("\"", Some(0)),
        ("a b\"", Some(3)),
        ("a\\\"b\"", Some(4)),
        ("\\u0041\"", Some(6)),
        ("\\ud83d\"", None),
        ("\\x\"", None),
        ("a\u{1f}b\"", None),
        ("abc", None),
        ("é\"", Some(2)),
    ] {
        assert_eq!((string(text.as_bytes()), long_string(text.as_bytes())), (length, length), "{text:?}");
    }
    assert_eq!(string(b"\xFF\""), None);
    let long = format!("{}\"", "x".repeat(2 * SHORT));
    assert_eq!(string(long.as_bytes()), Some(2 * SHORT));
}

#[test]
fn a_number_begins_with_no_zero_but_its_own() {
    for (text, count) in [
        ("0", Some(1)),
        ("0,", Some(1)),
        ("10", Some(2)),
        ("7x", Some(1)),
        ("00", None),
        ("01", None),
        ("", None),
        ("x", None),
    ] {
        assert_eq!(digits(text.as_bytes()), count, "{text}");
    }
    assert_eq!((number(b"12"), number(b"99999999999999999999999")), (Some(12), None));
}

#[test]
fn an_event_of_another_name_or_a_cut_one_is_not_taken_for_it() {
    let said = Delta { choice: 2, channel: Channel::Reasoning, text: "Hel".to_owned() };
    let mut templates = Templates::default();
    let data = chunk("a", "Hel");
    templates.learn(Kind::OpenAiChat, &StreamEvent::new("named", data.as_bytes()), &said, None);
    let next = chunk("a", "lo");
    let found = templates.find(&StreamEvent::new("named", next.as_bytes())).unwrap();
    let mut facts = Vec::new();
    found.facts(|fact| facts.push(fact));
    let [Fact::Delta { choice: 2, channel: Channel::Reasoning, text }] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!(text.decode(), "lo");
    assert!(templates.find(&StreamEvent::new("", next.as_bytes())).is_none());
    assert!(templates.find(&StreamEvent { shortened: true, ..StreamEvent::new("named", next.as_bytes()) }).is_none());
    assert!(templates.find(&StreamEvent { misplaced: true, ..StreamEvent::new("named", next.as_bytes()) }).is_none());
    assert!(templates.find(&StreamEvent::new("named", format!("{next} ").as_bytes())).is_none(), "more behind it");
    let stream = format!("event: named\ndata: {next}\n\nrest");
    let (event, found, length) = templates.find_in(stream.as_bytes(), LineEnding::Lf).unwrap();
    assert_eq!((event.name, found.text, length), ("named", &b"lo"[..], stream.len() - 4));
    assert!(templates.find_in(stream.as_bytes(), LineEnding::CrLf).is_none());
    let cut = format!("event: named\ndata: {next}\n");
    assert!(templates.find_in(cut.as_bytes(), LineEnding::Lf).is_none());
    let empty = chunk("a", "");
    assert!(templates.find(&StreamEvent::new("named", empty.as_bytes())).is_none(), "without a text it is no delta");
}

#[test]
fn what_an_event_cost_is_in_it() {
    let event = |text: &str, input: u32, output: u32| {
        format!(
            "{{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output}}}}}"
        )
    };
    let said = Delta { choice: 0, channel: Channel::Text, text: "Hel".to_owned() };
    let mut templates = Templates::default();
    let (data, usage) = (event("Hel", 3, 4), Usage::new(Some(3), Some(4)));
    templates.learn(
        Kind::OpenAiChat,
        &StreamEvent::new("", data.as_bytes()),
        &said,
        Some(Usage::new(Some(3), Some(5))),
    );
    assert!(templates.known.is_empty(), "it would say another number");
    templates.learn(Kind::OpenAiChat, &StreamEvent::new("", data.as_bytes()), &said, Some(usage));
    let next = event("lo", 7, 12);
    let found = templates.find(&StreamEvent::new("", next.as_bytes())).unwrap();
    assert_eq!(found.usage, Some(Usage::new(Some(7), Some(12))));
    let mut facts = Vec::new();
    found.facts(|fact| facts.push(fact));
    assert_eq!(facts.last(), Some(&Fact::Usage(Usage::new(Some(7), Some(12)))));
}
