//! Retries a request with the same body after the second that `Retry-After: 1` asks for.
//!
//! ```sh
//! cargo run --example retry_after_backoff
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::BoxError;
use tower_buttress::{Attempts, CallInfo, Event, Observer, RetryAfterBackoffLayer};

struct Print;

impl Observer for Print {
    fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
        println!("{event}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let calls = AtomicU32::new(0);
    let busy_once = Arc::new(move |body: Bytes| match calls.fetch_add(1, Ordering::Relaxed) {
        0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        _ => Response::new(body.into()),
    });
    let app = Router::new().route("/", post(async move |body: Bytes| busy_once(body)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, app).into_future());

    let service = ServiceBuilder::new()
        .layer(RetryAfterBackoffLayer::llm().observer(Arc::new(Print)))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let start = Instant::now();
    let response = service.oneshot(Request::post(url).body(Full::<Bytes>::from("hello"))?).await?;
    println!("{} after {:?}", response.status(), start.elapsed());
    assert_eq!((response.status(), Attempts::of(&response)), (StatusCode::OK, Attempts(2)));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
    Ok(())
}
