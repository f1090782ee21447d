//! Stops calls to an upstream that is down; one probe detects its recovery.
//!
//! ```sh
//! cargo run --example circuit_breaker
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{CircuitBreakerConfig, CircuitBreakerLayer, CircuitState};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = up.clone();
    let answer = move || async move {
        if is_up.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(answer))).into_future());

    let open = CircuitBreakerConfig::new().open_duration(Duration::from_millis(200), Duration::from_secs(5));
    let breaker = CircuitBreakerLayer::with_config(open);
    let circuit = breaker.handle();
    let service = breaker.layer(Client::builder(TokioExecutor::new()).build_http());
    let ask = async || {
        let request = Request::get(&url).body(Empty::<Bytes>::new())?;
        Ok::<_, BoxError>(service.clone().oneshot(request).await?.status())
    };

    for _ in 0..5 {
        ask().await?;
    }
    println!("after five failures: {}", circuit.state());
    assert_eq!((ask().await?, circuit.state()), (StatusCode::SERVICE_UNAVAILABLE, CircuitState::Open));
    println!("asked again: refused {} time", circuit.snapshot().refused);

    up.store(true, Ordering::Relaxed);
    tokio::time::sleep(circuit.snapshot().open_for.unwrap_or_default()).await;
    assert_eq!((ask().await?, circuit.state()), (StatusCode::OK, CircuitState::Closed));
    println!("after one call that succeeded: {}", circuit.state());
    Ok(())
}
