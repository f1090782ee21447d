//! Callers come back to their answers.

use std::time::Duration;

use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::client::{Outgoing, ask, chat, content, full, read};
use super::{Running, gateway};

/// Twenty events in 1 s.
const SLOWLY: &str = "gap=50ms; chunks=20";

fn with(mut request: Request<Outgoing>, headers: &[(&'static str, &'static str)]) -> Request<Outgoing> {
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    request
}

fn at(gateway: &Running, location: &str, method: &str) -> Request<Outgoing> {
    let uri = format!("http://{}{location}", gateway.addr);
    Request::builder().method(method).uri(uri).body(full("")).unwrap()
}

fn header<'a>(answer: &'a Response<Incoming>, name: &str) -> &'a str {
    answer.headers()[name].to_str().unwrap()
}

fn last_id(events: &str) -> String {
    events.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned()
}

#[tokio::test]
async fn a_caller_that_was_cut_off_reads_the_rest_of_one_call() {
    let gateway = gateway(&["--resumable", "on"]).await;
    let question =
        || with(chat(gateway.addr, true, SLOWLY), &[("authorization", "Bearer a"), ("idempotency-key", "k")]);
    let mut answer = ask(question()).await;
    let location = header(&answer, "content-location").to_owned();
    assert!(location.starts_with("/-/answers/"));
    let mut first = String::new();
    while content(&first).is_empty() {
        let frame = answer.frame().await.unwrap().unwrap();
        first += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    drop(answer);
    tokio::time::sleep(Duration::from_millis(200)).await;

    let mut again = at(&gateway, &location, "GET");
    again.headers_mut().insert("last-event-id", last_id(&first).parse().unwrap());
    let again = ask(again).await;
    assert_eq!((again.status().as_u16(), header(&again, "x-gateway-dedup")), (200, "resumed"));
    let (rest, whole) = read(again.into_body()).await;
    assert!(whole && rest.contains("[DONE]"));
    let (all, _) = read(ask(at(&gateway, &location, "GET")).await.into_body()).await;
    assert_eq!(content(&first) + &content(&rest), content(&all));
    let mut over = at(&gateway, &location, "GET");
    over.headers_mut().insert("last-event-id", last_id(&rest).parse().unwrap());
    assert_eq!(ask(over).await.status(), 204);
    // Another spelling of its path is not sent upstream, which would see the token.
    for spelled in
        [format!("/{location}"), location.replace("/-/", "/%2D/"), location.replace("/answers/", "%2Fanswers%2f")]
    {
        assert_eq!(ask(at(&gateway, &spelled, "GET")).await.status(), 404, "{spelled}");
    }
    assert_eq!(gateway.provider().counts().calls, 1);
    assert_eq!(ask(at(&gateway, &location, "DELETE")).await.status(), 204);
    let gone = ask(at(&gateway, &location, "GET")).await;
    assert_eq!((gone.status().as_u16(), header(&gone, "content-type")), (410, "application/problem+json"));
}

#[tokio::test]
async fn the_token_alone_opens_it_and_a_key_must_be_that_of_its_tenant() {
    let keys = std::env::temp_dir().join(format!("buttress-keys-{}", std::process::id()));
    std::fs::write(&keys, "alice:key-a\nbob:key-b\n").unwrap();
    let gateway = gateway(&["--resumable", "on", "--caller-keys-file", keys.to_str().unwrap()]).await;
    let question = with(chat(gateway.addr, true, ""), &[("authorization", "Bearer key-a"), ("idempotency-key", "k")]);
    let answer = ask(question).await;
    let location = header(&answer, "content-location").to_owned();
    let (all, _) = read(answer.into_body()).await;
    for (key, status) in
        [(None, 200), (Some("Bearer key-a"), 200), (Some("Bearer key-b"), 410), (Some("Bearer wrong"), 401)]
    {
        // Browsers send this with every request; it has no meaning here.
        let mut again = with(at(&gateway, &location, "GET"), &[("cookie", "theme=dark")][..usize::from(key.is_none())]);
        key.map(|key| again.headers_mut().insert("authorization", HeaderValue::from_static(key)));
        let again = ask(again).await;
        assert_eq!(again.status(), status, "{key:?}");
        if status == 200 {
            assert_eq!(content(&read(again.into_body()).await.0), content(&all));
        }
    }
    // Every other path needs a key.
    assert_eq!(ask(at(&gateway, "/v1/models", "GET")).await.status(), 401);
    std::fs::remove_file(keys).unwrap();
}

#[tokio::test]
async fn an_answer_later_is_at_the_url_that_the_caller_got() {
    let gateway = gateway(&["--resumable", "on", "--respond-async", "on"]).await;
    let prefers = [("authorization", "Bearer a"), ("prefer", "respond-async, wait=1")];
    for stream in [false, true] {
        let response = ask(with(chat(gateway.addr, stream, "head=3s"), &prefers)).await;
        assert_eq!(response.status(), 202);
        assert_eq!(header(&response, "preference-applied"), "respond-async, wait=1");
        let location = header(&response, "location").to_owned();
        let answer = ask(at(&gateway, &location, "GET")).await;
        assert_eq!(answer.status(), 200);
        assert!(read(answer.into_body()).await.1);
    }
    assert_eq!(gateway.provider().counts().calls, 2);
}

/// Without the option no answer comes later: the caller waits, and needs heartbeats as any other.
#[tokio::test]
async fn a_caller_that_prefers_an_answer_later_has_heartbeats_where_there_is_none() {
    let early = ["--heartbeat-before-headers", "100ms", "--resumable", "on"];
    for (respond_async, status) in [("off", 200), ("on", 202)] {
        let gateway = gateway(&[&early[..], &["--respond-async", respond_async]].concat()).await;
        let prefers = [("authorization", "Bearer a"), ("prefer", "respond-async, wait=1")];
        let response = ask(with(chat(gateway.addr, true, "head=3s"), &prefers)).await;
        assert_eq!(response.status(), status);
        if status == 200 {
            let (events, whole) = read(response.into_body()).await;
            assert!(whole && events.starts_with(": keepalive"), "{events}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_kept_for_the_window() {
    let gateway = gateway(&["--resumable", "on", "--resume-window", "1s"]).await;
    let question = with(chat(gateway.addr, true, "gap=0s"), &[("authorization", "Bearer a"), ("idempotency-key", "k")]);
    let answer = ask(question).await;
    let location = header(&answer, "content-location").to_owned();
    assert!(read(answer.into_body()).await.1);
    assert_eq!(ask(at(&gateway, &location, "GET")).await.status(), 200);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(ask(at(&gateway, &location, "GET")).await.status(), 410);
}

/// The first caller has left; one that comes back, without a limit of its own, does not keep the call alive for ever.
#[tokio::test]
async fn coming_back_does_not_put_off_the_deadline_of_the_call() {
    let gateway = gateway(&["--resumable", "on", "--deadline", "1s"]).await;
    let endless = "gap=20ms; chunks=1000000";
    let question = with(chat(gateway.addr, true, endless), &[("authorization", "Bearer a"), ("idempotency-key", "k")]);
    let answer = ask(question).await;
    let location = header(&answer, "content-location").to_owned();
    drop(answer);
    let back = ask(at(&gateway, &location, "GET")).await;
    assert_eq!(back.status(), 200);
    let (events, whole) = super::soon(read(back.into_body())).await;
    assert!(!whole && events.contains("timeout_error"), "{events}");
    gateway.abandoned(1).await;
}

#[tokio::test]
async fn without_the_option_there_is_no_such_page() {
    let gateway = gateway(&[]).await;
    let question = with(chat(gateway.addr, true, ""), &[("authorization", "Bearer a"), ("idempotency-key", "k")]);
    assert!(!ask(question).await.headers().contains_key("content-location"));
    let page = at(&gateway, "/-/answers/0123456789abcdef0123456789abcdef", "GET");
    assert_eq!(ask(page).await.status(), 404);
}
