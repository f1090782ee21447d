use std::cell::Cell;

use super::super::withheld::MAX_EVENT;
use super::*;

const CHUNK: &str = r#"{"id":"c1","model":"m","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}"#;
const STOP: &str = r#"{"id":"c1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

fn follow(by: ResumeBy) -> StreamFollower {
    StreamFollower::new(Some(Recognised { by, in_background: false }), None, None)
}

fn chat(remember: Option<usize>) -> StreamFollower {
    let by = Recognised { by: ResumeBy::sse_id(), in_background: false };
    StreamFollower::new(Some(by), Some(Kind::OpenAiChat), remember)
}

fn anew() -> StreamFollower {
    StreamFollower::new(None, Some(Kind::OpenAiChat), Some(64 * 1024))
}

/// What is done with bytes, where all may be withheld.
fn feed(follower: &mut StreamFollower, bytes: &str) -> String {
    said(follower.read(&Bytes::copy_from_slice(bytes.as_bytes()), |_| true))
}

fn said(read: Followed) -> String {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    match read {
        Followed::All => "all".to_owned(),
        Followed::Part(bytes) => format!("part {}", text(bytes)),
        Followed::Aside(bytes, why) => format!("{why:?} {}", text(bytes)),
        Followed::Wrong(reason) => format!("wrong {reason}"),
    }
}

fn position(follower: &StreamFollower) -> Option<String> {
    follower.position().map(|mark| mark.text)
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

fn text(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    )
}

fn second(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c2\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    )
}

/// `one` was read, and the stream broke off.
fn broken(mut follower: StreamFollower, one: &str) -> StreamFollower {
    assert!(feed(&mut follower, one).starts_with("all"), "{one}");
    follower.begin_rest();
    follower
}

const CONTRADICTED: &str = "wrong the upstream did not send the rest of the same answer";

#[test]
fn whole_events_pass_and_set_the_cursor() {
    let mut follower = follow(ResumeBy::sse_id());
    assert_eq!(position(&follower), None, "nothing was handed on");
    assert_eq!(feed(&mut follower, &event("1", "a")), "all");
    assert_eq!(position(&follower).as_deref(), Some("1"));
    assert_eq!(feed(&mut follower, &(event("2", "b") + &event("3", "c"))), "all");
    assert_eq!(position(&follower).as_deref(), Some("3"));
    assert_eq!(feed(&mut follower, ": a comment\n"), "all");
    assert_eq!(position(&follower).as_deref(), Some("3"), "a comment is no event");
    assert_eq!(feed(&mut follower, "id: 4\n\n"), "all");
    assert_eq!(position(&follower).as_deref(), Some("4"), "an id needs no data");
    assert_eq!(feed(&mut follower, "data: without an id\n\n"), "all");
    assert_eq!(position(&follower), None, "the last event is not at the cursor");
    assert!(!follower.is_rest() && follower.id().is_empty());
    assert_eq!(follower.by(), Some(&ResumeBy::sse_id()));
    assert!(StreamFollower::new(None, None, None).by().is_none());
}

#[test]
fn an_event_is_withheld_until_it_is_whole() {
    let mut follower = follow(ResumeBy::sse_id());
    assert_eq!(feed(&mut follower, "id: 1\nda"), "part ");
    assert_eq!(position(&follower), None);
    assert_eq!(feed(&mut follower, "ta: a\n\nid: 2"), "part id: 1\ndata: a\n\n");
    assert_eq!(position(&follower).as_deref(), Some("1"));
    assert_eq!(feed(&mut follower, "\ndata: b\n\n"), "part id: 2\ndata: b\n\n");
    assert_eq!(feed(&mut follower, &(event("3", "c") + "data: d")), format!("part {}", event("3", "c")));
    assert_eq!(follower.take_held(), "data: d");
    assert_eq!(follower.take_held(), "");
}

#[test]
fn a_line_feed_belongs_to_the_carriage_return_before_it() {
    let mut follower = follow(ResumeBy::bytes());
    assert_eq!(feed(&mut follower, "data: a\r\n\r"), "all");
    assert_eq!(position(&follower).as_deref(), Some("10"));
    assert_eq!(feed(&mut follower, "\ndata: b\r\n"), "part \n");
    assert_eq!(position(&follower).as_deref(), Some("11"));
    assert_eq!(feed(&mut follower, "\r\ndata: c\r\n\r\n"), "part data: b\r\n\r\ndata: c\r\n\r\n");
    assert_eq!(position(&follower).as_deref(), Some("33"));
    assert_eq!(feed(&mut follower, "data: d\r\n\r\n"), "all");
    assert_eq!(position(&follower).as_deref(), Some("44"));
    let mut follower = follow(ResumeBy::bytes());
    assert_eq!(feed(&mut follower, "data: a\n"), "part ");
    assert_eq!(feed(&mut follower, "\nx"), "part data: a\n\n", "that is a line of its own");
    assert_eq!(follower.take_held(), "x");
}

#[test]
fn what_may_not_be_withheld_passes_and_is_followed_no_longer() {
    let asked = Cell::new(None);
    let mut follower = follow(ResumeBy::sse_id());
    let read = follower.read(&Bytes::from_static(b"data: a\n\ndata: b"), |bytes| {
        asked.set(Some(bytes));
        false
    });
    assert_eq!((said(read).as_str(), asked.get()), ("TooLarge data: a\n\ndata: b", Some(7)));
    let mut follower = follow(ResumeBy::sse_id());
    let most = format!("data: {}", "x".repeat(MAX_EVENT - 6));
    assert_eq!(feed(&mut follower, &most), "part ");
    assert_eq!(feed(&mut follower, "y"), format!("TooLarge {most}y"));
}

#[test]
fn an_answer_that_is_to_be_made_in_the_background_says_so_first() {
    let by = || Some(Recognised { by: ResumeBy::sse_id(), in_background: true });
    let begun = |background: bool| {
        format!("data: {{\"type\":\"response.created\",\"response\":{{\"id\":\"r\",\"background\":{background}}}}}\n\n")
    };
    let mut follower = StreamFollower::new(by(), None, None);
    assert_eq!(feed(&mut follower, ": a comment\n"), "all");
    assert_eq!(feed(&mut follower, &begun(true)), "all");
    assert_eq!(feed(&mut follower, "data: {}\n\n"), "all", "it is asked once");
    for first in [begun(false), "data: {}\n\n".to_owned()] {
        let mut follower = StreamFollower::new(by(), None, None);
        assert_eq!(feed(&mut follower, &first), format!("NotResumable {first}"));
    }
}

#[test]
fn an_answer_that_failed_is_not_continued() {
    for remember in [None, Some(1024)] {
        let mut follower = chat(remember);
        assert_eq!(feed(&mut follower, &event("1", CHUNK)), "all");
        assert_eq!((position(&follower).as_deref(), follower.id()), (Some("1"), "c1"));
        assert!(!follower.may_end());
        assert_eq!(feed(&mut follower, &event("2", r#"{"error":{"message":"x","code":500}}"#)), "all");
        assert_eq!(position(&follower), None);
        assert!(follower.may_end(), "its error is its end");
    }
}

#[test]
fn the_rest_goes_on_behind_the_cursor() {
    let mut follower = broken(follow(ResumeBy::sse_id()), &event("1", "a"));
    assert!(follower.is_rest() && !follower.may_end() && !follower.take_progress());
    assert_eq!(feed(&mut follower, ": a comment\n"), "all");
    assert!(!follower.take_progress() && !follower.may_end(), "a comment proves nothing");
    assert_eq!(feed(&mut follower, &event("2", "b")), "all");
    assert!(follower.take_progress() && follower.may_end());
    assert!(!follower.take_progress(), "since it was last asked");
    assert_eq!(position(&follower).as_deref(), Some("2"));
    assert_eq!(feed(&mut follower, "data: without an id\n\n"), "all", "it is known for the rest by now");
    assert_eq!(position(&follower), None);
    for wrong in [event("1", "a"), event("3", "c"), "data: b\n\n".to_owned()] {
        let mut follower = broken(follow(ResumeBy::sse_id()), &event("1", "a"));
        assert_eq!(feed(&mut follower, &wrong), CONTRADICTED, "{wrong}");
    }
    let mut follower = broken(follow(ResumeBy::sse_id()), &event("1", "a"));
    let too_long = "9".repeat(5_000);
    assert_eq!(feed(&mut follower, &event(&too_long, "b")), CONTRADICTED);
}

#[test]
fn what_was_withheld_when_the_stream_broke_is_not_in_the_rest() {
    let mut follower = follow(ResumeBy::sse_id());
    assert_eq!(feed(&mut follower, &(event("1", "a") + "id: 2\ndata: ")), format!("part {}", event("1", "a")));
    follower.begin_rest();
    assert_eq!(feed(&mut follower, &event("2", "b")), "all");
}

#[test]
fn a_byte_order_mark_before_the_rest_is_left_out() {
    let rest = event("2", "b");
    let mut follower = broken(follow(ResumeBy::sse_id()), &format!("\u{FEFF}{}", event("1", "a")));
    assert_eq!(feed(&mut follower, &format!("\u{FEFF}{rest}")), format!("part {rest}"));
    let mut follower = broken(follow(ResumeBy::sse_id()), &event("1", "a"));
    assert_eq!(feed(&mut follower, &format!("\u{FEFF}{rest}{}", &rest[..5])), format!("part {rest}"));
    assert_eq!(feed(&mut follower, "\ndata: c\n\n"), CONTRADICTED, "the same id");
}

#[test]
fn the_rest_behind_a_number_of_bytes_begins_with_a_line() {
    let first = text("a");
    let by = || Some(Recognised { by: ResumeBy::bytes(), in_background: false });
    let mut follower = broken(StreamFollower::new(by(), Some(Kind::OpenAiChat), None), &first);
    assert_eq!(position(&follower), Some(first.len().to_string()));
    assert_eq!(feed(&mut follower, "ntent\":\"\"}\n\n"), CONTRADICTED, "in the middle of a line");
    let mut follower = broken(StreamFollower::new(by(), Some(Kind::OpenAiChat), None), &first);
    assert_eq!(feed(&mut follower, &first), CONTRADICTED, "it begins anew");
    let mut follower = broken(StreamFollower::new(by(), Some(Kind::OpenAiChat), None), &first);
    assert_eq!(feed(&mut follower, &second("b")), CONTRADICTED, "another answer");
    let mut follower = broken(StreamFollower::new(by(), Some(Kind::OpenAiChat), None), &first);
    assert_eq!(feed(&mut follower, &text("b")), "all");
    assert!(follower.take_progress());
    assert_eq!(feed(&mut follower, &first), "all", "it has gone on, and may say the same again");
    assert_eq!(position(&follower), Some((2 * first.len() + text("b").len()).to_string()));
}

#[test]
fn another_answer_or_what_is_in_no_dialect_is_not_the_rest() {
    for remember in [None, Some(64 * 1024)] {
        let mut follower = broken(chat(remember), &event("1", CHUNK));
        assert_eq!(feed(&mut follower, &event("2", &CHUNK.replace("c1", "c2"))), CONTRADICTED);
        let mut follower = broken(chat(remember), &event("1", CHUNK));
        assert_eq!(feed(&mut follower, &event("2", "<html>")), CONTRADICTED);
        let mut follower = chat(remember);
        assert_eq!(
            feed(&mut follower, &(event("1", CHUNK) + &event("2", "<html>"))),
            "all",
            "no matter in the original"
        );
    }
}

#[test]
fn a_marker_alone_closes_only_what_had_ended() {
    let mut follower = broken(chat(None), &event("1", CHUNK));
    assert_eq!(feed(&mut follower, "data: [DONE]\n\n"), CONTRADICTED);
    let mut follower = chat(None);
    assert_eq!(feed(&mut follower, &(event("1", CHUNK) + &event("2", STOP))), "all");
    follower.begin_rest();
    assert_eq!(feed(&mut follower, "data: [DONE]\n\n"), "all");
    assert!(!follower.take_progress() && follower.has_ended() && follower.is_over() && follower.may_end());
    assert_eq!(follower.ended(), Some(End::Whole));
    assert_eq!(position(&follower), None, "it is at no cursor");
}

#[test]
fn a_stream_may_end_between_events_and_behind_its_reason() {
    let mut follower = chat(None);
    assert_eq!(feed(&mut follower, &event("1", CHUNK)), "all");
    assert!(!follower.may_end() && !follower.has_ended() && !follower.is_over() && follower.ended().is_none());
    assert_eq!(feed(&mut follower, "data: [DONE]\n\n"), "all");
    assert!(follower.is_over() && !follower.has_ended() && follower.may_end(), "closed without a reason");
    let mut follower = chat(None);
    assert_eq!(feed(&mut follower, &(event("1", CHUNK) + &event("2", STOP))), "all");
    let _ = feed(&mut follower, "data: {\"choi");
    assert!(!follower.may_end() && !follower.has_ended() && !follower.is_over(), "another choice has begun");

    for (held, may_end) in [("", true), (" \n", true), (": a comm", true), ("data: x", false), ("x", false)] {
        let mut follower = follow(ResumeBy::sse_id());
        assert_eq!(feed(&mut follower, "data: a\n\n"), "all");
        let _ = feed(&mut follower, held);
        assert_eq!(follower.may_end(), may_end, "{held}");
    }
}

#[test]
fn the_last_wait_that_the_server_asked_for_counts() {
    let mut follower = follow(ResumeBy::sse_id());
    assert_eq!(follower.reconnection_time(), None);
    assert_eq!(feed(&mut follower, "retry: 250\n\n"), "all");
    assert_eq!(feed(&mut follower, &event("1", "a")), "all");
    assert_eq!(follower.reconnection_time(), Some(Duration::from_millis(250)));
    assert_eq!(feed(&mut follower, "retry: 7\n\n"), "all");
    assert_eq!(follower.reconnection_time(), Some(Duration::from_millis(7)));
}

#[test]
fn only_the_tokens_of_what_came_after_a_cut_are_reported() {
    let usage = |output: u64| {
        let data = format!(
            "{{\"id\":\"c1\",\"choices\":[],\"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":{output}}}}}"
        );
        event(&output.to_string(), &data)
    };
    for remember in [None, Some(1024)] {
        let mut follower = broken(chat(remember), &usage(1));
        assert_eq!(follower.take_usage(), None);
        assert_eq!(feed(&mut follower, &usage(2)), "all");
        assert_eq!(follower.take_usage(), Some(Usage::new(Some(5), Some(2))));
        assert_eq!(follower.take_usage(), None);
    }
}

#[test]
fn what_can_be_compared_is_known() {
    let mut follower = anew();
    assert_eq!(feed(&mut follower, &text("a")), "all");
    assert!(follower.is_comparable());
    assert_eq!(feed(&mut follower, &text("b").replace("\"content\":\"b\"", "\"audio\":{\"id\":\"a\"}")), "all");
    assert!(!follower.is_comparable(), "something that is no text");
    let mut follower = anew();
    assert_eq!(feed(&mut follower, &(text("a") + "data: {\"error\":{\"message\":\"x\"}}\n\n")), "all");
    assert!(!follower.is_comparable(), "it failed");
    let mut follower = anew();
    assert_eq!(feed(&mut follower, &(text("a") + "data: <html>\n\n")), "all");
    assert!(!follower.is_comparable(), "in no dialect");
    let mut follower = StreamFollower::new(None, Some(Kind::OpenAiChat), None);
    assert_eq!(feed(&mut follower, &text("a")), "all");
    assert!(!follower.is_comparable(), "it was not remembered");
    let mut follower = StreamFollower::new(None, Some(Kind::OpenAiChat), Some(3));
    assert_eq!(feed(&mut follower, &text("a")), "all");
    assert!(follower.is_comparable());
    assert_eq!(feed(&mut follower, &text("b")), "all");
    assert!(!follower.is_comparable(), "more than is remembered");
    let mut follower = StreamFollower::new(None, None, Some(1024));
    assert_eq!(feed(&mut follower, "data: a\n\n"), "all");
    assert!(!follower.is_comparable(), "an unknown dialect");
}

fn made_anew(first: &str, other_model: bool, is_foreign: bool) -> StreamFollower {
    let mut follower = anew();
    assert_eq!(feed(&mut follower, first), "all");
    follower.begin_restart(other_model, is_foreign);
    assert!(follower.is_rest() && follower.by().is_none());
    follower
}

#[test]
fn of_a_second_answer_only_what_goes_on_is_forwarded() {
    let mut follower = made_anew(&(text("The sea") + &text(" is")), false, false);
    assert!(!follower.may_end() && !follower.is_over() && !follower.is_comparable());
    assert_eq!(feed(&mut follower, &format!("\u{FEFF}{}", second("The"))), "part ");
    assert!(!follower.take_progress());
    assert_eq!(feed(&mut follower, &second(" sea is")), "part ", "as far as the first one");
    assert!(!follower.take_progress(), "nothing of it is new");
    let calm = second(" calm");
    let (half, other) = calm.split_at(20);
    assert_eq!(feed(&mut follower, half), "part ");
    assert_eq!(feed(&mut follower, other), format!("part {}", calm.replace("c2", "c1")), "under the first one's id");
    assert!(follower.take_progress());
    assert_eq!(feed(&mut follower, &(second(".") + &second("!"))), format!("part {}{}", text("."), text("!")));
    assert!(!follower.may_end(), "no reason yet");
    assert_eq!(
        feed(&mut follower, &format!("data: {}\n\n", STOP.replace("c1", "c2"))),
        format!("part data: {STOP}\n\n")
    );
    assert!(follower.may_end() && follower.has_ended());
}

#[test]
fn a_second_answer_is_cut_where_the_first_one_was() {
    let mut follower = made_anew(&text("The sea"), false, false);
    let forwarded = feed(&mut follower, &second("The sea is calm"));
    let shown: serde_json::Value = serde_json::from_str(forwarded.strip_prefix("part data: ").unwrap()).unwrap();
    assert_eq!(shown["choices"][0]["delta"]["content"], " is calm");
    assert_eq!(shown["id"], "c1");
    assert!(follower.take_progress());
}

#[test]
fn a_second_answer_that_is_none_is_reported() {
    let diverged = "wrong the new answer does not begin with the caller's part";
    let other_model = "wrong another model gave the new answer";
    let not_comparable = "wrong the caller's part cannot be compared with another answer";
    let first = text("The sea");
    let mut follower = made_anew(&first, false, false);
    assert_eq!(feed(&mut follower, &second("The sky")), diverged);
    let mut follower = made_anew(&first, false, false);
    assert_eq!(feed(&mut follower, "data: <html>\n\n"), diverged);
    let mut follower = made_anew(&first, false, false);
    assert_eq!(feed(&mut follower, "data: {\"error\":{\"message\":\"x\"}}\n\n"), diverged);
    let mut follower = made_anew(&first, false, false);
    assert_eq!(feed(&mut follower, &second("The").replace("\"m\"", "\"n\"")), other_model);
    let mut follower = made_anew(&first, false, true);
    assert_eq!(feed(&mut follower, &second("The")), other_model, "from another upstream");
    let mut follower = made_anew(&first, false, false);
    let reason = r#""finish_reason":"stop""#;
    let ended = second("The").replace("}}]}", &format!("}},{reason}}}]}}"));
    assert_eq!(feed(&mut follower, &ended), diverged, "it ended too early");
    let mut follower = made_anew(&first, false, false);
    let tool = second("x").replace("\"content\":\"x\"", "\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"f\"}}]");
    assert_eq!(feed(&mut follower, &tool), not_comparable);
    let mut follower = made_anew(&first, false, false);
    let read = follower.read(&Bytes::from_static(b"data: half of an event"), |_| false);
    assert_eq!(said(read), not_comparable, "what is withheld may not be shown before it was compared");
    let mut follower = made_anew(&first, false, false);
    assert_eq!(feed(&mut follower, &second("The sea")), "part ");
    let read = follower.read(&Bytes::from_static(b"data: half of an event"), |_| false);
    assert_eq!(said(read), "TooLarge data: half of an event", "behind it, it may");
}

#[test]
fn another_model_goes_on_where_enough_was_the_same() {
    let enough = "x".repeat(200);
    let other = |text: &str| second(text).replace("\"m\"", "\"n\"");
    let mut follower = made_anew(&text(&enough), true, true);
    assert_eq!(feed(&mut follower, &other(&enough)), "part ");
    assert!(feed(&mut follower, &other("y")).starts_with("part data: "));
    let mut follower = made_anew(&text(&enough), false, false);
    assert_eq!(feed(&mut follower, &other(&enough)), "wrong another model gave the new answer");
    let mut follower = made_anew(&text(&enough[1..]), true, false);
    assert_eq!(feed(&mut follower, &other(&enough)), "wrong another model gave the new answer", "199 characters");
}

#[test]
fn the_error_of_a_cut_is_in_the_streams_dialect() {
    let mut follower = chat(None);
    assert_eq!(feed(&mut follower, &event("1", CHUNK)), "all");
    let expected = StreamTruncated::new(Some(Kind::OpenAiChat), 0);
    assert_eq!(follower.truncated().body(), expected.body());
    let mut responses = StreamFollower::new(None, Some(Kind::OpenAiResponses), None);
    let begun = "data: {\"type\":\"response.created\",\"sequence_number\":4,\"response\":{\"id\":\"r\"}}\n\n";
    assert_eq!(feed(&mut responses, begun), "all");
    let expected = StreamTruncated::new(Some(Kind::OpenAiResponses), 5);
    let lf = crate::proto::sse::LineEnding::Lf;
    assert_eq!(responses.truncated().frame(lf), expected.frame(lf));
}
