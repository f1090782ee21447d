//! Answers to similar requests: opt-in, guarded, labelled.

use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_buttress::{DeadlineLayer, Embedder, Embedding, Memory, OpenAiEmbeddings, Similar};

use super::*;
use crate::support::{Log, secs};

/// Finds everything alike.
#[derive(Clone, Default)]
pub(crate) struct Alike {
    pub(crate) asked: Arc<AtomicUsize>,
    pub(crate) does: Arc<Mutex<Option<&'static str>>>,
}

impl Embedder for Alike {
    fn id(&self) -> &str {
        "alike"
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        self.asked.fetch_add(texts.len(), SeqCst);
        let does = *self.does.lock().unwrap();
        Box::pin(async move {
            match does {
                Some("hang") => std::future::pending().await,
                Some(why) => Err(why.into()),
                None => Ok(texts.iter().map(|text| vec![1.0, if text.contains("far") { 5.0 } else { 0.1 }]).collect()),
            }
        })
    }
}

pub(crate) fn question(text: &str) -> Request<Full<Bytes>> {
    let text = serde_json::json!(text);
    ask(&format!(r#"{{"model":"m","messages":[{{"role":"user","content":{text}}}]}}"#))
}

/// What runs in the background has run.
pub(crate) async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

const KEPT: &str = "What is the capital of France?";
const ALIKE: &str = "Could you tell me the capital of France?";

#[tokio::test(start_paused = true)]
async fn a_similar_question_is_answered_and_labelled() {
    let (upstream, embedder, log) = (Upstream::new(), Alike::default(), Arc::new(Log::default()));
    let layer = LastGoodLayer::new().similar(Similar::new(embedder.clone())).observer(log.clone());
    let service = layer.layer(upstream.service());
    send(&service, question(KEPT)).await;
    settle().await;
    assert_eq!(embedder.asked.load(SeqCst), 1, "an answer that is kept, in the background");

    upstream.set(status(503));
    assert_eq!(send(&service, question(KEPT)).await.1, Some(StaleKind::Exact));
    assert_eq!(embedder.asked.load(SeqCst), 1, "the same question needs no embedding");
    tokio::time::advance(secs(9)).await;
    let response = service.clone().oneshot(question(ALIKE)).await.unwrap();
    assert_eq!(Stale::of(&response), Some(Stale::new(StaleKind::Similar, secs(9))));
    assert_eq!(response.headers()["x-buttress-similarity"], "1.000");
    assert_eq!(response.headers()["cache-status"], "buttress; hit; ttl=-9; detail=last-good-similar");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), WHOLE);
    assert_eq!(log.names(), ["stale_served: exact", "stale_served: similar"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_near_enough_or_means_something_else_is_not_similar() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().similar(Similar::new(Alike::default())).layer(upstream.service());
    send(&service, question(KEPT)).await;
    settle().await;
    upstream.set(status(503));
    for other in [
        "How far is the capital of France?",
        "What is the capital of Spain?",
        "What is not the capital of France?",
        "What is the 2nd capital of France?",
        "capital?",
    ] {
        assert_eq!(send(&service, question(other)).await.0, 503, "{other}");
    }
    let json = r#"{"model":"m","response_format":{"type":"json_object"},"messages":[{"role":"user","content":"What is the capital of France?"}]}"#;
    upstream.set(super::json(WHOLE));
    send(&service, ask(json)).await;
    settle().await;
    upstream.set(status(503));
    assert_eq!(send(&service, ask(&json.replace(KEPT, ALIKE))).await.0, 503, "JSON is for programs");
    assert_eq!(send(&service, ask(json)).await.1, Some(StaleKind::Exact));
}

/// Finds texts of one length alike.
struct ByLength;

impl Embedder for ByLength {
    fn id(&self) -> &str {
        "length"
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        let vectors = texts.iter().map(|text| vec![1.0, text.len() as f32 / 100.0]).collect();
        Box::pin(async { Ok(vectors) })
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_the_nearest_that_means_the_same_is_returned() {
    let upstream = Upstream::new();
    let service = LastGoodLayer::new().similar(Similar::new(ByLength)).layer(upstream.service());
    for (kept, answer) in [
        (KEPT, CUT_AT_LIMIT.replace("length", "stop")),
        ("Please tell me what is the capital of France", WHOLE.to_owned()),
        ("Would you tell me the capital of Spain?", WHOLE.replace("Paris", "Madrid")),
    ] {
        upstream.set(json(Box::leak(answer.into_boxed_str())));
        send(&service, question(kept)).await;
    }
    settle().await;
    upstream.set(status(503));
    let got = send(&service, question("Could you tell me the capital of France?")).await;
    assert_eq!(got, (200, Some(StaleKind::Similar), WHOLE.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn without_an_embedding_the_failure_is_returned() {
    let (upstream, embedder) = (Upstream::new(), Alike::default());
    let layer = LastGoodLayer::new().similar(Similar::new(embedder.clone()));
    let service = DeadlineLayer::new(secs(60)).layer(layer.layer(upstream.service()));
    send(&service, question(KEPT)).await;
    settle().await;
    upstream.set(status(503));
    *embedder.does.lock().unwrap() = Some("down");
    assert_eq!(send(&service, question(ALIKE)).await.0, 503);
    *embedder.does.lock().unwrap() = Some("hang");
    let start = tokio::time::Instant::now();
    assert_eq!(send(&service, question(ALIKE)).await.0, 503);
    assert_eq!(start.elapsed(), secs(2));
    // Before a deadline there is no time for it.
    upstream.set(Does::Hang);
    let asked = embedder.asked.load(SeqCst);
    assert_eq!(send(&service, question(ALIKE)).await.0, 504);
    assert_eq!(embedder.asked.load(SeqCst), asked);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_embedded_is_kept_all_the_same() {
    let (upstream, embedder) = (Upstream::new(), Alike::default());
    *embedder.does.lock().unwrap() = Some("hang");
    let service = LastGoodLayer::new().similar(Similar::new(embedder)).layer(upstream.service());
    for number in 0..20 {
        send(&service, question(&format!("What is the capital number {number}?"))).await;
    }
    upstream.set(status(503));
    assert_eq!(send(&service, question("What is the capital number 19?")).await.1, Some(StaleKind::Exact));
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(send(&service, question("Which is capital number 19?")).await.0, 503);
}

#[tokio::test]
async fn embeddings_come_from_a_service_of_openais_api() {
    async fn embed(headers: HeaderMap, Json(body): Json<serde_json::Value>) -> Json<serde_json::Value> {
        assert_eq!((&headers["authorization"], &body["model"]), (&"Bearer e".parse().unwrap(), &"small".into()));
        let texts = body["input"].as_array().unwrap().iter().enumerate();
        let data: Vec<_> =
            texts.map(|(index, _)| serde_json::json!({ "index": index, "embedding": [1, 0.5] })).collect();
        Json(serde_json::json!({ "data": data }))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/embeddings", listener.local_addr().unwrap());
    let server =
        Router::new().route("/v1/embeddings", post(embed)).route("/down", post(async || http::StatusCode::BAD_GATEWAY));
    tokio::spawn(axum::serve(listener, server).into_future());
    let client = || Client::builder(TokioExecutor::new()).build_http::<CallBody>();
    let embedder = OpenAiEmbeddings::new(client(), url.parse().unwrap(), "small")
        .header(http::header::AUTHORIZATION, "Bearer e".parse().unwrap());
    assert!(!format!("{embedder:?}").contains("Bearer"));
    let vectors = embedder.embed(vec!["a".into(), "b".into()]).await.unwrap();
    assert_eq!(vectors, [[1.0, 0.5], [1.0, 0.5]]);

    let down = OpenAiEmbeddings::new(client(), url.replace("v1/embeddings", "down").parse().unwrap(), "small");
    assert!(down.embed(vec!["a".into()]).await.is_err());
}

const VECTOR: &str = r#"{"data":[{"index":0,"embedding":[1,0.5]}]}"#;

/// A call that has failed is answered with its failure where no embedding can be had, and not later than it has to be.
#[tokio::test(start_paused = true)]
async fn a_service_of_embeddings_that_fails_costs_no_call_more_than_its_limits() {
    let long: &'static str = Box::leak(VECTOR.replace("0.5", &format!("0.5{}", "0".repeat(300_000))).into_boxed_str());
    let json = |body| Does::Answer(200, vec![("content-type", "application/json")], vec![Step::Data(body)]);
    let (upstream, embeddings) = (Upstream::new(), Upstream::new());
    let memory = Memory::new(1024 * 1024);
    let embedder = OpenAiEmbeddings::new(embeddings.service(), "http://e/v1/embeddings".parse().unwrap(), "m");
    let layer = LastGoodLayer::new().similar(Similar::new(embedder.memory(memory.clone())));
    let service = DeadlineLayer::new(secs(60)).layer(layer.layer(upstream.service()));
    embeddings.set(json(VECTOR));
    send(&service, question(KEPT)).await;
    settle().await;
    upstream.set(status(503));
    let cut = vec![Step::Data(&VECTOR[..20]), Step::Fail("cut")];
    for (does, took) in [
        (Does::Hang, 2),
        (Does::Break, 0),
        (status(500), 0),
        (status(429), 0),
        (json("{}"), 0),
        (json("no"), 0),
        (json(r#"{"data":[{"index":0,"embedding":[]}]}"#), 0),
        (json(long), 0),
        (Does::Answer(200, vec![], cut), 0),
        (Does::Answer(200, vec![], vec![Step::Data(&VECTOR[..20]), Step::Wait(secs(9)), Step::Data(&VECTOR[20..])]), 2),
    ] {
        embeddings.set(does.clone());
        let (start, before) = (tokio::time::Instant::now(), embeddings.calls());
        assert_eq!(send(&service, question(ALIKE)).await.0, 503, "{does:?}");
        assert_eq!((start.elapsed(), embeddings.calls() - before), (secs(took), 1), "{does:?}");
        assert_eq!((memory.used(), embeddings.alive.load(SeqCst)), (0, 0), "all is given back after {does:?}");
    }
    // A call that has little time left waits for half of it.
    embeddings.set(Does::Hang);
    let hurried = DeadlineLayer::new(secs(2)).layer(service.clone());
    let start = tokio::time::Instant::now();
    assert_eq!(send(&hurried, question(ALIKE)).await.0, 503);
    assert_eq!(start.elapsed(), secs(1));

    embeddings.set(json(VECTOR));
    assert_eq!(send(&service, question(ALIKE)).await.1, Some(StaleKind::Similar));
    // Without memory there is none either.
    let mut held = memory.reserve(None);
    assert!(held.grow(1024 * 1024));
    embeddings.set(json(Box::leak(VECTOR.replace("0.5", &format!("0.5{}", "0".repeat(9_000))).into_boxed_str())));
    assert_eq!(send(&service, question(ALIKE)).await.0, 503);
    drop(held);
    assert_eq!(send(&service, question(ALIKE)).await.1, Some(StaleKind::Similar));
}
