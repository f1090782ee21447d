//! Chooses the time limits of a request by the model in its body.
//!
//! ```sh
//! cargo run --example inspect_request
//! ```

use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{InspectRequestLayer, TimeoutProfile, presets};

/// The parsed part of a request's body.
#[derive(Deserialize)]
struct Asked<'a> {
    model: &'a str,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // The upstream thinks for 0.5 s, for every model.
    let think = |Json(asked): Json<serde_json::Value>| async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Json(asked["model"].clone())
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/v1/chat", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/v1/chat", post(think))).into_future());

    let quick = TimeoutProfile::FAST.with_first_byte(Duration::from_millis(200));
    let by_model = InspectRequestLayer::new(|head, body| {
        if let Ok(Asked { model: "deep" }) = serde_json::from_slice(body) {
            head.extensions.insert(TimeoutProfile::DEEP);
        }
    });
    let client = Client::builder(TokioExecutor::new()).build_http();
    let service = ServiceBuilder::new().layer(by_model).layer(presets::http_client(quick)).service(client);

    for (model, status) in [("deep", 200), ("quick", 504)] {
        let body = Full::<Bytes>::from(format!(r#"{{ "model": "{model}", "stream": false }}"#));
        let request = Request::post(&url).header("content-type", "application/json").body(body)?;
        let answer = service.clone().oneshot(request).await?;
        println!("{model}: {}", answer.status());
        assert_eq!(answer.status(), status);
    }
    Ok(())
}
