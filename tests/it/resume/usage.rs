//! What an answer has cost that did not come in one piece.

use http::Request;
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::proto::dialect::Usage;
use tower_buttress::{Ending, ResumeLayer, StreamGuardLayer};

use super::restart::{ANTHROPIC, CHAT, leak, request, restarting};
use super::{Answer, Upstream, post, read, stream};
use crate::support::Step::{Data, Fail};

/// What the response's ending says: of the answer that the caller has, and of all that were made.
async fn costs(
    layer: ResumeLayer,
    request: Request<Full<bytes::Bytes>>,
    answers: [Answer; 2],
) -> (Option<Usage>, Option<Usage>, bool) {
    let upstream = Upstream::new(answers);
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(StreamGuardLayer::new())
        .service(service_fn(move |request| upstream.clone().answer(request)));
    let response = service.oneshot(request).await.unwrap();
    let ending = Ending::of(&response).unwrap().clone();
    let (_, error) = read(response).await;
    (ending.usage(), ending.total_usage(), error.is_none())
}

fn tokens(input: u64, output: u64) -> Option<Usage> {
    Some(Usage::new(Some(input), Some(output)))
}

/// Events of a message, with what it takes so far in the first one and in the last but one.
fn message(text: &str, so_far: u32, in_all: u32) -> Vec<String> {
    let mut events = ANTHROPIC.answer(text, 4);
    let [first, .., last, _] = &mut events[..] else { panic!("a message") };
    *first =
        first.replace("\"model\"", &format!("\"usage\":{{\"input_tokens\":7,\"output_tokens\":{so_far}}},\"model\""));
    *last = last.replace("\"delta\"", &format!("\"usage\":{{\"output_tokens\":{in_all}}},\"delta\""));
    events
}

fn cut(events: &[String]) -> Answer {
    stream(events.iter().map(|event| Data(leak(event.clone()))).chain([Fail("cut")]))
}

fn whole(events: Vec<String>) -> Answer {
    stream(events.into_iter().map(|event| Data(leak(event))))
}

#[tokio::test(start_paused = true)]
async fn of_an_answer_that_was_made_anew_both_are_billed() {
    let (first, second) = (message("The sea is calm", 1, 9), message("The sea is calm", 2, 12));
    let request = post(ANTHROPIC.path(), "{}");
    let told = costs(restarting(), request, [cut(&first[..4]), whole(second)]).await;
    assert_eq!(told, (tokens(7, 12), tokens(14, 13), true));
}

#[tokio::test(start_paused = true)]
async fn what_comes_in_one_frame_is_billed_too() {
    let (first, second) = (message("The sea is calm", 1, 9), message("The sea is calm", 2, 12));
    let second = stream([Data(leak(second.concat()))]);
    let told = costs(restarting(), post(ANTHROPIC.path(), "{}"), [cut(&first[..4]), second]).await;
    assert_eq!(told, (tokens(7, 12), tokens(14, 13), true));
}

#[tokio::test(start_paused = true)]
async fn of_one_that_was_not_right_too() {
    let (first, second) = (message("The sea is calm", 1, 9), message("The sky", 2, 12));
    let told = costs(restarting(), post(ANTHROPIC.path(), "{}"), [cut(&first[..4]), whole(second)]).await;
    assert_eq!(told, (tokens(7, 1), tokens(14, 3), false), "as far as it was read");
}

#[tokio::test(start_paused = true)]
async fn a_chat_tells_it_with_its_last_chunk() {
    let first = CHAT.answer("The sea is calm", 4);
    let mut second = first.clone();
    let done = second.pop().unwrap();
    second.push(
        "data: {\"id\":\"one\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":4}}\n\n".to_owned(),
    );
    second.push(done);
    let told = costs(restarting(), request(), [cut(&first[..3]), whole(second)]).await;
    assert_eq!(told, (tokens(7, 4), tokens(7, 4), true), "the first one has said nothing of it");
}

#[tokio::test(start_paused = true)]
async fn by_the_servers_cursor_it_is_one_answer() {
    let events = message("The sea is calm", 1, 9);
    let with_id = |(event, id): (&String, usize)| Data(leak(format!("id: {id}\n{event}")));
    let numbered: Vec<_> = events.iter().zip(1..).map(with_id).collect();
    let (had, rest) = numbered.split_at(4);
    let layer = ResumeLayer::new().resume_by(tower_buttress::ResumeBy::sse_id().resend(true));
    let answers = [stream(had.iter().cloned().chain([Fail("cut")])), stream(rest.iter().cloned())];
    let told = costs(layer, post(ANTHROPIC.path(), "{}"), answers).await;
    assert_eq!(told, (tokens(7, 9), tokens(7, 9), true));
}
