//! Limits the time to connect: name resolution, TCP and TLS together.
//!
//! ```sh
//! cargo run --example connect_timeout
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower::{Layer, service_fn};
use tower_buttress::ConnectTimeoutLayer;
use tower_buttress::error::{self, BoxError, ConnectElapsed};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // The name server of this connector never answers.
    let resolving = service_fn(|_: Uri| std::future::pending::<Result<TokioIo<TcpStream>, BoxError>>());
    let connector = ConnectTimeoutLayer::new(Duration::from_millis(200)).layer(resolving);
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);

    let failure = client.request(Request::get("http://model.example/").body(Empty::new())?).await.err();
    let failure = BoxError::from(failure.ok_or("it is connected")?);
    let elapsed = error::find::<ConnectElapsed>(&failure).ok_or("another failure")?;
    println!("{failure}: {elapsed}");

    // With the usual connector it takes one line.
    let connector = ConnectTimeoutLayer::new(Duration::from_secs(5)).layer(HttpConnector::new());
    let _client = Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector);
    Ok(())
}
