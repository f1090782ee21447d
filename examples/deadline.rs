//! Gives one time budget to a request and every call it makes: a handler's client inherits its caller's remaining
//! time.
//!
//! ```sh
//! cargo run --example deadline
//! ```

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{DeadlineHeader, DeadlineLayer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // The upstream returns the deadline that it received.
    let told = |headers: HeaderMap| async move { headers["grpc-timeout"].to_str().unwrap_or_default().to_owned() };
    let upstream = serve(Router::new().route("/", get(told))).await?;

    // The server accepts its caller's budget; its client passes on the rest, less 100 ms for the way back.
    let client = ServiceBuilder::new()
        .layer(
            DeadlineLayer::new(Duration::from_secs(90))
                .propagate(DeadlineHeader::grpc())
                .reserve(Duration::from_millis(100)),
        )
        .service(Client::builder(TokioExecutor::new()).build_http());
    let ask = || async move {
        let request = Request::get(upstream).body(Empty::<Bytes>::new());
        let answer = client.oneshot(request.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?).await;
        answer.map(|answer| answer.map(Body::new)).map_err(|_| StatusCode::BAD_GATEWAY)
    };
    let accept = DeadlineLayer::new(Duration::from_secs(60)).accept(DeadlineHeader::grpc());
    let server = serve(Router::new().route("/", get(ask)).layer(accept)).await?;

    let request = Request::get(server).header("grpc-timeout", "2S").body(Empty::<Bytes>::new())?;
    let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await?;
    let told = String::from_utf8(answer.into_body().collect().await?.to_bytes().into())?;
    println!("the caller has 2 s, the upstream is told {told}");
    let micros: u32 = told.trim_end_matches('u').parse()?;
    assert!(micros <= 1_900_000);
    Ok(())
}

async fn serve(app: Router) -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());
    Ok(url)
}
