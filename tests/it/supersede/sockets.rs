//! Over HTTP/1.1 and HTTP/2: axum as the server, and an upstream that counts its streams.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use futures_util::stream;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower_buttress::{DedupLayer, SseHeartbeatLayer};

use super::*;

type Caller = Client<HttpConnector, Full<Bytes>>;

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    at
}

/// An upstream of streams that do not end by themselves.
async fn provider(alive: &Alive) -> SocketAddr {
    async fn events(State(alive): State<Alive>, text: String) -> Response<Body> {
        let events = stream::unfold((0, alive.enter()), move |(event, living)| {
            let text = text.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(if event == 0 { 0 } else { 20 })).await;
                let data = format!("data: {text} {event}\n\n");
                (!text.starts_with("last") || event < 10).then(|| (Ok::<_, Infallible>(data), (event + 1, living)))
            }
        });
        Response::builder().header("content-type", "text/event-stream").body(Body::from_stream(events)).unwrap()
    }
    serve(Router::new().route("/v1/messages", post(events)).with_state(alive.clone())).await
}

/// A gateway before it, with the layers in their order.
async fn gateway(upstream: SocketAddr, http2: bool) -> SocketAddr {
    let client: Client<HttpConnector, CallBody> = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let client = service_fn(move |mut request: Request<CallBody>| {
        *request.uri_mut() = format!("http://{upstream}/v1/messages").parse().unwrap();
        request.headers_mut().remove("host");
        client.request(request)
    });
    let stack = tower::ServiceBuilder::new()
        .layer(SseHeartbeatLayer::new(secs(15)).error_events(true))
        .layer(layer())
        .layer(DedupLayer::new().grace(secs(60)))
        .service(client);
    let app = Router::new().fallback(async move |request: axum::extract::Request| {
        stack.clone().oneshot(request).await.unwrap().map(Body::new)
    });
    serve(app).await
}

fn say(at: SocketAddr, text: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{at}/v1/messages"))
        .header(HEADER, "7")
        .header("x-api-key", "secret")
        .body(Full::from(text.to_owned()))
        .unwrap()
}

async fn exactly_the_newest_survives(http2: bool) {
    let alive = Alive::default();
    let at = gateway(provider(&alive).await, http2).await;
    let caller: Caller = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
    let mut streams = Vec::new();
    for text in ["one", "two", "three"] {
        let mut body = caller.request(say(at, text)).await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(format!("data: {text} 0").as_bytes()));
        alive.is(1).await;
        streams.push(body);
    }
    let last = tokio::spawn(caller.request(say(at, "last")));
    for mut body in streams {
        let mut read = Vec::new();
        let failed = loop {
            match body.frame().await {
                Some(Ok(frame)) => read.extend(frame.into_data().unwrap()),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(failed, "no clean end");
        let read = String::from_utf8(read).unwrap();
        let (_, event) = read.rsplit_once("event: error\n").unwrap();
        assert!(event.starts_with("data: {\"type\":\"error\",\"error\":{\"type\":\"superseded\""), "{read}");
        assert!(event.ends_with("}\n\n"));
    }
    // What its client would do by itself.
    let again = caller.request(say(at, "three")).await.unwrap();
    assert_eq!((again.status().as_u16(), &again.headers()["x-should-retry"]), (410, &"false".parse().unwrap()));
    let answer = last.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.unwrap().to_bytes().ends_with(b"data: last 9\n\n"));
    alive.is(0).await;
}

#[tokio::test]
async fn over_http1_exactly_the_newest_message_survives() {
    exactly_the_newest_survives(false).await;
}

#[tokio::test]
async fn over_http2_exactly_the_newest_message_survives() {
    exactly_the_newest_survives(true).await;
}
