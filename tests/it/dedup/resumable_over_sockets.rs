//! Callers come back over real connections, which are cut.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_buttress::proto::sse::{Item, Parser};
use tower_buttress::{DedupLayer, Resumable};

const WORDS: usize = 40;

/// A model that says words, with comments between them, and lines that end as lines may.
fn model(asked: &AtomicUsize) -> impl IntoResponse + use<> {
    asked.fetch_add(1, SeqCst);
    let pieces = futures_util::stream::unfold(0, |said| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let end = ["\n", "\r\n", "\r"][said % 3];
        let comment = if said % 4 == 0 { format!(": thinking{end}{end}") } else { String::new() };
        let word = format!("{comment}event: word{end}data: {said} \u{1F980}{end}{end}");
        // Events are cut too.
        (said < WORDS).then(|| (Ok::<_, Infallible>(word), said + 1))
    });
    ([("content-type", "text/event-stream")], Body::from_stream(pieces))
}

async fn serve(layer: DedupLayer, asked: Arc<AtomicUsize>) -> SocketAddr {
    let router = Router::new().route("/chat", post(async move || model(&asked))).layer(layer);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// A connection of its own for each request.
async fn request(http2: bool, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
    client.request(request).await.unwrap()
}

#[tokio::test]
async fn the_exact_text_arrives_when_the_connection_is_cut_many_times() {
    for http2 in [false, true] {
        let asked = Arc::<AtomicUsize>::default();
        let addr = serve(DedupLayer::new().resumable(Resumable::at("/answers")), asked.clone()).await;
        let ask = Request::post(format!("http://{addr}/chat"));
        let ask =
            ask.header("authorization", "Bearer a").header("idempotency-key", "k").body(Full::from("hi")).unwrap();
        let mut response = request(http2, ask).await;
        assert_eq!(response.status(), 200);
        let location = format!("http://{addr}{}", response.headers()["content-location"].to_str().unwrap());
        let (mut words, mut last, mut connections) = (Vec::new(), String::new(), 1);
        loop {
            let (mut parser, mut left) = (Parser::new(), 7 + 40 * connections);
            while let Some(Ok(frame)) = response.frame().await {
                let data = frame.into_data().unwrap_or_default();
                // What comes behind the cut is lost, in the middle of an event as well.
                let mut rest = &data[..data.len().min(left)];
                left -= rest.len();
                while let Some(item) = parser.next(&mut rest) {
                    if let Item::Message(message) = item {
                        words.push(message.data.into_owned());
                        last = message.last_event_id.to_string();
                    }
                }
                if left == 0 {
                    break;
                }
            }
            drop(response);
            connections += 1;
            assert!(connections < 100);
            let again = Request::get(&location).header("last-event-id", &last).body(Full::default()).unwrap();
            response = request(http2, again).await;
            if response.status() == 204 {
                break;
            }
            assert_eq!(response.status(), 200);
        }
        let expected: Vec<String> = (0..WORDS).map(|said| format!("{said} \u{1F980}")).collect();
        assert_eq!(words, expected, "HTTP/2: {http2}");
        assert!(connections > 4, "{connections}");
        assert_eq!(asked.load(SeqCst), 1);

        let stop = Request::delete(&location).body(Full::default()).unwrap();
        assert_eq!(request(http2, stop).await.status(), 204);
        let gone = Request::get(&location).body(Full::default()).unwrap();
        assert_eq!(request(http2, gone).await.status(), 410);
    }
}
