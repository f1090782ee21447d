//! State of calls: conversations, last good answers, and positions in broken streams.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as AxumRequest;
use axum::response::IntoResponse;
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderName, Request};
use http_body::Frame;
use http_body_util::StreamBody;

use super::client::{Outgoing, ask, chat, content, full, read};
use super::forwarding::serve;
use super::uploads::held;
use super::{Running, gateway, soon};

const TENANT: HeaderName = HeaderName::from_static("x-tenant");

fn said(gateway: &Running, text: &str, fault: &str) -> Request<Outgoing> {
    let body = serde_json::json!({"model": "sim", "stream": true, "messages": [{"role": "user", "content": text}]});
    let mut request = chat(gateway.addr, true, fault).map(|_| full(body.to_string()));
    request.headers_mut().insert("authorization", "Bearer alice".parse().unwrap());
    request.headers_mut().insert("x-chat", "7".parse().unwrap());
    request
}

#[tokio::test]
async fn a_newer_message_ends_the_older_one() {
    let gateway = gateway(&["--supersede-header", "x-chat"]).await;
    let older = ask(said(&gateway, "Where is", "gap=0s; stall-after=3")).await;
    let newer = ask(said(&gateway, "Where is my order?", "gap=0s")).await;
    let (events, whole) = soon(read(older.into_body())).await;
    assert!(!whole && events.contains("superseded") && !events.contains("[DONE]"), "{events}");
    assert!(read(newer.into_body()).await.0.ends_with("data: [DONE]\n\n"));
    // An SDK repeats the older message, which is over.
    let again = ask(said(&gateway, "Where is", "gap=0s; stall-after=3")).await;
    assert_eq!((again.status().as_u16(), &again.headers()["x-should-retry"]), (410, &"false".parse().unwrap()));
    soon(gateway.provider().until(|counts| counts.abandoned == 1)).await;
}

/// Behind a proxy with one credential for all its callers.
#[tokio::test]
async fn a_message_of_another_tenant_is_of_another_conversation() {
    let options = ["--supersede-header", "x-chat", "--supersede", "reject", "--dedup-tenant-header", "x-tenant"];
    let gateway = gateway(&options).await;
    let as_tenant = |tenant: &str, text: &str, fault: &str| {
        let mut request = said(&gateway, text, fault);
        request.headers_mut().insert(TENANT, tenant.parse().unwrap());
        ask(request)
    };
    let older = as_tenant("a", "one", "gap=0s; stall-after=3").await;
    assert_eq!(as_tenant("b", "two", "gap=0s").await.status(), 200);
    assert_eq!(as_tenant("a", "two", "").await.status(), 409);
    drop(older);
}

#[tokio::test]
async fn a_newer_message_can_be_refused_or_wait() {
    let refusing = gateway(&["--supersede-header", "x-chat", "--supersede", "reject"]).await;
    let older = ask(said(&refusing, "one", "gap=0s; stall-after=3")).await;
    assert_eq!(ask(said(&refusing, "two", "")).await.status(), 409);
    drop(older);

    let waiting = gateway(&["--supersede-header", "x-chat", "--supersede", "enqueue"]).await;
    let older = ask(said(&waiting, "one", "gap=20ms; chunks=15")).await;
    let newer = tokio::spawn(ask(said(&waiting, "two", "gap=0s")));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(waiting.provider().counts().calls, 1);
    assert!(read(older.into_body()).await.1);
    assert!(read(soon(newer).await.unwrap().into_body()).await.1);
    assert_eq!(waiting.provider().counts().calls, 2);
}

#[tokio::test]
async fn messages_soon_after_each_other_are_one_call() {
    let gateway = gateway(&["--supersede-header", "x-chat", "--supersede-settle", "500ms"]).await;
    let older: Vec<_> = ["h", "he", "hel"].map(|text| tokio::spawn(ask(said(&gateway, text, "")))).into();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let newest = ask(said(&gateway, "hello", "gap=0s")).await;
    assert!(read(newest.into_body()).await.1);
    for older in older {
        assert_eq!(soon(older).await.unwrap().status(), 410);
    }
    assert_eq!(gateway.provider().counts().calls, 1);
}

#[tokio::test]
async fn without_the_header_messages_are_strangers() {
    let gateway = gateway(&[]).await;
    let older = ask(said(&gateway, "one", "gap=10ms; chunks=10")).await;
    assert!(read(ask(said(&gateway, "two", "gap=0s")).await.into_body()).await.1);
    assert!(read(older.into_body()).await.1);
}

#[tokio::test]
async fn the_last_good_answer_stands_in_for_one_that_does_not_come() {
    let path = format!("{}/templates.json", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, r#"{"*": "We are back soon."}"#).unwrap();
    let options = ["--last-good", "on", "--last-good-template", &path, "--attempts", "1", "--dedup", "off"];
    let gateway = gateway(&options).await;
    let good = ask(said(&gateway, "Where is it?", "gap=0s")).await;
    assert_eq!(good.headers()["x-gateway-served-by"], "upstream");
    let (good, _) = read(good.into_body()).await;

    let stale = ask(said(&gateway, "Hi, where is it", "status=503")).await;
    assert_eq!((stale.status().as_u16(), &stale.headers()["x-gateway-served-by"]), (200, &"cache".parse().unwrap()));
    assert!(stale.headers().contains_key("age") && stale.headers().contains_key("cache-status"));
    assert_eq!(content(&read(stale.into_body()).await.0), content(&good));

    let template = ask(said(&gateway, "Another question", "status=503")).await;
    let served_by = template.headers()["x-gateway-served-by"].clone();
    assert_eq!((template.status().as_u16(), served_by), (200, "template".parse().unwrap()));
    assert_eq!(content(&read(template.into_body()).await.0), "We are back soon.");
}

/// Behind a proxy with one credential for all its callers.
#[tokio::test]
async fn the_last_good_answer_of_another_tenant_stands_in_for_none() {
    let options =
        ["--last-good", "on", "--dedup-tenant-header", "x-tenant", "--attempts", "1", "--dedup-window", "off"];
    for dedup in ["on", "off"] {
        let gateway = gateway(&[&options[..], &["--dedup", dedup]].concat()).await;
        let as_tenant = |tenant: Option<&str>, fault: &str| {
            let mut request = said(&gateway, "Hello?", fault);
            request.headers_mut().extend(tenant.map(|tenant| (TENANT, tenant.parse().unwrap())));
            ask(request)
        };
        let good = as_tenant(Some("a"), "gap=0s").await;
        assert!(read(good.into_body()).await.1);
        assert_eq!(as_tenant(Some("b"), "status=503").await.status(), 503);
        assert_eq!(as_tenant(None, "status=503").await.status(), 503);
        let stale = as_tenant(Some("a"), "status=503").await;
        assert_eq!(
            (stale.status().as_u16(), &stale.headers()["x-gateway-served-by"]),
            (200, &"cache".parse().unwrap())
        );
    }
}

/// A leak would refuse calls for lack of memory with none in flight.
#[tokio::test]
async fn last_good_answers_leave_most_of_the_memory_to_calls() {
    const MEMORY: usize = 4 * 1024 * 1024;
    let memory = MEMORY.to_string();
    let gateway = gateway(&["--last-good", "on", "--memory", &memory, "--dedup", "off"]).await;
    for caller in 0..60 {
        let mut request = said(&gateway, &format!("Question {caller}"), "gap=0s; chunks=200");
        request.headers_mut().insert("authorization", format!("Bearer {caller}").parse().unwrap());
        assert!(read(ask(request).await.into_body()).await.1);
    }
    let kept = held(&gateway).await;
    assert!(kept > 0 && kept <= MEMORY / 8, "{kept}");
}

#[tokio::test]
async fn without_it_a_failure_is_a_failure() {
    let gateway = gateway(&["--attempts", "1", "--dedup", "off"]).await;
    assert!(read(ask(said(&gateway, "Hello", "gap=0s")).await.into_body()).await.1);
    assert_eq!(ask(said(&gateway, "Hello", "status=503")).await.status(), 503);
}

/// A server whose events have ids: the first answer breaks after the first event.
async fn events_that_break_off() -> String {
    async fn answer(request: AxumRequest) -> impl IntoResponse {
        let last = request.headers().get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
        let frames: Vec<Result<Frame<Bytes>, std::io::Error>> = match last.as_deref() {
            None => {
                vec![Ok(Frame::data("id: 1\ndata: hello\n\n".into())), Err(std::io::ErrorKind::ConnectionReset.into())]
            }
            _ => vec![Ok(Frame::data("id: 2\ndata: world\n\n".into()))],
        };
        let slowly = futures_util::StreamExt::then(futures_util::stream::iter(frames), |frame| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            frame
        });
        ([("content-type", "text/event-stream")], Body::new(StreamBody::new(slowly)))
    }
    format!("http://{}", serve(Router::new().fallback(any(answer))).await)
}

#[tokio::test]
async fn a_stream_goes_on_where_its_server_has_the_rest() {
    let upstream = events_that_break_off().await;
    for (resume, whole) in [("cursor", true), ("off", false)] {
        let gateway = gateway(&["--upstream", &upstream, "--resume", resume, "--error-events", "false"]).await;
        let request = Request::get(format!("http://{}/events", gateway.addr)).header("accept", "text/event-stream");
        let (events, ended) = read(ask(request.body(full("")).unwrap()).await.into_body()).await;
        assert_eq!((events.contains("data: world"), ended), (whole, whole), "{resume}: {events}");
    }
}

#[tokio::test]
async fn an_answer_without_a_cursor_is_asked_for_once_more_if_that_is_wanted() {
    for (resume, whole) in [("verified", true), ("cursor", false)] {
        let gateway = gateway(&["--resume", resume, "--dedup", "off", "--error-events", "false"]).await;
        let text = content(&read(ask(said(&gateway, "Hello", "gap=5ms")).await.into_body()).await.0);
        let cut = said(&gateway, "Hello", "gap=5ms; reset-after=6; times=1");
        let (events, ended) = read(ask(cut).await.into_body()).await;
        assert_eq!((content(&events) == text, ended), (whole, whole), "{resume}: {events}");
    }
}
