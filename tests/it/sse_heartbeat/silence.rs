//! When a heartbeat goes out, and when a stream is given up.

use std::sync::Arc;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio_stream::wrappers::ReceiverStream;
use tower_buttress::error::{self, BoxError, StreamSilent};
use tower_buttress::{IdleActivity, IdleBodyTimeoutLayer, SseHeartbeatLayer};

use super::{asked, events, through};
use crate::support::{Log, Script, Step, secs, trace};

fn layer() -> SseHeartbeatLayer {
    SseHeartbeatLayer::new(secs(15))
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_follows_each_interval_of_silence() {
    let log = Arc::new(Log::default());
    let script = Script::new([Step::Data("data: a\n\n"), Step::Wait(secs(40)), Step::Data("data: b\n\n")]).unsized_();
    let response = through(layer().observer(log.clone()), asked(), events(script)).await;
    assert_eq!(
        trace(response.into_body()).await,
        ["+0s data: a\n\n", "+15s : keepalive\n\n", "+30s : keepalive\n\n", "+40s data: b\n\n", "+40s end"]
    );
    assert_eq!(log.names(), ["heartbeat_sent: sse-heartbeat"; 2]);
}

#[tokio::test(start_paused = true)]
async fn no_interval_is_too_short() {
    let silence = std::time::Duration::from_millis(10);
    let script = Script::new([Step::Data("data: a\n\n"), Step::Wait(silence), Step::Data("data: b\n\n")]).unsized_();
    let layer = SseHeartbeatLayer::new(std::time::Duration::ZERO).before_headers(std::time::Duration::ZERO);
    let response = through(layer, asked(), events(script)).await;
    let all = response.into_body().collect().await.unwrap().to_bytes();
    let beats = std::str::from_utf8(&all).unwrap().matches(": keepalive").count();
    assert!((1..=10).contains(&beats), "{beats} in ten milliseconds");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_gets_none() {
    let steps = (0..10).flat_map(|_| [Step::Wait(secs(14)), Step::Data("data: a\n\n")]);
    let response = through(layer(), asked(), events(Script::new(steps).unsized_())).await;
    let all = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(all, "data: a\n\n".repeat(10));
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_does_not_read_gets_one_at_most() {
    let script = Script::new([Step::Data("data: a\n\n"), Step::Wait(secs(200)), Step::Data("data: b\n\n")]).unsized_();
    let mut body = through(layer(), asked(), events(script)).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(futures_util::FutureExt::now_or_never(body.frame()).is_none(), "a beat came early");
    tokio::time::advance(secs(100)).await;
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), ": keepalive\n\n");
    let start = tokio::time::Instant::now();
    body.frame().await.unwrap().unwrap();
    assert_eq!(start.elapsed(), secs(15), "the next one is due an interval later");
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_goes_before_a_heartbeat() {
    let script = Script::new([Step::Data("data: a\n\n"), Step::Wait(secs(15)), Step::Data("data: b\n\n")]).unsized_();
    let mut body = through(layer(), asked(), events(script)).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(futures_util::FutureExt::now_or_never(body.frame()).is_none());
    tokio::time::advance(secs(60)).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: b\n\n");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_hide_for_ever_that_the_upstream_is_dead() {
    let script = Script::new([Step::Data("data: a\n\n"), Step::Hang]).unsized_();
    let dropped = script.dropped();
    let mut body = through(layer().max_silence(secs(40)), asked(), events(script)).await.into_body();
    let mut heartbeats = 0;
    let failure = loop {
        match body.frame().await.unwrap() {
            Ok(_) => heartbeats += 1,
            Err(failure) => break failure,
        }
    };
    assert_eq!(heartbeats, 3, "the data and two heartbeats");
    assert_eq!(error::find::<StreamSilent>(&failure).unwrap().after, secs(40));
    assert!(dropped());
    assert!(body.frame().await.is_none() && body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn time_without_a_reader_is_no_silence_of_the_upstream() {
    let script = Script::new([Step::Data("data: a\n\n"), Step::Wait(secs(120)), Step::Data("data: b\n\n")]).unsized_();
    let mut body = through(layer().max_silence(secs(40)), asked(), events(script)).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ": keepalive\n\n");
    // 15 s were waited for; the reader takes its time over the heartbeat.
    tokio::time::advance(secs(100)).await;
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: b\n\n");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_an_event_and_stays_an_error() {
    let script = Script::new([Step::Data("data: a\n\n"), Step::Fail("secret")]).unsized_();
    let response = through(layer().error_events(true), asked(), events(script)).await;
    let event = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"code\":null,\"message\":\
                 \"The upstream failed in the middle of the stream.\",\"param\":null}}\n\n";
    assert_eq!(
        trace(response.into_body()).await,
        ["+0s data: a\n\n", &format!("+0s {event}"), "+0.05s error: secret", "+0.05s end"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_ours_is_named() {
    let script = Script::new([Step::Data("data: a\r\n\r\n"), Step::Hang]).unsized_();
    let idle = IdleBodyTimeoutLayer::new(secs(10)).activity(IdleActivity::SseEvents);
    let layers = tower::ServiceBuilder::new().layer(layer().error_events(true)).layer(idle).into_inner();
    let trace = trace(through(layers, asked(), events(script)).await.into_body()).await;
    assert!(
        trace[1].starts_with("+10s event: error\r\ndata: {\"type\":\"error\",\"error\":{\"type\":\"timeout_error\"")
    );
    assert!(trace[1].ends_with("}\r\n\r\n") && trace[2].starts_with("+10.05s error: "), "{trace:?}");
}

#[tokio::test(start_paused = true)]
async fn in_the_middle_of_an_event_there_is_no_place_for_another() {
    let script = Script::new([Step::Data("data: a"), Step::Fail("cut")]).unsized_();
    let response = through(layer().error_events(true), asked(), events(script)).await;
    assert_eq!(trace(response.into_body()).await, ["+0s data: a", "+0s error: cut", "+0s end"]);
}

#[tokio::test(start_paused = true)]
async fn there_is_none_after_the_trailers() {
    let steps = [Step::Data("data: a\n\n"), Step::Trailers, Step::Wait(secs(60))];
    let response = through(layer(), asked(), events(Script::new(steps).unsized_())).await;
    assert_eq!(trace(response.into_body()).await, ["+0s data: a\n\n", "+0s trailers", "+60s end"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_silent_after_a_burst_gets_one() {
    // More than tokio lets a task take out of a channel in one turn, and all of it before the timer is set.
    let (sender, burst) = tokio::sync::mpsc::channel(200);
    for _ in 0..200 {
        sender.try_send(Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"data: a\n\n")))).unwrap();
    }
    let body = StreamBody::new(ReceiverStream::new(burst));
    let mut body = through(layer(), asked(), events(body)).await.into_body();
    for _ in 0..200 {
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: a\n\n");
    }
    let frame = tokio::time::timeout(secs(60), body.frame()).await.expect("a heartbeat").unwrap();
    assert_eq!(frame.unwrap().into_data().unwrap(), ": keepalive\n\n");
}
