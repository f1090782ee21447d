//! Lets a caller whose connection is cut come back to its answer: it gets every word once, from one upstream call.
//!
//! ```sh
//! cargo run --example resumable
//! ```

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::post;
use futures_util::stream;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_buttress::error::BoxError;
use tower_buttress::proto::sse::{Item, Parser};
use tower_buttress::{DedupLayer, Resumable};

static ASKED: AtomicUsize = AtomicUsize::new(0);

/// A model that sends a word every 20 ms.
async fn model() -> impl IntoResponse {
    ASKED.fetch_add(1, Ordering::Relaxed);
    let words = stream::unfold(0, |said| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        (said < 20).then(|| (Ok::<_, Infallible>(format!("data: word {said}\n\n")), said + 1))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(words))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let layer = DedupLayer::new().resumable(Resumable::at("/answers"));
    let server = Router::new().route("/chat", post(model)).layer(layer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, server).into_future());

    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let question = Request::post(format!("http://{address}/chat"));
    let question = question.header("authorization", "Bearer me").header("idempotency-key", "question-1");
    let (mut request, mut answer_url, mut last_id) =
        (question.body(Full::from("hello"))?, String::new(), String::new());
    let (mut words, mut connections) = (Vec::new(), 0);
    loop {
        let mut response = client.request(request).await?;
        connections += 1;
        if response.status() == 204 {
            break;
        }
        if let Some(location) = response.headers().get("content-location") {
            answer_url = format!("http://{address}{}", location.to_str()?);
        }
        let mut parser = Parser::new();
        // This caller's connection is cut after seven pieces.
        for _ in 0..7 {
            let Some(Ok(frame)) = response.frame().await else { break };
            let data = frame.into_data().unwrap_or_default();
            let mut rest = &data[..];
            while let Some(item) = parser.next(&mut rest) {
                if let Item::Message(message) = item {
                    words.push(message.data.into_owned());
                    last_id = message.last_event_id.to_string();
                }
            }
        }
        request = Request::get(&answer_url).header("last-event-id", &last_id).body(Full::default())?;
    }
    let expected: Vec<String> = (0..20).map(|said| format!("word {said}")).collect();
    assert_eq!((words, ASKED.load(Ordering::Relaxed)), (expected, 1));
    println!("20 words over {connections} connections; the model was asked once");
    Ok(())
}
