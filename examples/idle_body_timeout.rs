//! Ends a stream that is silent, but not one that is slow.
//!
//! ```sh
//! cargo run --example idle_body_timeout
//! ```

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt};
use tower_buttress::error::{self, BoxError, IdleBodyElapsed};
use tower_buttress::{IdleActivity, IdleBodyTimeoutLayer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // Eight events in 800 ms, then only keep-alive comments, for ever.
    let stuck = || async {
        let events = stream::iter(0..8).map(|nth| format!("data: {nth}\n\n"));
        let slowly = events.chain(stream::repeat(": still here\n\n".to_owned())).then(|event| async {
            sleep(Duration::from_millis(100)).await;
            Ok::<_, BoxError>(event)
        });
        ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(slowly))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(stuck))).into_future());

    let service = ServiceBuilder::new()
        .layer(IdleBodyTimeoutLayer::new(Duration::from_millis(500)).activity(IdleActivity::SseEvents))
        .service(Client::builder(TokioExecutor::new()).build_http());

    let mut body = service.oneshot(Request::get(url).body(Empty::<Bytes>::new())?).await?.into_body();
    let failure = loop {
        match body.frame().await.ok_or("the stream ended")? {
            Ok(frame) => print!("{}", String::from_utf8_lossy(frame.data_ref().map_or(&[], |data| data))),
            Err(failure) => break failure,
        }
    };
    println!("{failure}");
    assert!(error::find::<IdleBodyElapsed>(&failure).is_some());
    Ok(())
}
