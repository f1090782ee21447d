//! Ends an answer and its upstream call when its caller asks something else.
//!
//! ```sh
//! cargo run --example supersede
//! ```

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_buttress::error::{self, BoxError, Superseded};
use tower_buttress::{SupersedeLayer, Tenant};

const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");

/// An answer of ten words, ten a second. Prints the number of words sent when it ends or loses its reader.
async fn answer(question: String) -> Body {
    struct Told(String, u32);
    impl Drop for Told {
        fn drop(&mut self) {
            println!("upstream: {:?} ends after {} words", self.0, self.1);
        }
    }
    Body::from_stream(stream::unfold(Told(question, 0), async |mut told| {
        if told.1 == 10 {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        told.1 += 1;
        Some((Ok::<_, Infallible>(format!("data: word {}\n\n", told.1)), told))
    }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, Router::new().route("/", post(answer))).into_future());

    let layer = SupersedeLayer::by_header(CONVERSATION);
    let service = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    let ask = move |question: &'static str| {
        let (service, request) = (service.clone(), Request::post(&url).header(CONVERSATION, "7"));
        async move {
            let request = request.extension(Tenant::new("acme")).body(Full::<Bytes>::from(question))?;
            Ok::<_, BoxError>(service.oneshot(request).await?.into_body().collect().await?.to_bytes())
        }
    };

    let first = tokio::spawn(ask("Where is my order?"));
    tokio::time::sleep(Duration::from_millis(450)).await;
    let second = ask("Where is my order 4711?").await?;
    println!("the second answer has {} bytes", second.len());

    let failed = first.await?.err().ok_or("the first answer should have been ended")?;
    assert!(error::find::<Superseded>(&failed).is_some());
    println!("the first one: {failed}");
    Ok(())
}
