//! Which answers are kept, and of which requests.

use tower_buttress::{NoStore, StreamGuardLayer, Tenant};

use super::*;

/// Whether this answer to this request is there when the upstream is down.
async fn is_kept(does: Does, request: impl Fn() -> Request<Full<Bytes>>) -> bool {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    upstream.set(does);
    let _ = service.clone().oneshot(request()).await.unwrap().into_body().collect().await;
    upstream.set(status(503));
    send(&service, request()).await.1.is_some()
}

#[tokio::test(start_paused = true)]
async fn only_what_is_known_to_be_whole_is_kept() {
    let of =
        |headers: &[(&'static str, &'static str)], steps: &[Step]| Does::Answer(200, headers.to_vec(), steps.to_vec());
    let is_json = ("content-type", "application/json");
    for (kept, does) in [
        (true, json(WHOLE)),
        (true, stream(&[WORD, STOP])),
        (true, of(&[is_json], &[Step::Data(&WHOLE[..10]), Step::Data(&WHOLE[10..])])),
        (false, json(CUT_AT_LIMIT)),
        (false, json(&WHOLE[..60])),
        (false, json(r#"{"error":{"code":502,"message":"Provider returned error"}}"#)),
        (false, json("{}")),
        (false, stream(&[WORD])),
        (false, stream(&[WORD, "data: [DONE]\n\n"])),
        (false, stream(&[WORD, STOP, "data: {\"choices\":"])),
        (false, stream(&["data: {\"error\":{\"message\":\"overloaded\"}}\n\n", STOP])),
        (false, of(&[is_json], &[Step::Data(WHOLE), Step::Fail("cut")])),
        (false, of(&[is_json, ("content-length", "500")], &[Step::Data(WHOLE)])),
        (false, of(&[is_json, ("content-encoding", "gzip")], &[Step::Data(WHOLE)])),
        (false, of(&[is_json], &[Step::Data(WHOLE), Step::Trailers])),
        (false, of(&[("content-type", "text/plain")], &[Step::Data(WHOLE)])),
        (false, Does::Answer(202, vec![is_json], vec![Step::Data(WHOLE)])),
    ] {
        assert_eq!(is_kept(does.clone(), || ask(QUESTION)).await, kept, "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_guard_inside_has_found_counts() {
    // Too large to be looked at: the answer may have ended in it, or not.
    let unread = format!("data: {{\"logprobs\":[{}1],\"choices\":[]}}\n\n", "1,".repeat(600 * 1024)).leak();
    for (kept, does) in [
        (true, stream(&[WORD, STOP])),
        (true, stream(&[WORD, unread, STOP])),
        (false, stream(&[WORD, unread])),
        (false, stream(&[WORD, unread, "data: [DONE]\n\n"])),
        (true, json(WHOLE)),
        (false, json(CUT_AT_LIMIT)),
    ] {
        let upstream = Upstream::new();
        let layer = LastGoodLayer::new().max_answer(4 * 1024 * 1024);
        let service = layer.layer(StreamGuardLayer::new().layer(upstream.service()));
        let shown: String = format!("{does:?}").chars().take(500).collect();
        upstream.set(does);
        send(&service, ask(QUESTION)).await;
        upstream.set(status(503));
        assert_eq!(send(&service, ask(QUESTION)).await.1.is_some(), kept, "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_its_caller_left_is_not_kept() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().layer(upstream.service());
    upstream.set(stream(&[WORD, STOP]));
    let mut body = service.clone().oneshot(ask(QUESTION)).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn requests_that_it_is_not_for_pass() {
    let with = |change: fn(&mut Request<Full<Bytes>>)| {
        move || {
            let mut request = ask(QUESTION);
            change(&mut request);
            request
        }
    };
    assert!(is_kept(json(WHOLE), with(|_| {})).await);
    assert!(
        is_kept(
            json(WHOLE),
            with(|request| {
                request.headers_mut().remove("authorization");
                request.extensions_mut().insert(Tenant::new("acme"));
            })
        )
        .await
    );
    let passing: [fn(&mut Request<Full<Bytes>>); 5] = [
        |request| drop(request.headers_mut().remove("authorization")),
        |request| *request.method_mut() = http::Method::PUT,
        |request| *request.uri_mut() = "/v1/embeddings".parse().unwrap(),
        |request| drop(request.headers_mut().insert("upgrade", "websocket".parse().unwrap())),
        |request| {
            request.extensions_mut().insert(NoStore);
        },
    ];
    for change in passing {
        assert!(!is_kept(json(WHOLE), with(change)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_server_keeps_something_of_is_not_kept_here() {
    for state in [r#""store":true"#, r#""conversation":"c1""#, r#""thread_id":"t""#] {
        let body = QUESTION.replace("\"model\"", &format!("{state},\"model\""));
        assert!(!is_kept(json(WHOLE), || ask(&body)).await, "{state}");
    }
    const ANSWER: &str = r#"{"object":"response","status":"completed","output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"Paris"}]}]}"#;
    for (body, kept) in [
        (r#"{"model":"m","input":"hi","store":false}"#, true),
        (r#"{"model":"m","input":"hi"}"#, false),
        (r#"{"model":"m","input":"hi","store":false,"previous_response_id":"r"}"#, false),
        (r#"{"model":"m","input":"hi","store":false,"background":true}"#, false),
    ] {
        let request = || {
            let request = Request::post("/v1/responses").header("x-api-key", "k");
            request.body(Full::from(body)).unwrap()
        };
        assert_eq!(is_kept(json(ANSWER), request).await, kept, "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_passes() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().max_body_bytes(40).layer(upstream.service());
    assert_eq!(send(&service, ask(QUESTION)).await.2, WHOLE);
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.0, 503);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_long_passes() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().max_answer(WHOLE.len() - 1).layer(upstream.service());
    assert_eq!(send(&service, ask(QUESTION)).await.2, WHOLE);
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_off_does_nothing() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::disabled().layer(upstream.service());
    send(&service, ask(QUESTION)).await;
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn clones_and_services_share_what_is_kept() {
    let (upstream, layer) = (Upstream::new(), LastGoodLayer::new());
    send(&layer.layer(upstream.service()), ask(QUESTION)).await;
    upstream.set(status(503));
    assert_eq!(send(&layer.clone().layer(upstream.service()), ask(QUESTION)).await.1, Some(StaleKind::Exact));
}
