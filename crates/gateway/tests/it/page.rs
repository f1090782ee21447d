//! The data of the gateway's page: calls with their phases, circuits, load.

use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;

use super::client::{Outgoing, ask, chat, full, read};
use super::{Running, gateway, soon};

async fn get(gateway: &Running, path: &str) -> Response<Incoming> {
    ask(Request::get(format!("http://{}/-/{path}", gateway.addr)).body(full("")).unwrap()).await
}

async fn shown(gateway: &Running) -> Value {
    serde_json::from_str(&read(get(gateway, "calls").await.into_body()).await.0).unwrap()
}

/// Waits until a call with this id is in this phase.
async fn until(gateway: &Running, id: &str, phase: &str) -> Value {
    soon(async {
        loop {
            let shown = shown(gateway).await;
            let call = shown["calls"].as_array().unwrap().iter().find(|call| call["id"] == id);
            if let Some(call) = call.filter(|call| call["phase"] == phase) {
                break call.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

fn call(gateway: &Running, id: &str, fault: &str) -> Request<Outgoing> {
    let mut request = chat(gateway.addr, true, fault);
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    request.headers_mut().insert("authorization", "Bearer acme-key".parse().unwrap());
    request
}

#[tokio::test]
async fn a_call_is_shown_with_its_phase_until_it_is_over() {
    let keys = super::trust::keys();
    let options = ["--concurrency", "2", "--dedup", "off", "--attempts", "1", "--caller-keys-file", &keys];
    let gateway = gateway(&options).await;
    let streaming = ask(call(&gateway, "one", "gap=0s; stall-after=3")).await;
    let waiting = tokio::spawn(ask(call(&gateway, "two", "silent")));
    until(&gateway, "two", "waiting").await;
    let queued = tokio::spawn(ask(call(&gateway, "three", "")));
    let three = until(&gateway, "three", "queued").await;
    assert_eq!((&three["attempts"], &three["bytes"], &three["tenant"]), (&0.into(), &0.into(), &"acme".into()));
    drop(streaming.into_body());
    // Its place is free.
    assert!(read(queued.await.unwrap().into_body()).await.1);

    let streaming = ask(call(&gateway, "four", "gap=0s; stall-after=3")).await;
    let mut body = streaming.into_body();
    http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
    let four = until(&gateway, "four", "streaming").await;
    assert_eq!((&four["model"], &four["attempts"]), (&"sim".into(), &1.into()));
    assert!(four["bytes"].as_u64() > Some(0) && four["ms"].is_u64(), "{four}");
    let load = shown(&gateway).await["load"].clone();
    let [upstream, callers] = &load.as_array().unwrap()[..] else { panic!("{load}") };
    assert_eq!(
        (&upstream["name"], &upstream["in_flight"], &upstream["limit"]),
        (&"upstream".into(), &2.into(), &2.into())
    );
    assert_eq!(callers["name"], "callers");
    waiting.abort();
    drop(body);
    soon(async {
        while shown(&gateway).await["calls"] != serde_json::json!([]) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn heartbeats_and_an_attempt_that_failed_are_no_stream() {
    let early = ["--heartbeat", "20ms", "--heartbeat-before-headers", "20ms", "--dedup", "off"];
    let gateway = gateway(&early).await;
    let answer = ask(call(&gateway, "again", "gap=0s; status=503; retry-after=1; times=1")).await;
    let mut body = answer.into_body();
    http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
    let shown = shown(&gateway).await["calls"][0].clone();
    assert_eq!((&shown["phase"], &shown["attempts"]), (&"waiting".into(), &1.into()), "{shown}");
    assert!(shown["bytes"].as_u64() > Some(0) && shown["notice"].as_str().unwrap().contains("attempt 2"), "{shown}");
    assert!(read(body).await.0.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_stream_that_goes_on_after_a_break_is_resumed_and_its_notice_says_so() {
    let gateway = gateway(&["--resume", "verified", "--dedup", "off", "--backoff-base", "5ms"]).await;
    let cut = ask(call(&gateway, "cut", "gap=60ms; reset-after=4; times=1")).await;
    let reading = tokio::spawn(read(cut.into_body()));
    let call = until(&gateway, "cut", "resumed").await;
    assert!(call["notice"].is_string() && call["attempts"] == 2, "{call}");
    assert!(reading.await.unwrap().1);
}

#[tokio::test]
async fn the_page_and_its_files_come_with_a_strict_policy() {
    let gateway = gateway(&[]).await;
    for (path, kind, part) in [
        ("", "text/html; charset=utf-8", "</html>"),
        ("page.css", "text/css; charset=utf-8", "prefers-color-scheme"),
        ("page.js", "text/javascript; charset=utf-8", "textContent"),
    ] {
        let answer = get(&gateway, path).await;
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        assert_eq!((header("content-type").as_str(), header("x-content-type-options").as_str()), (kind, "nosniff"));
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        let text = read(answer.into_body()).await.0;
        assert!(text.contains(part), "{path}");
        for markup in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "<script>", "<style", "onclick="]
        {
            assert!(!text.contains(markup), "{path}: {markup}");
        }
    }
}
