//! Events whose structure alone is too large to be looked at: what they say is not known.

use http::Method;
use tower_buttress::error::{StreamTruncated, find};
use tower_buttress::proto::dialect::End;
use tower_buttress::{Ending, MissingEnd, StreamGuardLayer};

use super::{Answer, CHAT, DONE, HELLO, STOP, ask, read};
use crate::support::Step::Data;

/// Above 1 MiB with its long strings cut.
fn unread() -> &'static str {
    let numbers = "1,".repeat(600 * 1024);
    format!("data: {{\"id\":\"c\",\"model\":\"m\",\"logprobs\":[{numbers}1],\"choices\":[]}}\n\n").leak()
}

/// How the answer ended, and whether the body failed because it was cut.
async fn end(missing_end: MissingEnd, events: &[&'static str]) -> (Option<End>, bool) {
    let layer = StreamGuardLayer::new().missing_end(missing_end);
    let steps = events.iter().map(|event| Data(event));
    let response = ask(layer.clone(), Method::POST, CHAT, Answer::stream(steps.clone())).await;
    let ending = Ending::of(&response).unwrap().clone();
    let (text, error) = read(response).await;
    let is_cut = error.is_some_and(|error| find::<StreamTruncated>(&error).is_some());
    let whole = events.concat();
    assert!(if is_cut { whole.starts_with(&text) && !text.contains(DONE) } else { text == whole });
    let held = ask(layer.hold(usize::MAX), Method::POST, CHAT, Answer::stream(steps)).await;
    assert_eq!(held.status() == 502, is_cut);
    (ending.get(), is_cut)
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_end_may_be_in_one_is_not_taken_for_whole() {
    let unread = unread();
    for behind in [&[][..], &[DONE]] {
        let events = [&[HELLO, unread], behind].concat();
        for missing_end in [MissingEnd::Auto, MissingEnd::Allow] {
            assert_eq!(end(missing_end, &events).await, (Some(End::Unknown), false), "{missing_end:?}");
        }
        assert_eq!(end(MissingEnd::Error, &events).await, (None, true), "nothing proves that it is whole");
    }
    for missing_end in [MissingEnd::Auto, MissingEnd::Error, MissingEnd::Allow] {
        assert_eq!(end(missing_end, &[HELLO, unread, STOP, DONE]).await, (Some(End::Whole), false));
    }
}

/// What goes on had not ended.
#[tokio::test(start_paused = true)]
async fn an_answer_that_goes_on_behind_one_has_not_ended_in_it() {
    let unread = unread();
    for behind in [&[HELLO][..], &[HELLO, HELLO], &[HELLO, DONE]] {
        let events = [&[HELLO, unread], behind].concat();
        assert_eq!(end(MissingEnd::Error, &events).await, (None, true));
        assert_eq!(end(MissingEnd::Allow, &events).await, (Some(End::Unknown), false));
    }
    assert_eq!(end(MissingEnd::Auto, &[HELLO, unread, HELLO]).await, (None, true));
    assert_eq!(end(MissingEnd::Auto, &[unread, HELLO, HELLO, unread]).await, (Some(End::Unknown), false));
    // It may be another one of several choices that has.
    let other = HELLO.replace("\"index\":0", "\"index\":1").leak();
    assert_eq!(end(MissingEnd::Auto, &[HELLO, other, unread, HELLO]).await, (Some(End::Unknown), false));
}
