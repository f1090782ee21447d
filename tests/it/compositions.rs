//! The layers where their users put them: over real sockets, beside the middleware people have.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{Request as AxumRequest, State};
use axum::response::sse::{Event as SseEvent, Sse};
use axum::response::{IntoResponse, Response as AxumResponse};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use http::{HeaderName, Method, Request, StatusCode, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_buttress::error::{self, BoxError};
use tower_buttress::{
    ConnectTimeoutLayer, Deadline, DeadlineHeader, DeadlineLayer, FirstByteTimeoutLayer, IdleBodyTimeoutLayer,
    Rejection, RejectionKind, RejectionsAsErrorsLayer,
};
use tower_http::compression::CompressionLayer;
use tower_http::decompression::DecompressionLayer;
use tower_http::trace::TraceLayer;

use crate::support::{Alive, secs, trailers};

const MS: DeadlineHeader = DeadlineHeader::millis(HeaderName::from_static("x-deadline-ms"));

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// Ticks every 10 ms for ever; alive as long as it has a reader.
async fn ticks(State(alive): State<Alive>) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let living = alive.enter();
    Sse::new(futures_util::stream::unfold(living, |living| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Some((Ok(SseEvent::default().data("tick")), living))
    }))
}

async fn with_trailers() -> AxumResponse {
    let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers()))];
    let body = axum::body::Body::new(StreamBody::new(futures_util::stream::iter(frames)));
    ([("trailer", "x-checksum")], body).into_response()
}

async fn echo(upgrade: WebSocketUpgrade) -> AxumResponse {
    upgrade.on_upgrade(|mut socket| async move {
        while let Some(Ok(Message::Text(text))) = socket.recv().await {
            socket.send(Message::Text(text)).await.unwrap();
        }
    })
}

fn upstream(alive: Alive) -> Router {
    Router::new()
        .route("/hello", any(|| async { "hello" }))
        .route("/ticks", get(ticks))
        .route("/trailers", get(with_trailers))
        .route("/silent", get(std::future::pending::<()>))
        .route("/stalls", get(stalls))
        .route("/status/204", get(|| async { StatusCode::NO_CONTENT }))
        .route("/status/304", get(|| async { StatusCode::NOT_MODIFIED }))
        .route("/json", get(|| async { Json(serde_json::json!({ "text": "x".repeat(4096) })) }))
        .route(
            "/deadline",
            get(|request: AxumRequest| async move {
                request.headers()["x-deadline-ms"].clone().to_str().unwrap().to_owned()
            }),
        )
        .route("/ws", get(echo))
        .with_state(alive)
}

async fn stalls(State(alive): State<Alive>) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let living = alive.enter();
    let first = futures_util::stream::once(async { Ok(SseEvent::default().data("first")) });
    let then = futures_util::stream::once(async move {
        let _living = living;
        std::future::pending().await
    });
    Sse::new(first.chain(then))
}

/// A hyper-util client under the whole stack of this issue.
fn client(
    http2: bool,
    first_byte: Duration,
    idle: Duration,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = http::Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin + Send + Sync + 'static>,
    Error = hyper_util::client::legacy::Error,
    Future: Send,
> + Clone
+ Send {
    let connector = ServiceBuilder::new().layer(ConnectTimeoutLayer::new(secs(5))).service(HttpConnector::new());
    ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(30)).propagate(MS))
        .layer(IdleBodyTimeoutLayer::new(idle))
        .layer(FirstByteTimeoutLayer::new(first_byte))
        .service(Client::builder(TokioExecutor::new()).http2_only(http2).build(connector))
}

fn get_request(addr: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://{addr}{path}")).body(Full::default()).unwrap()
}

// --- On a bare axum router ---

/// Each layer alone, on routes with state, a fallback and a nested router.
macro_rules! on_a_bare_router {
    ($($name:ident => $layer:expr;)+) => {$(
        #[tokio::test]
        async fn $name() {
            let nested = Router::new().route("/inner", get(|| async { "nested" }));
            let router = upstream(Alive::default())
                .nest("/nested", nested)
                .fallback(|| async { (StatusCode::NOT_FOUND, "nothing here") })
                .layer($layer);
            serves_everything(serve(router).await).await;
        }
    )+};
}

on_a_bare_router! {
    idle_on_a_bare_router => IdleBodyTimeoutLayer::new(secs(15));
    first_byte_on_a_bare_router => FirstByteTimeoutLayer::new(secs(15));
    deadline_on_a_bare_router => DeadlineLayer::new(secs(15)).accept(MS);
    all_on_a_bare_router => ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(15)))
        .layer(IdleBodyTimeoutLayer::new(secs(15)))
        .layer(FirstByteTimeoutLayer::new(secs(15)));
    all_off_on_a_bare_router => ServiceBuilder::new()
        .layer(DeadlineLayer::disabled())
        .layer(IdleBodyTimeoutLayer::disabled())
        .layer(FirstByteTimeoutLayer::disabled());
    beside_trace_and_compression => ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new())
        .layer(DeadlineLayer::new(secs(15)))
        .layer(IdleBodyTimeoutLayer::new(secs(15)))
        .layer(FirstByteTimeoutLayer::new(secs(15)));
    outside_of_trace_and_compression => ServiceBuilder::new()
        .layer(DeadlineLayer::new(secs(15)))
        .layer(IdleBodyTimeoutLayer::new(secs(15)))
        .layer(FirstByteTimeoutLayer::new(secs(15)))
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new());
}

async fn serves_everything(addr: SocketAddr) {
    let plain = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let text = async |path: &str| {
        let response = plain.request(get_request(addr, path)).await.unwrap();
        (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes())
    };
    assert_eq!(text("/hello").await, (200, "hello".into()));
    assert_eq!(text("/nested/inner").await, (200, "nested".into()));
    assert_eq!(text("/nowhere").await, (404, "nothing here".into()));
    assert_eq!(text("/status/204").await, (204, "".into()));
    assert_eq!(text("/status/304").await, (304, "".into()));

    // Compressed where a layer compresses; whole either way.
    let gzip = ServiceBuilder::new().layer(DecompressionLayer::new()).service(plain.clone());
    let json = gzip.oneshot(get_request(addr, "/json")).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(json.to_bytes().len(), "{\"text\":\"\"}".len() + 4096);

    let head = Request::builder().method(Method::HEAD).uri(format!("http://{addr}/hello")).body(Full::default());
    let head = plain.request(head.unwrap()).await.unwrap();
    assert_eq!(head.headers()["content-length"], "5");
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());

    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{addr}/ws")).await.unwrap();
    socket.send("over the wall".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "over the wall");

    let mut ticks = plain.request(get_request(addr, "/ticks")).await.unwrap().into_body();
    for _ in 0..3 {
        assert_eq!(ticks.frame().await.unwrap().unwrap().into_data().unwrap(), "data: tick\n\n");
    }
}

#[tokio::test]
async fn a_silent_handler_is_a_504_on_the_wire() {
    let router = upstream(Alive::default()).layer(FirstByteTimeoutLayer::new(Duration::from_millis(50)));
    let addr = serve(router).await;
    let plain = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let response = plain.request(get_request(addr, "/silent")).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem = response.into_body().collect().await.unwrap().to_bytes();
    let problem: serde_json::Value = serde_json::from_slice(&problem).unwrap();
    assert_eq!(problem["kind"], "first-byte-timeout");
}

// --- Around hyper-util's client ---

async fn through_a_client(http2: bool) {
    let alive = Alive::default();
    let addr = serve(upstream(alive.clone())).await;
    let client = client(http2, secs(10), secs(10));

    let response = client.clone().oneshot(get_request(addr, "/hello")).await.unwrap();
    assert_eq!(response.version(), if http2 { Version::HTTP_2 } else { Version::HTTP_11 });
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");

    let trailed = client.clone().oneshot(get_request(addr, "/trailers")).await.unwrap();
    let trailed = trailed.into_body().collect().await.unwrap();
    // Over HTTP/1.1 hyper sends trailers only to who asks for them with TE.
    assert_eq!(trailed.trailers().cloned(), http2.then(trailers));
    assert_eq!(trailed.to_bytes(), "body");

    // A caller who leaves mid-stream closes the upstream's stream.
    let mut ticks = client.clone().oneshot(get_request(addr, "/ticks")).await.unwrap().into_body();
    ticks.frame().await.unwrap().unwrap();
    alive.is(1).await;
    drop(ticks);
    alive.is(0).await;
}

#[tokio::test]
async fn through_a_client_over_http1() {
    through_a_client(false).await;
}

#[tokio::test]
async fn through_a_client_over_http2() {
    through_a_client(true).await;
}

#[tokio::test]
async fn trailers_arrive_over_http1_where_asked_for() {
    let addr = serve(upstream(Alive::default())).await;
    let mut request = get_request(addr, "/trailers");
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let response = client(false, secs(10), secs(10)).oneshot(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().trailers(), Some(&trailers()));
}

#[tokio::test]
async fn a_silent_upstream_is_refused_and_a_stalled_stream_is_cut_and_closed() {
    for http2 in [false, true] {
        let alive = Alive::default();
        let addr = serve(upstream(alive.clone())).await;
        let quick = Duration::from_millis(80);

        let refused = client(http2, quick, secs(10)).oneshot(get_request(addr, "/silent")).await.unwrap();
        assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::FirstByteTimeout);

        let stalled = client(http2, secs(10), quick).oneshot(get_request(addr, "/stalls")).await.unwrap();
        let mut stalled = stalled.into_body();
        assert_eq!(stalled.frame().await.unwrap().unwrap().into_data().unwrap(), "data: first\n\n");
        alive.is(1).await;
        let failed = stalled.frame().await.unwrap().unwrap_err();
        assert!(error::find::<error::IdleBodyElapsed>(&failed).is_some());
        // The body is still held, and the upstream is closed all the same.
        alive.is(0).await;
    }
}

#[tokio::test]
async fn rejections_become_errors_around_a_client() {
    let addr = serve(upstream(Alive::default())).await;
    let service = ServiceBuilder::new().layer(RejectionsAsErrorsLayer::new()).service(client(
        false,
        Duration::from_millis(50),
        secs(10),
    ));
    let failed = service.clone().oneshot(get_request(addr, "/silent")).await.err().unwrap();
    assert_eq!(error::find::<Rejection>(&failed).unwrap().kind(), RejectionKind::FirstByteTimeout);
    assert!(service.oneshot(get_request(addr, "/hello")).await.is_ok());
}

// --- A client inside a handler ---

#[tokio::test]
async fn a_disconnect_travels_through_a_proxy_to_the_upstream() {
    let alive = Alive::default();
    let addr = serve(upstream(alive.clone())).await;
    let upstream = client(false, secs(10), secs(10));
    let proxy = Router::new()
        .route(
            "/",
            get(move || {
                let upstream = upstream.clone();
                async move {
                    upstream.oneshot(get_request(addr, "/ticks")).await.map(|r| r.map(axum::body::Body::new)).unwrap()
                }
            }),
        )
        .layer(DeadlineLayer::new(secs(30)));
    let proxy = serve(proxy).await;

    let connection = tokio::net::TcpStream::connect(proxy).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("/").header("host", "proxy").body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    alive.is(1).await;
    connection.abort();
    drop((body, sender));
    alive.is(0).await;
}

#[tokio::test]
async fn a_deadline_travels_from_an_axum_handler_to_the_hyper_client_inside_it() {
    let addr = serve(upstream(Alive::default())).await;
    let upstream = client(false, secs(10), secs(10));
    let handler = move || {
        let upstream = upstream.clone();
        async move {
            let nested = async {
                let answer = upstream.clone().oneshot(get_request(addr, "/deadline")).await.unwrap();
                answer.into_body().collect().await.unwrap().to_bytes()
            };
            let here = nested.await;
            // A spawned task is another task: the deadline is carried there.
            let deadline = Deadline::current().unwrap();
            let there = deadline.scope(async move {
                let answer = upstream.oneshot(get_request(addr, "/deadline")).await.unwrap();
                answer.into_body().collect().await.unwrap().to_bytes()
            });
            let there = tokio::spawn(there).await.unwrap();
            [here, there].map(|left| String::from_utf8(left.to_vec()).unwrap()).join(" ")
        }
    };
    let server = serve(Router::new().route("/", get(handler)).layer(DeadlineLayer::new(secs(60)).accept(MS))).await;
    let plain = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut request = get_request(server, "/");
    request.headers_mut().insert("x-deadline-ms", "9000".parse().unwrap());
    let answer = plain.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let left: Vec<u64> = std::str::from_utf8(&answer).unwrap().split(' ').map(|ms| ms.parse().unwrap()).collect();
    // The client alone would say 30,000, and the server 60,000.
    assert!(left.len() == 2 && left.iter().all(|ms| (1..9000).contains(ms)), "{left:?}");
}

// --- On a bare hyper server, which takes no body off the answer to a HEAD over HTTP/2 ---

#[tokio::test]
async fn a_head_that_is_refused_has_no_body() {
    let now = Duration::from_millis(1);
    for (http2, total, first_byte) in [(false, now, now), (true, now, secs(9)), (true, secs(9), now)] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = ServiceBuilder::new()
            .layer(DeadlineLayer::new(total))
            .layer(FirstByteTimeoutLayer::new(first_byte))
            .service_fn(|_| std::future::pending::<Result<http::Response<Full<Bytes>>, Infallible>>());
        tokio::spawn(async move {
            let socket = TokioIo::new(listener.accept().await.unwrap().0);
            let server = auto::Builder::new(TokioExecutor::new());
            server.serve_connection(socket, TowerToHyperService::new(service)).await.unwrap();
        });
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Empty<Bytes>>();
        let request = Request::head(format!("http://{addr}/")).body(Empty::new()).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), 504);
        assert_ne!(response.headers()["content-length"], "0");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
}
