//! Answers a double click with one upstream call; both callers get the whole stream.
//!
//! ```sh
//! cargo run --example dedup
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{DedupRole, ServiceBuilderExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let speak = move || async move {
        let nth = counted.fetch_add(1, Ordering::Relaxed);
        let words = stream::iter(0..5).then(move |word| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok::<_, BoxError>(format!("{nth}.{word} "))
        });
        Body::from_stream(words)
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", post(speak))).into_future());

    let service = ServiceBuilder::new().dedup().service(Client::builder(TokioExecutor::new()).build_http());
    let click = async |after| {
        tokio::time::sleep(Duration::from_millis(after)).await;
        let request = Request::post(&url).header("authorization", "Bearer alice").body(Full::<Bytes>::from("hello"))?;
        let response = service.clone().oneshot(request).await?;
        let role = response.extensions().get::<DedupRole>().copied();
        Ok::<_, BoxError>((role, response.into_body().collect().await?.to_bytes()))
    };
    let (first, second) = tokio::try_join!(click(0), click(120))?;
    println!("{:?}: {:?}\n{:?}: {:?}", first.0, first.1, second.0, second.1);
    assert_eq!((first.1, second.0), (second.1, Some(DedupRole::Joined)));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    Ok(())
}
