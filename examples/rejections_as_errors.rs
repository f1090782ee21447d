//! Turns the layers' refusals into errors for code that matches on them; the upstream's own 504 stays an answer.
//!
//! ```sh
//! cargo run --example rejections_as_errors
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
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::{self, BoxError};
use tower_buttress::{Rejection, RejectionKind, ServiceBuilderExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let app = Router::new()
        .route("/gateway", get(|| async { StatusCode::GATEWAY_TIMEOUT }))
        .route("/silent", get(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());

    let service = ServiceBuilder::new()
        .rejections_as_errors()
        .deadline(Duration::from_millis(200))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let get = |path| Request::get(format!("{url}{path}")).body(Empty::<Bytes>::new());
    let answer = service.clone().oneshot(get("/gateway")?).await?;
    println!("the upstream: {}", answer.status());

    let failure = service.oneshot(get("/silent")?).await.err().ok_or("an answer")?;
    let rejection = error::find::<Rejection>(&failure).ok_or("another failure")?;
    println!("the deadline: {rejection}");
    assert_eq!(rejection.kind(), RejectionKind::DeadlineExceeded);
    Ok(())
}
