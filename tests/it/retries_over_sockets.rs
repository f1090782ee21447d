//! Retries as an upstream and its operator see them: in connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{
    Attempt, Attempts, CallBody, CallInfo, Event, FallbackLayer, Jitter, Observer, RetryAfterBackoffLayer, ServedBy,
};

const MS: Duration = Duration::from_millis(1);

/// What an upstream does with a request.
#[derive(Clone, Copy)]
enum Does {
    /// Answers; the body comes so long after the head.
    Answer(u16, Duration),
    /// Hangs up.
    HangUp,
}

/// A server that does one thing after another, and counts its connections.
struct Upstream {
    at: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start(script: impl IntoIterator<Item = Does>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream =
            Self { at: listener.local_addr().unwrap(), connections: Arc::default(), requests: Arc::default() };
        let script = Arc::new(Mutex::new(script.into_iter().collect::<Vec<_>>().into_iter()));
        let (connections, requests) = (upstream.connections.clone(), upstream.requests.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, SeqCst);
                tokio::spawn(serve(socket, script.clone(), requests.clone()));
            }
        });
        upstream
    }
}

async fn serve(
    mut socket: TcpStream,
    script: Arc<Mutex<std::vec::IntoIter<Does>>>,
    requests: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    loop {
        let request = read_request(&mut socket).await?;
        requests.lock().unwrap().push(request);
        let does = script.lock().unwrap().next().expect("no more requests than answers");
        let Does::Answer(status, pause) = does else { return Ok(()) };
        let head = format!("HTTP/1.1 {status} Said\r\nretry-after-ms: 60\r\ncontent-length: 4\r\n\r\n");
        socket.write_all(head.as_bytes()).await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        socket.write_all(b"said").await?;
    }
}

/// The body of a request with a `Content-Length`.
async fn read_request(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    socket.read_exact(&mut body).await?;
    Ok(String::from_utf8(body).unwrap())
}

fn layer() -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::new().backoff_base(20 * MS).jitter(Jitter::None)
}

async fn post(layer: &RetryAfterBackoffLayer, at: SocketAddr) -> Result<Response<Incoming>, Error> {
    let client: Client<HttpConnector, CallBody> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(format!("http://{at}")).body(Full::from("hello")).unwrap();
    layer.layer(client).oneshot(request).await
}

#[tokio::test]
async fn three_attempts_take_one_connection() {
    for pause in [0, 5, 20] {
        let busy = Does::Answer(503, pause * MS);
        let upstream = Upstream::start([busy, busy, Does::Answer(200, Duration::ZERO)]).await;
        let start = std::time::Instant::now();
        let response = post(&layer(), upstream.at).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(Attempts::of(&response), Attempts(3));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "said");
        assert_eq!(upstream.connections.load(SeqCst), 1, "the body came {pause} ms after the head");
        assert_eq!(*upstream.requests.lock().unwrap(), ["hello"; 3]);
        assert!(start.elapsed() >= 120 * MS, "two waits of 60 ms were asked for");
    }
}

/// A connection stops reading where the head says that the body ends, and never hears that it did.
#[tokio::test]
async fn a_stream_whose_length_the_head_says_was_sent_when_it_is_that_long() {
    let upstream = Upstream::start([Does::Answer(503, Duration::ZERO), Does::Answer(200, Duration::ZERO)]).await;
    let client: Client<HttpConnector, CallBody> = Client::builder(TokioExecutor::new()).build_http();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    sender.send_data("hello".into()).await.unwrap();
    let request = Request::put(format!("http://{}", upstream.at)).header("content-length", 5).body(body).unwrap();
    let response = layer().layer(client).oneshot(request).await.unwrap();
    assert_eq!(Attempts::of(&response), Attempts(2));
    assert_eq!(*upstream.requests.lock().unwrap(), ["hello"; 2]);
    drop(sender);
}

#[tokio::test]
async fn an_answer_that_does_not_end_in_time_costs_its_connection_and_no_more() {
    let upstream = Upstream::start([Does::Answer(503, 3_600_000 * MS), Does::Answer(200, Duration::ZERO)]).await;
    assert_eq!(post(&layer(), upstream.at).await.unwrap().status(), 200);
    assert_eq!(upstream.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head_is_retried_where_that_is_allowed() {
    let upstream = Upstream::start([Does::HangUp, Does::HangUp, Does::Answer(200, Duration::ZERO)]).await;
    let response = post(&layer().retry_non_idempotent(true), upstream.at).await.unwrap();
    assert_eq!(Attempts::of(&response), Attempts(3));
    assert_eq!(*upstream.requests.lock().unwrap(), ["hello"; 3]);

    let upstream = Upstream::start([Does::HangUp]).await;
    assert!(post(&layer(), upstream.at).await.is_err());
    assert_eq!(upstream.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refused_connection_is_retried() {
    /// An upstream that comes up while the client waits.
    struct ComesUp(SocketAddr, Mutex<Option<std::net::TcpListener>>);
    impl Observer for ComesUp {
        fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
            assert!(matches!(event, Event::RetryScheduled { attempt: 2, .. }), "{event}");
            *self.1.lock().unwrap() = Some(std::net::TcpListener::bind(self.0).unwrap());
        }
    }
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let comes_up = Arc::new(ComesUp(at, Mutex::default()));
    let call = tokio::spawn({
        let layer = layer().observer(comes_up.clone());
        async move { post(&layer, at).await }
    });
    let listener = loop {
        if let Some(listener) = comes_up.1.lock().unwrap().take() {
            break listener;
        }
        tokio::task::yield_now().await;
    };
    listener.set_nonblocking(true).unwrap();
    let (mut socket, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
    assert_eq!(read_request(&mut socket).await.unwrap(), "hello");
    socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(Attempts::of(&call.await.unwrap().unwrap()), Attempts(2));
}

/// The primary answers in the middle of the upload, and its connection still holds the request when the backup takes
/// it over.
#[tokio::test]
async fn a_backup_takes_over_an_upload_that_is_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let primary = listener.local_addr().unwrap();
    let primary_closed = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"first\r\n") {
            seen.push(socket.read_u8().await.unwrap());
        }
        socket.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy").await.unwrap();
        let mut rest = Vec::new();
        // Without the end of the request: the client gave it up.
        let _ = socket.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    });
    let backup = Router::new().route("/", any(|body: Bytes| async { body }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backup_at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, backup).await.unwrap() });

    let (mut sender, body) = Channel::<Bytes>::new(1);
    let client: Client<HttpConnector, CallBody> = Client::builder(TokioExecutor::new()).build_http();
    let to_backup = client.clone();
    let backup = service_fn(move |mut request: Request<CallBody>| {
        *request.uri_mut() = format!("http://{backup_at}/").parse().unwrap();
        to_backup.request(request)
    });
    let request = Request::post(format!("http://{primary}/")).body(body).unwrap();
    let call = tokio::spawn(FallbackLayer::new(backup).layer(client).oneshot(request));
    sender.send_data("first".into()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), primary_closed).await.expect("the primary is let go of").unwrap();
    sender.send_data(" second".into()).await.unwrap();
    drop(sender);
    let response = call.await.unwrap().unwrap();
    assert_eq!(ServedBy::of(&response), Some("backup"));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "first second");
}

#[tokio::test]
async fn it_stands_on_a_bare_axum_router() {
    let handler = |request: axum::extract::Request| async move {
        match (Attempt::of(&request), request.into_body().collect().await.unwrap().to_bytes()) {
            (Attempt(1), _) => (StatusCode::SERVICE_UNAVAILABLE, Bytes::new()),
            (_, body) => (StatusCode::OK, body),
        }
    };
    let retrying = || layer().retry_non_idempotent(true);
    let nested = Router::new().route("/nested", any(handler)).layer(retrying());
    let router = Router::new().route("/", any(handler)).layer(retrying()).nest("/in", nested);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    for http2 in [false, true] {
        for path in ["/", "/in/nested"] {
            let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
            let request = Request::builder().method(Method::POST).uri(format!("http://{at}{path}"));
            let response = client.request(request.body(Full::from("hello")).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
        }
    }
}
