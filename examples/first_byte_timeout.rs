//! Turns an upstream that sends a 200 and then nothing into a 504, which retries and fallbacks can handle.
//!
//! ```sh
//! cargo run --example first_byte_timeout
//! ```

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{FirstByteTimeoutLayer, Rejection, RejectionKind};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let silence = || async { Body::from_stream(stream::pending::<Result<Bytes, BoxError>>()) };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(silence))).into_future());

    let service = ServiceBuilder::new()
        .layer(FirstByteTimeoutLayer::new(Duration::from_millis(200)))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let response = service.oneshot(Request::get(url).body(Empty::<Bytes>::new())?).await?;
    println!("{}", response.status());
    // The upstream's own 504 has no rejection.
    let rejection = Rejection::of(&response).ok_or("the upstream answered")?;
    println!("{rejection}");
    assert_eq!(rejection.kind(), RejectionKind::FirstByteTimeout);
    Ok(())
}
