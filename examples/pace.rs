//! Keeps calls below a provider's limit of ten per second, so that it never answers 429.
//!
//! ```sh
//! cargo run --example pace
//! ```

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{PaceLayer, Rate};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let taken = Arc::new(Mutex::new(Vec::<Instant>::new()));
    let answer = move || async move {
        let (now, mut taken) = (Instant::now(), taken.lock().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?);
        taken.retain(|at| now.duration_since(*at) < Duration::from_millis(990));
        if taken.len() >= 10 {
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        taken.push(now);
        Ok("done")
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(answer))).into_future());

    let pace = PaceLayer::new().requests(Rate::per_second(10));
    let service = pace.layer(Client::builder(TokioExecutor::new()).build_http());
    let (start, mut callers) = (Instant::now(), JoinSet::new());
    for _ in 0..15 {
        let (service, request) = (service.clone(), Request::get(&url).body(Empty::<Bytes>::new())?);
        callers.spawn(async move {
            let response = service.oneshot(request).await?;
            let status = response.status();
            response.into_body().collect().await?;
            Ok::<_, BoxError>(status)
        });
    }
    let answers = callers.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    println!("{} calls in {:?}, all of them answered", answers.len(), start.elapsed());
    assert!(answers.iter().all(|status| *status == StatusCode::OK));
    Ok(())
}
