//! Continues a broken answer after the last event that came.
//!
//! ```sh
//! cargo run --example resume --features llm
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt as _};
use tower_buttress::error::BoxError;
use tower_buttress::{CallInfo, Event, ResumeLayer};

const WORDS: [&str; 5] = ["The", " rest", " is", " not", " silence."];

/// The events of an answer from this number on; only three if the connection breaks.
fn answer(from: usize, breaks: bool) -> Response {
    let created = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","background":true}}"#;
    let delta =
        |(n, word)| format!(r#"{{"type":"response.output_text.delta","sequence_number":{n},"delta":"{word}"}}"#);
    let done = r#"{"type":"response.completed","sequence_number":6,"response":{"id":"resp_1","status":"completed"}}"#;
    let events = std::iter::once(created.to_owned()).chain((1..).zip(WORDS).map(delta)).chain([done.to_owned()]);
    let rest = stream::iter(events.skip(from).map(|data| Ok(Bytes::from(format!("data: {data}\n\n")))));
    let cut = stream::once(async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::other("the connection breaks"))
    });
    let body = if breaks { Body::from_stream(rest.take(3).chain(cut)) } else { Body::from_stream(rest) };
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // The provider keeps background answers, as OpenAI does.
    let rest = |Query(query): Query<Vec<(String, String)>>| async move {
        println!("  [the provider is asked for {query:?}]");
        let after = query.iter().find(|(name, _)| name == "starting_after").and_then(|(_, n)| n.parse::<usize>().ok());
        answer(after.map_or(0, |n| n + 1), false)
    };
    let provider =
        Router::new().route("/v1/responses", post(async || answer(0, true))).route("/v1/responses/resp_1", get(rest));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(axum::serve(listener, provider).into_future());

    let client = Client::builder(TokioExecutor::new()).build_http();
    let observer = |event: &Event, _: Option<&CallInfo>| println!("  [{event}]");
    let service = ResumeLayer::new().observer(Arc::new(observer)).layer(client);
    let request = Request::post(format!("http://{address}/v1/responses"));
    let body = Full::<Bytes>::from(r#"{"model":"m","input":"?","stream":true,"background":true}"#);
    let response = service.oneshot(request.header(CONTENT_TYPE, "application/json").body(body)?).await?;
    let mut answer = response.into_body();
    while let Some(frame) = answer.frame().await {
        println!("{}", String::from_utf8_lossy(&frame?.into_data().unwrap_or_default()).trim_end());
    }
    Ok(())
}
