//! Each fault against each limit, with the other limits far away.

use http::StatusCode;
use tower_buttress::DeadlineHeader;

use super::client::{Outgoing, ask, chat, content, full, read};
use super::{Running, gateway};
use crate::support::full_backlog;

/// The status and kind of a refusal.
async fn refused(request: http::Request<Outgoing>) -> (StatusCode, String) {
    let answer = ask(request).await;
    let status = answer.status();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&read(answer.into_body()).await.0).unwrap();
    (status, problem["kind"].as_str().unwrap_or_default().to_owned())
}

/// The result of a stream that does not come to its end.
async fn broken(gateway: &Running, fault: &str) -> String {
    let answer = ask(chat(gateway.addr, true, fault)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let (events, whole) = read(answer.into_body()).await;
    assert!(!whole, "{fault} looks whole: {events}");
    content(&events)
}

#[tokio::test]
async fn an_upstream_without_a_first_event_is_a_504_and_closed() {
    let gateway = gateway(&["--first-byte-timeout", "100ms"]).await;
    // No head; a late head; a late body; only comments.
    let faults = ["silent", "head=1h", "first-byte=1h", "comments=10ms"];
    for (nth, fault) in (1..).zip(faults) {
        let refusal = refused(chat(gateway.addr, true, fault)).await;
        assert_eq!(refusal, (StatusCode::GATEWAY_TIMEOUT, "first-byte-timeout".to_owned()), "{fault}");
        gateway.abandoned(nth).await;
    }
}

#[tokio::test]
async fn silence_within_an_answer_breaks_it_off_and_closes_the_upstream() {
    let gateway = gateway(&["--idle-timeout", "300ms"]).await;
    for (nth, fault) in (1..).zip(["gap=0s; stall-after=3", "gap=0s; torn-after=3", "gap=10ms; comments-after=3"]) {
        assert_eq!(broken(&gateway, fault).await, "You said \"Hello\". ", "{fault}");
        gateway.abandoned(nth).await;
    }
    // An answer that is not a stream is passed on when it is whole.
    assert_eq!(refused(chat(gateway.addr, false, "gap=0s; stall-after=3")).await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn a_slow_stream_is_not_a_silent_one() {
    let gateway = gateway(&["--idle-timeout", "1500ms", "--first-byte-timeout", "10s"]).await;
    let answer = ask(chat(gateway.addr, true, "gap=60ms; chunks=30")).await;
    let (events, whole) = read(answer.into_body()).await;
    assert!(whole && events.ends_with("data: [DONE]\n\n"), "{events}");
}

#[tokio::test]
async fn the_deadline_ends_a_call_wherever_it_is() {
    let gateway = gateway(&["--deadline", "400ms"]).await;
    let refusal = refused(chat(gateway.addr, true, "silent")).await;
    assert_eq!(refusal, (StatusCode::GATEWAY_TIMEOUT, "deadline-exceeded".to_owned()));
    gateway.abandoned(1).await;
    assert_eq!(broken(&gateway, "gap=0s; stall-after=1").await, "You ");
    gateway.abandoned(2).await;
    // A busy stream too.
    broken(&gateway, "gap=1ms; chunks=1000000").await;
    gateway.abandoned(3).await;
}

#[tokio::test]
async fn a_callers_deadline_shortens_ours_and_is_handed_on() {
    let gateway = gateway(&["--deadline", "60s"]).await;
    let ask_with = |millis: &'static str, fault| {
        let mut request = chat(gateway.addr, true, fault);
        request.headers_mut().insert("x-deadline-ms", millis.parse().unwrap());
        request
    };
    let told = || {
        let seen = gateway.provider().seen();
        let header = DeadlineHeader::millis("x-deadline-ms".parse().unwrap());
        header.read(&seen.last().unwrap().headers).unwrap().unwrap().as_millis()
    };
    assert_eq!(refused(ask_with("400", "silent")).await.1, "deadline-exceeded");
    // Less the reserve.
    assert!((1..=350).contains(&told()), "{}", told());
    // A caller cannot get more than the gateway's limit.
    assert!(read(ask(ask_with("3600000", "gap=0s")).await.into_body()).await.1);
    assert!((50_000..=59_950).contains(&told()), "{}", told());
    // Too little from the start.
    assert_eq!(refused(ask_with("10", "gap=0s")).await.1, "deadline-exceeded");
    assert_eq!(gateway.provider().counts().calls, 2);
}

#[tokio::test]
async fn a_callers_deadline_holds_without_one_of_ours() {
    let gateway = gateway(&["--deadline", "off"]).await;
    let mut request = chat(gateway.addr, true, "silent");
    request.headers_mut().insert("x-deadline-ms", "100".parse().unwrap());
    assert_eq!(refused(request).await.1, "deadline-exceeded");
}

#[tokio::test]
async fn a_header_that_is_off_is_none_of_our_business() {
    let gateway = gateway(&["--deadline-header", "off"]).await;
    let mut request = chat(gateway.addr, true, "gap=0s");
    request.headers_mut().insert("x-deadline-ms", "1".parse().unwrap());
    assert!(read(ask(request).await.into_body()).await.1);
    assert_eq!(gateway.provider().seen()[0].headers["x-deadline-ms"], "1");
}

#[tokio::test]
async fn limits_that_are_off_end_nothing() {
    let off = ["--connect-timeout", "--first-byte-timeout", "--idle-timeout", "--deadline", "--deadline-header"];
    let options: Vec<_> = off.iter().flat_map(|option| [*option, "off"]).collect();
    let gateway = gateway(&options).await;
    let answer = ask(chat(gateway.addr, true, "first-byte=100ms; gap=10ms; chunks=10")).await;
    assert!(read(answer.into_body()).await.1);
    assert!(!gateway.provider().seen()[0].headers.contains_key("x-deadline-ms"));
}

#[tokio::test]
async fn a_broken_connection_is_a_502_before_the_head_and_a_broken_answer_after() {
    let gateway = gateway(&[]).await;
    assert_eq!(refused(chat(gateway.addr, true, "reset")).await.0, StatusCode::BAD_GATEWAY);
    // Earlier events are passed on; a stream that breaks before its first event is still a 502.
    assert_eq!(broken(&gateway, "gap=10ms; reset-after=2").await, "You said ");
    assert_eq!(broken(&gateway, "gap=10ms; close-after=2").await, "You said ");
    assert_eq!(gateway.provider().counts().abandoned, 0);
}

#[tokio::test]
async fn what_the_upstream_says_itself_passes_unchanged() {
    let gateway = gateway(&[]).await;
    let answer = ask(chat(gateway.addr, true, "status=429; retry-after=2; code=insufficient_quota")).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"2".parse().unwrap()));
    assert!(read(answer.into_body()).await.0.contains("insufficient_quota"));
    let answer = ask(chat(gateway.addr, true, "status=529")).await;
    assert_eq!(answer.status().as_u16(), 529);
}

#[tokio::test]
async fn a_script_with_times_is_followed_so_often_and_then_not() {
    let gateway = gateway(&["--attempts", "1"]).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(ask(chat(gateway.addr, true, "status=503; gap=0s; times=2")).await.status().as_u16());
    }
    assert_eq!(statuses, [503, 503, 200, 503, 503, 200]);
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_a_502() {
    let (upstream, _full) = full_backlog().await;
    let gateway = gateway(&["--upstream", &format!("http://{upstream}"), "--connect-timeout", "100ms"]).await;
    assert_eq!(refused(chat(gateway.addr, true, "")).await.0, StatusCode::BAD_GATEWAY);
    let request = http::Request::get(format!("http://{}/-/metrics", gateway.addr)).body(full("")).unwrap();
    let figures = read(ask(request).await.into_body()).await.0;
    assert!(
        figures.contains("tower_buttress_events_total{event=\"connect_elapsed\",detail=\"connect-timeout\""),
        "{figures}"
    );
}
