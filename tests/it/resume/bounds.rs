//! When a stream is not continued, or no longer.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::ACCEPT_ENCODING;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{Deadline, Memory, NoRetry, ResumeBy, ResumeLayer, RetryBudget};

use super::{Answer, MS, ONE, THREE, TWO, Upstream, events, post, send, stream};
use crate::support::Step::{Data, Fail, Wait};
use crate::support::secs;

fn broken() -> Answer {
    stream([Data(ONE), Data(TWO), Fail("cut")])
}

#[tokio::test(start_paused = true)]
async fn three_continuations_in_a_row_may_bring_nothing() {
    let answers = [broken(), Answer::Lost, stream([Fail("again")]), Answer::Status(502, "x")];
    let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
    assert_eq!((outcome.text, outcome.error.as_deref()), ([ONE, TWO].concat(), Some("cut")), "the first fault");
    assert_eq!(outcome.events, ["not_resumed: no-progress"]);
    let waits: Vec<Duration> = outcome.asked.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(waits[0].is_zero() && waits[1] >= 250 * MS && waits[2] >= 500 * MS && waits[2] <= secs(2), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn progress_counts_from_one_again() {
    let event = |n: u32| -> &'static str { format!("id: {n}\ndata: x\n\n").leak() };
    let answers = (1..=12).map(|n| stream([Data(event(n)), Fail("cut")])).chain([stream([Data(event(13))])]);
    let outcome = send(ResumeLayer::new(), events("/events"), answers).await;
    assert_eq!(outcome.text, (1..=13).map(event).collect::<String>());
    assert_eq!(outcome.error, None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_stream_is_the_end_of_it() {
    for answer in
        [Answer::Status(404, "gone"), Answer::Status(204, ""), Answer::Status(200, "{}"), Answer::Status(400, "x")]
    {
        let outcome = send(ResumeLayer::new(), events("/events"), [broken(), answer]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), ([ONE, TWO].concat(), Some("cut")));
        assert_eq!(outcome.events, ["not_resumed: refused"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_a_moment_gets_it() {
    let outcome =
        send(ResumeLayer::new(), events("/events"), [broken(), Answer::Status(429, "x"), stream([Data(THREE)])]).await;
    assert_eq!((outcome.text, outcome.error), ([ONE, TWO, THREE].concat(), None));
    assert_eq!(outcome.asked[2].at - outcome.asked[1].at, secs(2));
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_the_stream_itself_asks_for_is_kept() {
    for (retry, wait) in
        [("retry: 3000\n\n", Some(secs(3))), ("retry: x\n\n", Some(secs(0))), ("retry: 60000\n\n", None)]
    {
        let first = stream([Data(retry), Data(ONE), Fail("cut")]);
        let outcome = send(ResumeLayer::new(), events("/events"), [first, stream([Data(TWO)])]).await;
        assert_eq!(outcome.error.is_none(), wait.is_some());
        assert_eq!(outcome.asked.get(1).map(|asked| asked.at - outcome.asked[0].at), wait);
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_asked() {
    let layer = ResumeLayer::new().budget(RetryBudget::new(0, 0, secs(10)));
    let outcome = send(layer, events("/events"), [broken()]).await;
    assert_eq!((outcome.error.as_deref(), &outcome.events[..]), (Some("cut"), &["not_resumed: budget".to_owned()][..]));
}

#[tokio::test(start_paused = true)]
async fn behind_the_deadline_nothing_is_asked() {
    let mut request = events("/events");
    request.extensions_mut().insert(Deadline::after(secs(5)).unwrap());
    let outcome = send(ResumeLayer::new(), request, [stream([Data(ONE), Wait(secs(6)), Fail("cut")])]).await;
    assert_eq!(
        (outcome.error.as_deref(), &outcome.events[..]),
        (Some("cut"), &["not_resumed: deadline".to_owned()][..])
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_switched_off_passes() {
    for (layer, no_retry) in [(ResumeLayer::disabled(), false), (ResumeLayer::new(), true)] {
        let mut request = events("/events");
        if no_retry {
            request.extensions_mut().insert(NoRetry);
        }
        let outcome = send(layer, request, [stream([Data(ONE), Data("id: 2\nd"), Fail("cut")])]).await;
        assert_eq!((outcome.text, outcome.error.as_deref()), ([ONE, "id: 2\nd"].concat(), Some("cut")));
        assert!(outcome.events.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_stream_that_is_over_is_not_asked_for_again() {
    // Whether one of no known dialect is whole is not known: it is passed on as it is.
    let outcome = send(ResumeLayer::new(), events("/events"), [stream([Data(ONE), Data(TWO)])]).await;
    assert_eq!((outcome.text, outcome.error, outcome.asked.len()), ([ONE, TWO].concat(), None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_early_and_cannot_go_on_ends_as_it_did() {
    let outcome =
        send(ResumeLayer::new(), events("/events"), [stream([Data(ONE), Data("id: 2\nda")]), Answer::Status(404, "")])
            .await;
    assert_eq!((outcome.text, outcome.error), ([ONE, "id: 2\nda"].concat(), None));
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_memory_the_stream_passes() {
    let event: &'static str = format!("id: 2\ndata: {}\n\n", "x".repeat(20_000)).leak();
    let (half, rest) = event.split_at(10_000);
    let memory = Memory::new(8 * 1024);
    let layer = ResumeLayer::new().memory(memory.clone());
    let outcome = send(layer, events("/events"), [stream([Data(ONE), Data(half), Data(rest), Fail("cut")])]).await;
    assert_eq!((outcome.text, outcome.error.as_deref()), ([ONE, event].concat(), Some("cut")));
    assert_eq!((&outcome.events[..], memory.used()), (&["bypassed: resume".to_owned()][..], 0));
}

/// Half an event stands behind what was handed on, and the caller gets it if the stream does not go on.
#[tokio::test(start_paused = true)]
async fn what_is_withheld_counts_while_the_rest_is_asked_for() {
    let half: &'static str = format!("id: 2\ndata: {}", "x".repeat(20_000)).leak();
    for (first, waits) in
        [(stream([Data(ONE), Data(half)]), true), (stream([Data(ONE), Data(half), Fail("cut")]), false)]
    {
        let memory = Memory::new(256 * 1024);
        let answers =
            [first, Answer::Lost, stream([Wait(secs(10)), Data("id: 2\ndata: two"), Wait(secs(10)), Fail("x")])];
        let upstream = Upstream::new(answers.into_iter().chain([Answer::Status(404, "gone")]));
        let service = ResumeLayer::new()
            .memory(memory.clone())
            .layer(service_fn(move |request| upstream.clone().answer(request)));
        let mut body = service.oneshot(events("/events")).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ONE);
        for _ in 0..3 {
            let next = tokio::time::timeout(secs(4), body.frame()).await;
            assert!(next.is_err(), "it is not known yet");
            assert_eq!(memory.used() >= 20_000, waits, "{}", memory.used());
        }
        let rest = tokio::time::timeout(secs(60), body.collect()).await.unwrap();
        assert_eq!(rest.map(|rest| rest.to_bytes().len()).ok(), waits.then_some(half.len()));
        assert_eq!(memory.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_not_kept() {
    let layer = || ResumeLayer::new().replay_limit(3).resume_by(ResumeBy::sse_id().resend(true));
    for accepted in [Some("gzip, br"), None] {
        let mut request = post("/generate", "four");
        request.headers_mut().extend(accepted.map(|accepted| (ACCEPT_ENCODING, accepted.parse().unwrap())));
        let outcome = send(layer(), request, [stream([Data(ONE), Fail("cut")])]).await;
        assert_eq!(
            (outcome.error.as_deref(), &outcome.events[..]),
            (Some("cut"), &["bypassed: resume".to_owned()][..])
        );
        assert_eq!(outcome.asked[0].body, "four");
        // It is not read: it may be compressed.
        let asked = outcome.asked[0].headers.get(ACCEPT_ENCODING);
        assert_eq!(asked.map(|asked| asked.to_str().unwrap()), accepted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_that_travels_in_a_get_needs_no_body() {
    const A: &str = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    const B: &str =
        "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    for limit in [3, 1000] {
        let mut request = post("/v1/chat/completions", "four");
        request.headers_mut().insert("x-conversation-id", "c".parse().unwrap());
        let layer = ResumeLayer::new().replay_limit(limit).verified_restart(true);
        let outcome = send(layer, request, [stream([Data(A), Fail("cut")]), stream([Data(B)])]).await;
        assert_eq!((outcome.text, outcome.error), ([A, B].concat(), None));
        assert_eq!((outcome.asked[1].method.as_str(), outcome.asked[1].body.as_str()), ("GET", ""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_leaves_nothing_behind() {
    use std::convert::Infallible;

    use crate::support::Script;

    let body = Script::new([Data(ONE), Fail("cut")]).unsized_();
    let dropped = body.dropped();
    let answers = Arc::new(std::sync::Mutex::new(Some(body)));
    let upstream = service_fn(move |_| {
        let body = answers.lock().unwrap().take();
        async move {
            let Some(body) = body else { return std::future::pending().await };
            Ok::<_, Infallible>(
                http::Response::builder().header("content-type", "text/event-stream").body(body).unwrap(),
            )
        }
    });
    let request: Request<Full<bytes::Bytes>> = events("/events");
    let mut body = ResumeLayer::new().layer(upstream).oneshot(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(tokio::time::timeout(secs(1), body.frame()).await.is_err(), "it waits for the rest");
    assert!(dropped(), "the connection that broke is let go of");
    drop(body);
}
