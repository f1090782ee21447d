//! The longest silence of a response body.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::error::{self, BoxError, IdleBodyElapsed};
use tower_buttress::idle_body_timeout::IdleBodyTimeoutBody;
use tower_buttress::{IdleActivity, IdleBodyTimeoutLayer, TimeoutProfile};

use crate::support::Step::{Data, Hang, Wait};
use crate::support::{Log, Script, Step, secs, trace};

async fn call(
    layer: &IdleBodyTimeoutLayer,
    request: Request<()>,
    response: http::response::Builder,
    script: Script,
) -> IdleBodyTimeoutBody<Script> {
    let mut answer = Some(response.body(script).unwrap());
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let response = answer.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    }));
    service.oneshot(request).await.unwrap().into_body()
}

/// A script in, a trace out, under a limit of 15 s.
async fn check(steps: impl IntoIterator<Item = Step>, expected: &[&str]) {
    let layer = IdleBodyTimeoutLayer::new(secs(15));
    let body = call(&layer, Request::new(()), Response::builder(), Script::new(steps)).await;
    assert_eq!(trace(body).await, expected);
}

async fn check_events(response: http::response::Builder, steps: impl IntoIterator<Item = Step>, expected: &[&str]) {
    let layer = IdleBodyTimeoutLayer::new(secs(15)).activity(IdleActivity::SseEvents);
    let body = call(&layer, Request::new(()), response, Script::new(steps)).await;
    assert_eq!(trace(body).await, expected);
}

const SILENT: &str = "error: the upstream sent nothing for 15s";

#[tokio::test(start_paused = true)]
async fn silence_from_the_head_on_is_bounded() {
    check([Hang], &[&format!("+15s {SILENT}"), "+15s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn each_frame_gives_the_upstream_its_time_again() {
    let steps = [Wait(secs(14)), Data("a"), Wait(secs(14)), Data("b"), Data("c"), Wait(secs(16)), Data("late")];
    check(steps, &["+14s a", "+28s b", "+28s c", &format!("+43s {SILENT}"), "+43s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn trailers_are_a_sign_of_life() {
    check([Wait(secs(14)), Step::Trailers, Wait(secs(14))], &["+14s trailers", "+28s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_causes_no_timeout_and_loses_no_frame() {
    let layer = IdleBodyTimeoutLayer::new(secs(15));
    let script = Script::new([Wait(secs(1)), Data("a"), Data("b"), Wait(secs(1)), Data("c")]);
    let mut body = call(&layer, Request::new(()), Response::builder(), script).await;
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        seen.push(frame.unwrap().into_data().unwrap());
        tokio::time::sleep(secs(600)).await;
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_ready_beats_a_timer_that_has_fired() {
    let layer = IdleBodyTimeoutLayer::new(secs(15));
    let script = Script::new([Wait(secs(10)), Data("a")]);
    let mut body = call(&layer, Request::new(()), Response::builder(), script).await;
    // The consumer asks, turns away for a minute, and asks again.
    let asked = tokio::time::timeout(secs(5), body.frame()).await;
    assert!(asked.is_err());
    tokio::time::sleep(secs(60)).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn the_inner_body_is_dropped_the_moment_it_is_given_up() {
    let log = Arc::new(Log::default());
    let layer = IdleBodyTimeoutLayer::new(secs(15)).observer(log.clone());
    let script = Script::new([Hang]);
    let dropped = script.dropped();
    let mut body = call(&layer, Request::new(()), Response::builder(), script).await;
    let failed: BoxError = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error::find::<IdleBodyElapsed>(&failed).unwrap().after, secs(15));
    assert!(dropped());
    assert!(body.frame().await.is_none());
    assert_eq!(log.names(), ["body_timed_out: idle-body-timeout"]);
}

#[tokio::test(start_paused = true)]
async fn a_profile_in_the_request_wins_and_disabled_stays_off() {
    let profiled = || Request::builder().extension(TimeoutProfile::FAST.with_idle(secs(3)));
    let layer = IdleBodyTimeoutLayer::new(secs(15));
    let body = call(&layer, profiled().body(()).unwrap(), Response::builder(), Script::new([Hang])).await;
    assert_eq!(trace(body).await[0], "+3s error: the upstream sent nothing for 3s");

    let steps = [Wait(secs(3600)), Data("a")];
    let off = IdleBodyTimeoutLayer::disabled();
    let body = call(&off, profiled().body(()).unwrap(), Response::builder(), Script::new(steps)).await;
    assert_eq!(trace(body).await, ["+3600s a", "+3600s end"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_moves_to_another_task_is_still_watched() {
    let layer = IdleBodyTimeoutLayer::new(secs(15));
    let mut body = call(&layer, Request::new(()), Response::builder(), Script::new([Hang])).await;
    assert!(tokio::time::timeout(secs(5), body.frame()).await.is_err());
    let elsewhere = tokio::spawn(trace(body));
    assert_eq!(elsewhere.await.unwrap(), [format!("+10s {SILENT}"), "+10s end".to_owned()]);
}

/// As many frames at once as tokio lets a task read in one turn, and then silence.
#[tokio::test(start_paused = true)]
async fn a_burst_that_takes_the_whole_turn_is_watched_to_its_end() {
    for burst in [1, 127, 128, 129, 1_000] {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..burst {
            sender.send(Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(b"a")))).unwrap();
        }
        let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let mut answer = Some(Response::new(http_body_util::StreamBody::new(stream)));
        let service = IdleBodyTimeoutLayer::new(secs(15)).layer(service_fn(move |_: Request<()>| {
            let response = answer.take().unwrap();
            async move { Ok::<_, Infallible>(response) }
        }));
        let body = service.oneshot(Request::new(())).await.unwrap().into_body();
        let seen = tokio::time::timeout(secs(60), trace(body)).await.expect("the silence is noticed");
        assert_eq!(seen.len(), burst + 2);
        assert_eq!(seen[burst], format!("+15s {SILENT}"));
    }
}

// --- IdleActivity::SseEvents ---

fn event_stream() -> http::response::Builder {
    Response::builder().header(CONTENT_TYPE, "text/event-stream; charset=utf-8")
}

#[tokio::test(start_paused = true)]
async fn comments_do_not_hide_that_the_upstream_is_stuck() {
    let steps = [Data("data: a\n\n"), Wait(secs(10)), Data(": ping\n\n"), Wait(secs(10)), Data("data: late\n\n")];
    let expected = ["+0s data: a\n\n", "+10s : ping\n\n", &format!("+15s {SILENT}"), "+15s end"];
    check_events(event_stream(), steps, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_comment_in_pieces_is_no_sign_of_life_and_a_field_in_pieces_is() {
    let steps = [Wait(secs(9)), Data(": pi"), Wait(secs(9)), Data("ng\n\n")];
    check_events(event_stream(), steps, &["+9s : pi", &format!("+15s {SILENT}"), "+15s end"]).await;
    let steps = [Wait(secs(9)), Data("da"), Wait(secs(9)), Data("ta: x"), Wait(secs(9)), Data("\n\n")];
    check_events(event_stream(), steps, &["+9s da", "+18s ta: x", "+27s \n\n", "+27s end"]).await;
}

#[tokio::test(start_paused = true)]
async fn time_the_consumer_took_over_a_comment_does_not_count() {
    let layer = IdleBodyTimeoutLayer::new(secs(15)).activity(IdleActivity::SseEvents);
    let script = Script::new([Wait(secs(10)), Data(": ping\n\n"), Wait(secs(4)), Data("data: a\n\n")]);
    let mut body = call(&layer, Request::new(()), event_stream(), script).await;
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(secs(600)).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: a\n\n");
}

#[tokio::test(start_paused = true)]
async fn time_in_which_the_consumer_had_turned_away_does_not_count() {
    let layer = IdleBodyTimeoutLayer::new(secs(15)).activity(IdleActivity::SseEvents);
    let script = Script::new([Wait(secs(2)), Data(": ping\n\n"), Wait(secs(4)), Data("data: a\n\n")]);
    let mut body = call(&layer, Request::new(()), event_stream(), script).await;
    // It asks, and comes back long after the comment did.
    assert!(tokio::time::timeout(secs(1), body.frame()).await.is_err());
    tokio::time::sleep(secs(600)).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ": ping\n\n");
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: a\n\n");
}

#[tokio::test(start_paused = true)]
async fn comments_as_often_as_the_limit_hide_nothing() {
    let comments = std::iter::repeat_n([Wait(secs(15)), Data(": ping\n\n")], 9).flatten();
    let expected = ["+15s : ping\n\n", &format!("+15s {SILENT}"), "+15s end"];
    check_events(event_stream(), comments, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_readable_event_stream_is_judged_by_its_bytes() {
    let steps = || [Wait(secs(10)), Data(": ping\n\n"), Wait(secs(10)), Data(": ping\n\n")];
    let expected = ["+10s : ping\n\n", "+20s : ping\n\n", "+20s end"];
    check_events(Response::builder(), steps(), &expected).await;
    check_events(event_stream().header(CONTENT_ENCODING, "gzip"), steps(), &expected).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_beyond_the_clock_is_no_limit() {
    let layer = IdleBodyTimeoutLayer::new(std::time::Duration::MAX);
    let body = call(&layer, Request::new(()), Response::builder(), Script::new([Wait(secs(99_999)), Data("a")])).await;
    assert_eq!(trace(body).await[0], "+99999s a");
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_no_box_error_is_found_again() {
    let body = http_body_util::StreamBody::new(futures_util::stream::iter([Err::<http_body::Frame<Bytes>, _>(
        std::io::Error::other("broken"),
    )]));
    let mut body = Some(body);
    let service = IdleBodyTimeoutLayer::new(secs(15)).layer(service_fn(move |_: Request<()>| {
        let response = Response::new(body.take().unwrap());
        async move { Ok::<_, Infallible>(response) }
    }));
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    assert!(!body.is_end_stream());
    let failed = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error::find::<std::io::Error>(&failed).unwrap().to_string(), "broken");
}
