//! A server that does not give out what follows its own cursor: another answer may begin alike.

use http::Request;
use http_body_util::Full;
use tower_buttress::proto::dialect::{End, Kind};
use tower_buttress::{ResumeBy, ResumeLayer};

use super::restart::{CHAT, cut, heard, restarting, whole};
use super::{Answer, Outcome, post, send, stream};
use crate::support::Step::{Data, Fail};

const TEXT: &str = "The sea is calm tonight";

/// A chat with a server of which the rest can be had by the bytes of the stream.
fn request() -> Request<Full<bytes::Bytes>> {
    let mut request = post(CHAT.path(), "{\"stream\":true}");
    request.headers_mut().insert("x-conversation-id", "c".parse().unwrap());
    request
}

/// The first events, as a frame each, and then a break.
fn broken() -> (String, Answer) {
    let first = CHAT.answer(TEXT, 4);
    (first[..3].concat(), cut(first, 3))
}

fn again() -> Answer {
    whole(CHAT.with("two").answer(TEXT, 5))
}

fn methods(outcome: &Outcome) -> Vec<&str> {
    outcome.asked.iter().map(|asked| asked.method.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_made_anew_where_that_may_be() {
    for refusal in [400, 404, 405, 410, 412, 416, 422].map(|status| Answer::Status(status, "")) {
        let outcome = send(restarting(), request(), [broken().1, refusal, again()]).await;
        assert_eq!(heard(Kind::OpenAiChat, &outcome.text), (TEXT.to_owned(), Some(End::Whole)));
        assert_eq!((outcome.error.as_deref(), methods(&outcome)), (None, vec!["POST", "GET", "POST"]));
        assert_eq!(outcome.events, ["stream_resumed: verified-restart"]);
        assert_eq!(outcome.asked[0].body, outcome.asked[2].body);
    }
}

#[tokio::test(start_paused = true)]
async fn where_it_may_not_be_the_caller_gets_the_first_fault() {
    for (layer, refusal) in [
        (ResumeLayer::new(), 404),
        (restarting().enabled(true).max_prefix(2), 404),
        // Nothing would be answered to this credential.
        (restarting(), 401),
        (restarting(), 402),
        (restarting(), 403),
        (restarting(), 407),
        // It says that nothing is to come, or does not say what was asked.
        (restarting(), 204),
        (restarting(), 200),
    ] {
        let (had, first) = broken();
        let outcome = send(layer, request(), [first, Answer::Status(refusal, "")]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), (had, Some("cut")), "{refusal}");
        assert_eq!((outcome.asked.len(), &outcome.events[..]), (2, &["not_resumed: refused".to_owned()][..]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_answer_that_is_not_right_leaves_the_first_fault() {
    for second in [whole(CHAT.answer("The sky", 2)), Answer::Status(503, ""), Answer::Lost, stream([Fail("again")])] {
        let (had, first) = broken();
        let outcome = send(restarting(), request(), [first, Answer::Status(410, ""), second]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), (had, Some("cut")));
        assert_eq!(outcome.asked.len(), 3, "{:?}", outcome.events);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cursor_has_brought_before_counts() {
    let first = CHAT.answer(TEXT, 4);
    let rest: Vec<_> = first[3..5].iter().map(|event| Data(event.clone().leak())).chain([Fail("again")]).collect();
    let answers = [cut(first, 3), stream(rest), Answer::Status(416, ""), again()];
    let outcome = send(restarting(), request(), answers).await;
    assert_eq!(heard(Kind::OpenAiChat, &outcome.text), (TEXT.to_owned(), Some(End::Whole)));
    assert_eq!((outcome.error.as_deref(), methods(&outcome)), (None, vec!["POST", "GET", "GET", "POST"]));
    assert_eq!(outcome.events, ["stream_resumed: cursor", "stream_resumed: verified-restart"]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_the_operators_own_may_be_refused_too() {
    let with_id = |event: &String, id: usize| Data(format!("id: {id}\n{event}").leak());
    let first = CHAT.answer(TEXT, 4);
    let steps = first[..3].iter().zip(1..).map(|(event, id)| with_id(event, id));
    let answers = [stream(steps.chain([Fail("cut")])), Answer::Status(404, ""), again()];
    let layer = restarting().resume_by(ResumeBy::sse_id().resend(true));
    let outcome = send(layer, post(CHAT.path(), "{}"), answers).await;
    assert_eq!(heard(Kind::OpenAiChat, &outcome.text), (TEXT.to_owned(), Some(End::Whole)));
    assert_eq!((outcome.error, outcome.asked.len()), (None, 3));
}
