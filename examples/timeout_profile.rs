//! Gives models that think other time limits in the same stack: here by path, but a header or extension works too.
//!
//! ```sh
//! cargo run --example timeout_profile
//! ```

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{TimeoutProfile, presets};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let thinks = || async { sleep(Duration::from_millis(500)).await };
    let app = Router::new().route("/chat", get(thinks)).route("/reasoning", get(thinks));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());

    let quick = TimeoutProfile::FAST.with_answer(Duration::from_millis(200));
    let service = presets::llm_client(quick)
        .profile(|head| head.uri.path().starts_with("/reasoning").then_some(TimeoutProfile::EXTENDED_THINKING))
        .layer(Client::builder(TokioExecutor::new()).build_http());

    for (path, expected) in [("/chat", StatusCode::GATEWAY_TIMEOUT), ("/reasoning", StatusCode::OK)] {
        let request = Request::get(format!("{url}{path}")).body(Empty::<Bytes>::new())?;
        let status = service.clone().oneshot(request).await?.status();
        println!("{path}: {status}");
        assert_eq!(status, expected);
    }
    Ok(())
}
