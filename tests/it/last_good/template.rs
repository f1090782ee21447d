//! What the operator says where nothing else is left.

use tower_buttress::DeadlineLayer;
use tower_buttress::proto::dialect::Kind;

use super::*;
use crate::support::{Log, secs};

fn layer() -> LastGoodLayer {
    LastGoodLayer::new().template(|request| {
        let name = request.last_message()?;
        (request.model().as_deref() != Some("silent"))
            .then(|| format!("{}: \"{name}\" has to wait.", request.dialect().as_str()))
    })
}

#[tokio::test(start_paused = true)]
async fn it_comes_last_and_is_marked() {
    let (upstream, log) = (Upstream::new(), Arc::new(Log::default()));
    let service = layer().observer(log.clone()).layer(upstream.service());
    upstream.set(status(503));
    let response = service.clone().oneshot(ask(QUESTION)).await.unwrap();
    assert_eq!((response.status().as_u16(), ServedBy::of(&response)), (200, Some("last-good")));
    assert_eq!(Stale::of(&response).map(|stale| stale.kind), Some(StaleKind::Template));
    assert_eq!(response.headers()["cache-status"], "buttress; fwd=miss; detail=last-good-template");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "openai-chat: \"What is the capital of France?\" has to wait."
    );
    assert_eq!(log.names(), ["stale_served: template"]);

    upstream.set(json(WHOLE));
    send(&service, ask(QUESTION)).await;
    upstream.set(status(503));
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Exact), "an earlier answer is better");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_has_no_text_is_returned() {
    let upstream = Upstream::new();
    let service = layer().layer(upstream.service());
    for failed in [status(503), Does::Break] {
        upstream.set(failed.clone());
        let silent = service.clone().oneshot(ask(&QUESTION.replace("\"m\"", "\"silent\""))).await;
        assert!(silent.is_err() == matches!(failed, Does::Break));
        assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Template));
    }
    upstream.set(status(503));
    for structured in [r#""response_format":{"type":"json_object"}"#, r#""tool_choice":"required""#] {
        let body = QUESTION.replace("\"model\"", &format!("{structured},\"model\""));
        assert_eq!(send(&service, ask(&body)).await.0, 503, "{structured}");
    }
    upstream.set(status(400));
    assert_eq!(send(&service, ask(QUESTION)).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn it_is_there_before_the_deadline() {
    let upstream = Upstream::new();
    let service = DeadlineLayer::new(secs(10)).layer(layer().layer(upstream.service()));
    upstream.set(Does::Hang);
    assert_eq!(send(&service, ask(QUESTION)).await.1, Some(StaleKind::Template));
}

#[tokio::test(start_paused = true)]
async fn each_dialect_is_answered_in_its_own_form_and_a_stream_by_a_stream() {
    let chat = r#""messages":[{"role":"user","content":"hi there"}]"#;
    let gemini = r#""contents":[{"role":"user","parts":[{"text":"hi there"}]}]"#;
    let upstream = Upstream::new();
    let service = layer().layer(upstream.service());
    upstream.set(status(503));
    for (kind, path, fields, content_type) in [
        (Kind::OpenAiChat, "/v1/chat/completions", chat, "text/event-stream"),
        (Kind::OpenAiResponses, "/v1/responses", r#""store":false,"input":"hi there""#, "text/event-stream"),
        (Kind::Anthropic, "/v1/messages", chat, "text/event-stream"),
        (Kind::Gemini, "/v1beta/models/g:streamGenerateContent?alt=sse", gemini, "text/event-stream"),
        (Kind::Gemini, "/v1beta/models/g:streamGenerateContent", gemini, "application/json"),
        (Kind::Cohere, "/v2/chat", chat, "text/event-stream"),
        (Kind::Ollama, "/api/chat", chat, "application/x-ndjson"),
    ] {
        let request = |path: &str, stream: bool| {
            let body = format!(r#"{{"model":"m",{fields},"stream":{stream}}}"#);
            Request::post(path).header("x-api-key", "k").body(Full::<Bytes>::from(body)).unwrap()
        };
        let text = format!("{}: \\\"hi there\\\" has to wait.", kind.as_str());
        let response = service.clone().oneshot(request(path, true)).await.unwrap();
        assert_eq!(response.headers()["content-type"], content_type, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(&text), "{path}: {body:?}");

        let path = path.replace("streamG", "g");
        let response = service.clone().oneshot(request(&path, false)).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(&text), "{path}: {body:?}");
    }
}
