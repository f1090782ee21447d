//! Returns the last whole answer to the same request, marked as old, when the provider is down.
//!
//! ```sh
//! cargo run --example last_good --features llm
//! ```

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, LastGoodLayer, Stale, TimeoutProfile, presets};

const WORD: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Paris\"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let provider = Router::new()
        .route("/v1/chat/completions", post(async || ([("content-type", "text/event-stream")], [WORD, STOP].concat())));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = tokio::spawn(axum::serve(listener, provider).into_future());

    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http::<CallBody>();
    let stack = presets::llm_gateway(TimeoutProfile::FAST)
        .last_good(|_| LastGoodLayer::new())
        .retry(|retry| retry.attempts(1))
        // Otherwise dedup would replay the first answer, which is recent.
        .dedup(|dedup| dedup.fingerprints(false));
    let service = stack.layer(client);
    let ask = async |question: &str| {
        let body = serde_json::json!({
            "model": "m", "stream": true, "messages": [{ "role": "user", "content": question }],
        });
        let request = Request::post(format!("http://{address}/v1/chat/completions"))
            .header("authorization", "Bearer alice")
            .header("content-type", "application/json");
        let response: Response<_> =
            service.clone().oneshot(request.body(Full::<Bytes>::from(body.to_string()))?).await?;
        let (head, body) = response.into_parts();
        Ok::<_, BoxError>(Response::from_parts(head, body.collect().await?.to_bytes()))
    };

    let fresh = ask("What is the capital of France?").await?;
    assert_eq!(Stale::of(&fresh), None);
    println!("the provider is up: {}, {} bytes", fresh.status(), fresh.body().len());

    server.abort();
    let _ = server.await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let stale = ask("what is the capital of France").await?;
    let Some(how) = Stale::of(&stale) else { return Err("there was an answer".into()) };
    assert_eq!(stale.body(), fresh.body());
    println!(
        "it is down: {}, {} answer, {} s old, {:?}",
        stale.status(),
        how.kind,
        how.age.as_secs(),
        stale.headers()["cache-status"]
    );

    match ask("What is the capital of Spain?").await {
        Ok(refused) => println!("another question: {}", refused.status()),
        Err(failed) => println!("another question: {failed}"),
    }
    Ok(())
}
