//! Servers that do not keep to what they say: the caller gets the first fault, and no text that is not of its answer.

use proptest::prelude::*;
use tower_buttress::{Memory, ResumeLayer};

use super::{Answer, FOUR, ONE, THREE, TWO, events, post, send, stream};
use crate::support::Step::{Data, Fail};

#[tokio::test(start_paused = true)]
async fn what_is_not_the_rest_is_not_handed_on() {
    let long = format!("id: {}\ndata: three\n\n", "3".repeat(5000)).leak();
    for (why, rest) in [
        ("begins anew", vec![Data(ONE), Data(TWO), Data(THREE)]),
        ("the last event again", vec![Data(TWO), Data(THREE)]),
        ("a gap", vec![Data(FOUR)]),
        ("other ids", vec![Data("id: run2-3\ndata: three\n\n")]),
        ("an id that cannot be kept", vec![Data(long)]),
        ("no ids", vec![Data("data: three\n\n")]),
        ("the beginning with the right id", vec![Data(": c\n\n"), Data(FOUR), Data(THREE)]),
    ] {
        let answers = [stream([Data(ONE), Data(TWO), Fail("cut")]), stream(rest)];
        let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
        assert_eq!(outcome.text.replace(": c\n\n", ""), [ONE, TWO].concat(), "{why}");
        assert_eq!(outcome.error.as_deref(), Some("cut"), "{why}");
        assert_eq!(outcome.events, ["not_resumed: contradicted"], "{why}");
        assert_eq!(outcome.asked.len(), 2, "it is not asked again");
    }
}

/// Nothing shows that it is the rest before an event of it is whole, however little may be withheld until then.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_withheld_until_it_is_known_for_the_rest_is_not_handed_on() {
    let half = |id: &str, bytes: usize| -> &'static str { format!("id: {id}\ndata: {}", "x".repeat(bytes)).leak() };
    let behind_a_comment: &'static str = format!(": c\n\n{}", half("1", 10_000)).leak();
    for (why, memory, rest) in [
        ("no memory", 8 * 1024, half("1", 10_000)),
        ("no memory, behind a comment", 8 * 1024, behind_a_comment),
        ("no memory for what may be the rest", 8 * 1024, half("3", 10_000)),
        ("an event that is too large", 16 * 1024 * 1024, half("1", 1024 * 1024)),
    ] {
        let rest = stream([Data(rest), Data("\n\n"), Data(TWO), Data(THREE)]);
        let memory = Memory::new(memory);
        let layer = ResumeLayer::new().memory(memory.clone());
        let outcome = send(layer, events("/events"), [stream([Data(ONE), Data(TWO), Fail("cut")]), rest]).await;
        assert_eq!(outcome.text.replace(": c\n\n", ""), [ONE, TWO].concat(), "{why}");
        assert_eq!(outcome.error.as_deref(), Some("cut"), "{why}");
        assert_eq!(outcome.events, ["not_resumed: not-comparable"], "{why}");
        assert_eq!(memory.used(), 0, "{why}");
    }
    // Behind its first event it is known for the rest.
    let layer = ResumeLayer::new().memory(Memory::new(8 * 1024));
    let rest = stream([Data(THREE), Data(half("4", 10_000)), Data("\n\n")]);
    let outcome = send(layer, events("/events"), [stream([Data(ONE), Data(TWO), Fail("cut")]), rest]).await;
    assert_eq!((outcome.text, outcome.error), ([ONE, TWO, THREE, half("4", 10_000), "\n\n"].concat(), None));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_follow_behind_the_first_right_event_is_a_fault_too() {
    let long = format!("id: {}\ndata: four\n\n", "4".repeat(5000)).leak();
    for wrong in ["id: 5\ndata: five\n\n", long] {
        let answers = [stream([Data(ONE), Data(TWO), Fail("cut")]), stream([Data(THREE), Data(wrong)])];
        let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), ([ONE, TWO, THREE].concat(), Some("cut")));
    }
}

#[tokio::test(start_paused = true)]
async fn ids_that_are_names_are_known_again() {
    let answers = [
        stream([Data("id: a\ndata: 1\n\n"), Data("id: c\ndata: 2\n\n"), Fail("cut")]),
        stream([Data("id: q\ndata: 3\n\nid: a\ndata: 1\n\n")]),
    ];
    let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
    assert!(!outcome.text.contains("id: q") && outcome.error.as_deref() == Some("cut"), "{}", outcome.text);
}

#[tokio::test(start_paused = true)]
async fn another_response_under_the_right_number_is_recognised_by_its_ids() {
    const CREATED: &str = "data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"background\":true}}\n\n";
    const ITEM: &str = "data: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"item\":{\"id\":\"msg_1\",\"type\":\"message\"}}\n\n";
    for (why, event) in [
        (
            "an item of another one",
            "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":2,\"item_id\":\"msg_9\",\"delta\":\"x\"}\n\n",
        ),
        (
            "another one",
            "data: {\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{\"id\":\"resp_9\"}}\n\n",
        ),
        ("no JSON", "data: {\"sequence_number\":2,\n\n"),
    ] {
        let answers = [stream([Data(CREATED), Data(ITEM), Fail("cut")]), stream([Data(event)])];
        let outcome = send(ResumeLayer::new(), post("/v1/responses", "{}"), answers).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), ([CREATED, ITEM].concat(), Some("cut")), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_from_another_place_are_seen() {
    const ROLE: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n";
    const HELLO: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
    for (why, rest) in [
        ("from the start", vec![Data(ROLE), Data(HELLO)]),
        ("the last event again", vec![Data(HELLO)]),
        ("from the middle of an event", vec![Data("\"delta\":{\"content\":\"x\"}}]}\n\n"), Data(HELLO)]),
        (
            "of another conversation",
            vec![Data("data: {\"id\":\"d\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n")],
        ),
        ("no JSON", vec![Data("data: x\n\n")]),
    ] {
        let mut request = post("/v1/chat/completions", "{}");
        request.headers_mut().insert("x-conversation-id", "c".parse().unwrap());
        let outcome =
            send(ResumeLayer::new(), request, [stream([Data(ROLE), Data(HELLO), Fail("cut")]), stream(rest)]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), ([ROLE, HELLO].concat(), Some("cut")), "{why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever a server that numbers its events sends when it is asked for the rest.
    #[test]
    fn events_come_once_each_and_in_their_order(
        first in 1..6_usize, rests in proptest::collection::vec(proptest::collection::vec(1..12_usize, 0..6), 1..5),
        honest in any::<bool>(), size in 1..40_usize,
    ) {
        let answer = |ids: &[usize]| {
            let text: &'static str = ids.iter().map(|id| format!("id: {id}\ndata: {id}\n\n")).collect::<String>().leak();
            let pieces = text.as_bytes().chunks(size).map(|piece| Data(std::str::from_utf8(piece).unwrap()));
            stream(pieces.chain([Fail("cut")]))
        };
        let mut next = first + 1;
        let mut answers = vec![answer(&(1..=first).collect::<Vec<_>>())];
        for rest in &rests {
            let right: Vec<usize> = (next..next + rest.len()).collect();
            next += rest.len();
            answers.push(answer(if honest { &right } else { rest }));
        }
        answers.push(Answer::Status(404, ""));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let outcome = runtime.block_on(send(ResumeLayer::new(), events("/events"), answers));
        let ids: Vec<usize> = outcome.text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
        let expected: Vec<usize> = (1..=ids.len()).collect();
        prop_assert_eq!(&ids, &expected);
        prop_assert!(ids.len() >= first && outcome.error.is_some());
        let empty_in_a_row = rests.split(|rest| !rest.is_empty()).map(<[_]>::len).max().unwrap_or_default();
        prop_assert!(!honest || empty_in_a_row >= 3 || ids.len() == next - 1, "an honest server is believed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rest_of_nothing_does_not_make_a_whole() {
    for (why, nothing) in [("no byte", vec![]), ("a comment", vec![Data(": here\n\n")])] {
        let broken = stream([Data(ONE), Data(TWO), Fail("cut")]);
        let answers = std::iter::once(broken).chain(std::iter::repeat_n(stream(nothing), 3));
        let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
        assert_eq!(outcome.text.replace(": here\n\n", ""), [ONE, TWO].concat(), "{why}");
        assert_eq!(
            outcome.error.as_deref(),
            Some("cut"),
            "{why}: a server that has forgotten the stream answers like that"
        );
    }
}
