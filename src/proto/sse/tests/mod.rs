//! Event streams: the scanner and the parser against a model, on every cut.

mod model;
mod rules;
mod streams;

use proptest::collection::vec;
use proptest::prelude::*;

use self::streams::stream;
use super::{Item, Parser};

fn text() -> impl Strategy<Value = String> {
    stream().prop_map(|stream| String::from_utf8_lossy(&stream).into_owned())
}

fn cuts() -> impl Strategy<Value = Vec<u16>> {
    vec(any::<u16>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_leaves_the_scanner_in_the_same_state(stream in stream(), cuts in cuts()) {
        rules::the_scanner_follows_any_cut(&stream, &cuts);
    }

    #[test]
    fn any_cut_gives_the_same_events(stream in stream(), cuts in cuts()) {
        rules::the_parser_reads_what_the_model_reads(&stream, &cuts, None);
    }

    #[test]
    fn what_is_too_large_is_left_out_and_never_held(text in text(), cuts in cuts(), limit in 0_usize..12) {
        rules::the_parser_reads_what_the_model_reads(text.as_bytes(), &cuts, Some(limit));
    }

    #[test]
    fn what_is_inserted_where_the_scanner_allows_it_does_no_harm(stream in stream(), cuts in cuts()) {
        rules::insertions_do_no_harm(&stream, &cuts);
    }
}

#[test]
fn every_single_cut_and_every_byte_alone() {
    let stream =
        "\u{FEFF}: c\r\n\r\nid: 1\revent: e\ndata\rdata:  b\r\n\nretry: 5\n\u{FEFF}data: x\r\rid: \0\ndata: é\n\n";
    let stream = stream.as_bytes();
    let everywhere: Vec<u16> = (0..).take(stream.len()).collect();
    rules::the_scanner_follows_any_cut(stream, &everywhere);
    rules::the_parser_reads_what_the_model_reads(stream, &everywhere, None);
    for cut in everywhere {
        rules::the_parser_reads_what_the_model_reads(stream, &[cut], None);
        rules::insertions_do_no_harm(stream, &[cut & !3, cut]);
    }
}

/// What a parser finds: `type|data|id`, or the other items.
#[track_caller]
fn check(stream: &str, expected: &[&str]) {
    rules::the_parser_reads_what_the_model_reads(stream.as_bytes(), &[], None);
    let mut parser = Parser::new();
    let mut rest = stream.as_bytes();
    let mut found = Vec::new();
    while let Some(item) = parser.next(&mut rest) {
        found.push(match item {
            Item::Message(message) => format!("{}|{}|{}", message.event_type, message.data, message.last_event_id),
            Item::Retry(after) => format!("{after:?}"),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(found, expected);
}

#[test]
fn the_examples_of_the_standard() {
    check(
        "data: This is the first message.\n\ndata: This is the second message, it\ndata: has two lines.\n\ndata: This is the third message.\n\n",
        &[
            "message|This is the first message.|",
            "message|This is the second message, it\nhas two lines.|",
            "message|This is the third message.|",
        ],
    );
    check("event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", &["add|73857293|", "remove|2153|"]);
    check("data: YHOO\ndata: +2\ndata: 10\n\n", &["message|YHOO\n+2\n10|"]);
    check(
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        &["message|first event|1", "message|second event|", "message| third event|"],
    );
    check("data\n\ndata\ndata\n\ndata:", &["message||", "message|\n|"]);
    check("data:test\n\ndata: test\n\n", &["message|test|", "message|test|"]);
}

#[test]
fn the_last_type_counts_and_an_empty_one_is_message() {
    check("event: a\nevent: b\ndata: x\n\n", &["b|x|"]);
    check("event: a\nevent\ndata: x\n\n", &["message|x|"]);
    check("event: a\n\ndata: x\n\n", &["message|x|"]);
}

#[test]
fn an_id_lasts_until_the_next_and_is_committed_without_data() {
    check("id: 1\ndata: a\n\ndata: b\n\n", &["message|a|1", "message|b|1"]);
    check("id: 1\n\ndata: b\n\n", &["message|b|1"]);
    check("id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", &["message|a|1", "message|b|1"]);
}

#[test]
fn retry_takes_digits_only() {
    check("retry: 1500\n", &["1.5s"]);
    for none in [
        "retry\n",
        "retry:\n",
        "retry: +5\n",
        "retry: -5\n",
        "retry: 1.5\n",
        "retry: 5 \n",
        "retry:  5\n",
        "retry: ٣\n",
    ] {
        check(none, &[]);
    }
    check("data: a\nretry: 0\n\n", &["0ns", "message|a|"]);
    check("retry: 99999999999999999999\n", &["18446744073709551.615s"]);
}

#[test]
fn what_is_not_utf8_is_replaced() {
    let mut parser = Parser::new();
    let item = parser.next(&mut &b"event: \xFF\ndata: a\xE2\x82\ndata: b\n\n"[..]);
    assert!(matches!(item, Some(Item::Message(m)) if m.event_type == "\u{FFFD}" && m.data == "a\u{FFFD}\nb"));
}

#[test]
fn the_lf_between_two_lines_counts_towards_the_limit() {
    for (limit, stream) in [(0, "data\n\n"), (0, "data\ndata\n\n"), (1, "data:a\ndata\n\n"), (2, "data:a\ndata\n\n")] {
        rules::the_parser_reads_what_the_model_reads(stream.as_bytes(), &[], Some(limit));
    }
}

#[test]
fn a_line_without_end_takes_no_memory() {
    for start in ["data: ", "event: ", "id: ", ": ", "x", "retry: "] {
        let mut parser = Parser::new().limit(1000);
        assert_eq!(parser.next(&mut start.as_bytes()), None);
        for _ in 0..1000 {
            assert_eq!(parser.next(&mut &[b'9'; 100][..]), None);
        }
        assert!(parser.buffered() <= 1000, "{start}");
        let mut rest: &[u8] = b"\n\ndata: next\n\n";
        let found: Vec<bool> =
            std::iter::from_fn(|| Some(matches!(parser.next(&mut rest)?, Item::Message(_)))).collect();
        let lost = ["data: ", "event: ", "id: ", "retry: "].contains(&start);
        assert_eq!(found, if lost { vec![false, true] } else { vec![true] }, "{start}");
    }
}
