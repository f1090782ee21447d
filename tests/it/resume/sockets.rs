//! Over real sockets, HTTP/1.1 and HTTP/2.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt as _};
use tower_buttress::{CallBody, ResumeLayer, TimeoutProfile, presets};

/// How many events an answer has.
const EVENTS: usize = 600;

/// Counts the requests, and breaks off the first ones.
#[derive(Clone, Default)]
struct Provider(Arc<AtomicUsize>);

impl Provider {
    /// Some of the events, and the break: the first three times.
    fn stream(&self, events: &[String], behind: usize) -> Response {
        let breaks = self.0.fetch_add(1, SeqCst) < 3;
        // In pieces that do not end where events do.
        let all = events.get(behind..).unwrap_or_default().concat().into_bytes();
        let size = if breaks { all.len().min(9_973) } else { all.len() };
        let pieces: Vec<io::Result<Bytes>> =
            all[..size].chunks(1_237).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let cut = stream::once(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Err(io::Error::other("cut"))
        });
        let pieces = stream::iter(pieces);
        let body = if breaks { Body::from_stream(pieces.chain(cut)) } else { Body::from_stream(pieces) };
        ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
    }
}

fn responses() -> Vec<String> {
    let created = r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","background":true}}"#;
    let delta = |n| format!(r#"{{"type":"response.output_text.delta","sequence_number":{n},"delta":"word {n} "}}"#);
    let done = format!(
        r#"{{"type":"response.completed","sequence_number":{EVENTS},"response":{{"id":"resp_1","status":"completed"}}}}"#
    );
    let events = std::iter::once(created.to_owned()).chain((1..EVENTS).map(delta)).chain([done]);
    events.map(|data| format!("data: {data}\n\n")).collect()
}

fn numbered() -> Vec<String> {
    // As long as it takes to break three times within them.
    (1..=EVENTS).map(|n| format!("id: {n}\r\ndata: event {n} of a long stream of events\r\n\r\n")).collect()
}

fn chat() -> Vec<String> {
    let chunk = |delta: &str, reason: &str| {
        format!(
            "data: {{\"id\":\"c\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{reason}}}]}}\n\n"
        )
    };
    let mut events = vec![chunk("{\"role\":\"assistant\",\"content\":\"\"}", "null")];
    events.extend((1..EVENTS).map(|n| chunk(&format!("{{\"content\":\"word {n} \"}}"), "null")));
    events.extend([chunk("{}", "\"stop\""), "data: [DONE]\n\n".to_owned()]);
    events
}

async fn provider() -> (String, Provider) {
    let provider = Provider::default();
    let rest = async |State(provider): State<Provider>, Query(query): Query<Vec<(String, String)>>| {
        let after = query.iter().find(|(name, _)| name == "starting_after").unwrap();
        provider.stream(&responses(), after.1.parse::<usize>().unwrap() + 1)
    };
    let events = async |State(provider): State<Provider>, headers: HeaderMap| {
        let last = headers.get("last-event-id").map_or(0, |id| id.to_str().unwrap().parse().unwrap());
        provider.stream(&numbered(), last)
    };
    let router = Router::new()
        .route("/v1/responses", post(async |State(provider): State<Provider>| provider.stream(&responses(), 0)))
        .route("/v1/responses/resp_1", get(rest))
        .route("/v1/chat/completions", post(async |State(provider): State<Provider>| provider.stream(&chat(), 0)))
        .route("/events", get(events))
        .with_state(provider.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    (origin, provider)
}

fn client(http2: bool) -> Client<hyper_util::client::legacy::connect::HttpConnector, CallBody> {
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

#[tokio::test]
async fn an_answer_that_breaks_three_times_is_read_whole() {
    for http2 in [false, true] {
        let (origin, calls) = provider().await;
        let service = ResumeLayer::new().layer(client(http2));
        let request = Request::post(format!("{origin}/v1/responses")).body(Full::<Bytes>::from("{}")).unwrap();
        let body = service.oneshot(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, responses().concat(), "HTTP/2: {http2}");
        assert_eq!(calls.0.load(SeqCst), 4);
    }
}

#[tokio::test]
async fn events_with_ids_come_once_each_and_in_their_order() {
    for http2 in [false, true] {
        let (origin, calls) = provider().await;
        let service = ResumeLayer::new().layer(client(http2));
        let request = Request::get(format!("{origin}/events")).header("accept", "text/event-stream");
        let response = service.oneshot(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, numbered().concat(), "HTTP/2: {http2}");
        assert_eq!(calls.0.load(SeqCst), 4);
    }
}

#[tokio::test]
async fn a_chat_completion_is_made_anew_through_a_whole_preset() {
    for http2 in [false, true] {
        let (origin, calls) = provider().await;
        // Only the first answer breaks.
        calls.0.store(2, SeqCst);
        let preset = presets::llm_gateway(TimeoutProfile::STANDARD)
            .resume(|resume| resume.verified_restart(true).max_prefix(64 * 1024));
        let request = Request::post(format!("{origin}/v1/chat/completions")).header("content-type", "application/json");
        let request = request.body(Full::<Bytes>::from("{\"model\":\"m\",\"stream\":true}")).unwrap();
        let response = preset.layer(client(http2)).oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, chat().concat(), "HTTP/2: {http2}");
        assert_eq!(calls.0.load(SeqCst), 4);
    }
}
