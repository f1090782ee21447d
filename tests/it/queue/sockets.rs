//! Streams over HTTP/2 and HTTP/1.1, counted by the server that sends them.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use futures_util::stream;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::Layer;

use super::*;

/// A server of streams of ten events, which counts those that it sends.
async fn server(busy: Busy) -> SocketAddr {
    async fn events(State(busy): State<Busy>) -> Body {
        Body::from_stream(stream::unfold((0, busy.begin()), async |(event, call)| {
            tokio::time::sleep(Duration::from_millis(2)).await;
            (event < 10).then(|| (Ok::<_, Infallible>(format!("data: {event}\n\n")), (event + 1, call)))
        }))
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(events)).with_state(busy);
    tokio::spawn(axum::serve(listener, app).into_future());
    at
}

/// Thirty callers of three streams each, a third of which go away in the middle.
async fn three_streams_at_a_time(http2: bool) {
    let busy = Busy::default();
    let at = server(busy.clone()).await;
    let layer = QueueLayer::new(3);
    let service = layer.layer(Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Empty<Bytes>>());
    let mut callers = JoinSet::new();
    for caller in 0..30 {
        let service = service.clone();
        callers.spawn(async move {
            for _ in 0..3 {
                let request = Request::get(format!("http://{at}/")).body(Empty::new()).unwrap();
                let mut body = service.clone().oneshot(request).await.unwrap().into_body();
                if caller % 3 == 0 {
                    body.frame().await.unwrap().unwrap();
                } else {
                    assert!(body.collect().await.unwrap().to_bytes().ends_with(b"data: 9\n\n"));
                }
            }
        });
    }
    callers.join_all().await;
    is_empty(&layer);
    // The server hears of one that went away a little later than the next is sent.
    assert!((1..=6).contains(&busy.most()), "{}", busy.most());
    assert!(busy.now() <= 3);
}

#[tokio::test]
async fn over_http2_no_more_streams_are_under_way_than_allowed() {
    three_streams_at_a_time(true).await;
}

#[tokio::test]
async fn over_http1_no_more_streams_are_under_way_than_allowed() {
    three_streams_at_a_time(false).await;
}
