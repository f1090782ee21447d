//! Turns a stream that ends early into an error, and an error inside a 200 into its status.
//!
//! ```sh
//! cargo run --example stream_guard --features llm
//! ```

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_buttress::StreamGuardLayer;
use tower_buttress::error::{self, BoxError, StreamTruncated};

const WORD: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\
                    \"delta\":{\"content\":\"hello\"},\"finish_reason\":null}]}\n\n";
const STOP: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\
                    \"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
const OVERLOADED: &str =
    "data: {\"error\":{\"message\":\"Overloaded\",\"type\":\"overloaded_error\",\"code\":null}}\n\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let provider = Router::new()
        .route("/whole/v1/chat/completions", post(async || stream(&[WORD, STOP])))
        .route("/cut/v1/chat/completions", post(async || stream(&[WORD])))
        .route("/overloaded/v1/chat/completions", post(async || stream(&[OVERLOADED])));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, provider).into_future());

    let guarded = StreamGuardLayer::new().layer(Client::builder(TokioExecutor::new()).build_http());
    let ask = async |kind: &str| {
        let request = Request::post(format!("http://{address}/{kind}/v1/chat/completions"));
        let body = Full::<Bytes>::from("{\"model\":\"m\",\"stream\":true}");
        let response = guarded.clone().oneshot(request.header("content-type", "application/json").body(body)?).await?;
        Ok::<_, BoxError>((response.status(), response.into_body().collect().await))
    };

    let (status, body) = ask("whole").await?;
    println!("whole: {status}, {} bytes", body?.to_bytes().len());

    let (status, body) = ask("cut").await?;
    let Err(failed) = body else { return Err("a cut stream was taken for whole".into()) };
    assert!(error::find::<StreamTruncated>(&*failed).is_some());
    println!("cut: {status}, and then: {failed}");

    let (status, body) = ask("overloaded").await?;
    assert_eq!(status, 529);
    println!("overloaded: {status}, {}", String::from_utf8_lossy(&body?.to_bytes()));
    Ok(())
}

fn stream(events: &[&str]) -> ([(&'static str, &'static str); 1], String) {
    ([("content-type", "text/event-stream")], events.concat())
}
