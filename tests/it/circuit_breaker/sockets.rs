//! The breaker as an upstream sees it that is killed and comes back: in connections and calls.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::circuit_breaker::CircuitBreaker;
use tower_buttress::{CircuitBreakerLayer, CircuitState, Rejection};

/// Longer than any test.
const MINUTE: Duration = Duration::from_secs(60);

/// What reached the upstream, whichever of its lives it was in.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    calls: AtomicUsize,
}

/// One life of an upstream. Dropped, it is killed: its connections break.
struct Life {
    at: SocketAddr,
    served: JoinSet<()>,
}

impl Life {
    /// Each answer waits until the upstream is let.
    async fn begin(at: SocketAddr, seen: Arc<Seen>, let_go: Arc<Notify>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // The port is the one of the last life.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(at).unwrap();
        let listener = socket.listen(1024).unwrap();
        let at = listener.local_addr().unwrap();
        let mut served = JoinSet::new();
        served.spawn(serve(listener, seen, let_go));
        Self { at, served }
    }

    async fn kill(mut self) {
        self.served.shutdown().await;
    }
}

async fn serve(listener: TcpListener, seen: Arc<Seen>, let_go: Arc<Notify>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.connections.fetch_add(1, SeqCst);
        let (seen, let_go) = (seen.clone(), let_go.clone());
        let app = Router::new().route(
            "/",
            get(move || async move {
                seen.calls.fetch_add(1, SeqCst);
                let_go.notified().await;
                "here"
            }),
        );
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
        connections.spawn(async move { drop(connection.await) });
    }
}

type Service = CircuitBreaker<Client<HttpConnector, Empty<Bytes>>>;

/// What a caller got: the answer, or that nothing came.
async fn ask(service: Service, at: SocketAddr) -> Option<StatusCode> {
    let request = Request::get(format!("http://{at}/")).body(Empty::new()).unwrap();
    let response = service.oneshot(request).await.ok()?;
    let status = response.status();
    if Rejection::of(&response).is_some() {
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(wait >= 1, "it is never too early");
    }
    response.into_body().collect().await.ok()?;
    Some(status)
}

/// 200 callers at once.
async fn crowd(service: &Service, at: SocketAddr) -> Vec<Option<StatusCode>> {
    let barrier = Arc::new(Barrier::new(200));
    let mut callers = JoinSet::new();
    for _ in 0..200 {
        let (service, barrier) = (service.clone(), barrier.clone());
        callers.spawn(async move {
            barrier.wait().await;
            ask(service, at).await
        });
    }
    callers.join_all().await
}

fn refused(answers: &[Option<StatusCode>]) -> usize {
    answers.iter().filter(|answer| **answer == Some(StatusCode::SERVICE_UNAVAILABLE)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_was_killed_is_left_alone_and_found_again_by_one_probe() {
    let (seen, let_go) = (Arc::<Seen>::default(), Arc::<Notify>::default());
    let layer = CircuitBreakerLayer::new().configure(|config| config.jitter(0.0).open_duration(MINUTE, MINUTE));
    let service = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    let circuit = layer.handle();
    let mut changes = circuit.subscribe();

    // It serves.
    let life = Life::begin((Ipv4Addr::LOCALHOST, 0).into(), seen.clone(), let_go.clone()).await;
    let at = life.at;
    let_go.notify_one();
    assert_eq!(ask(service.clone(), at).await, Some(StatusCode::OK));

    // It is killed while 200 wait for it, and the circuit opens.
    let crowd_of_life = tokio::spawn({
        let service = service.clone();
        async move { crowd(&service, at).await }
    });
    while seen.calls.load(SeqCst) < 201 {
        tokio::task::yield_now().await;
    }
    life.kill().await;
    assert_eq!(crowd_of_life.await.unwrap(), [None; 200]);
    // hyper's pool may hold a connection of which it does not know yet that it is dead.
    while circuit.state() == CircuitState::Closed {
        ask(service.clone(), at).await;
    }
    assert_eq!(circuit.state(), CircuitState::Open);

    // It is back at once, and left alone: no connection is made while the circuit is open.
    let life = Life::begin(at, seen.clone(), let_go.clone()).await;
    let (connections, calls) = (seen.connections.load(SeqCst), seen.calls.load(SeqCst));
    for _ in 0..3 {
        assert_eq!(refused(&crowd(&service, at).await), 200);
    }
    assert_eq!((seen.connections.load(SeqCst), seen.calls.load(SeqCst)), (connections, calls));

    // Half-open, three times: the first two probes are cut off, the third is answered. Each time one call arrives.
    let mut life = Some(life);
    for (nth, survives) in [(1, false), (2, false), (3, true)] {
        // The minute is over.
        circuit.open_for(Duration::ZERO);
        let before = circuit.snapshot().refused;
        let crowd = tokio::spawn({
            let service = service.clone();
            async move { crowd(&service, at).await }
        });
        // 199 are refused, and one is on its way, whatever becomes of it.
        while circuit.snapshot().refused < before + 199 || seen.calls.load(SeqCst) < calls + nth {
            tokio::task::yield_now().await;
        }
        if survives {
            let_go.notify_one();
        } else {
            life.take().unwrap().kill().await;
        }
        let answers = crowd.await.unwrap();
        assert_eq!(seen.calls.load(SeqCst), calls + nth, "one call per half-open period");
        assert_eq!(refused(&answers), 199);
        let state = if survives { CircuitState::Closed } else { CircuitState::Open };
        assert_eq!(circuit.state(), state);
        if !survives {
            life = Some(Life::begin(at, seen.clone(), let_go.clone()).await);
        }
    }
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), CircuitState::Closed);
    let_go.notify_one();
    assert_eq!(ask(service, at).await, Some(StatusCode::OK));
}

/// An axum server whose handlers fail, behind one breaker or several.
async fn server(app: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    at
}

async fn status(at: SocketAddr, path: &str) -> u16 {
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(format!("http://{at}{path}")).body(Empty::new()).unwrap();
    let response: Response<Incoming> = client.request(request).await.unwrap();
    response.status().as_u16()
}

#[tokio::test]
async fn one_layer_on_many_routes_is_one_breaker() {
    let breaker = CircuitBreakerLayer::new();
    let failing = || async { StatusCode::BAD_GATEWAY };
    let app = Router::new()
        .route("/a", get(failing).layer(breaker.clone()))
        .route("/b", get(failing).layer(breaker.clone()))
        .route("/c", get(|| async { "fine" }))
        .route_layer(breaker.clone());
    let at = server(app).await;
    for path in ["/a", "/b", "/a"] {
        assert_eq!(status(at, path).await, 502);
    }
    // Two breakers in one count a failure twice: it is the same one.
    assert_eq!(breaker.handle().state(), CircuitState::Open);
    assert_eq!([status(at, "/a").await, status(at, "/b").await, status(at, "/c").await], [503; 3]);
}

#[tokio::test]
async fn by_key_routes_are_apart() {
    let breaker = CircuitBreakerLayer::new().key(|parts| Some(parts.uri.path().into()));
    let app = Router::new()
        .route("/a", get(|| async { StatusCode::BAD_GATEWAY }))
        .route("/b", get(|| async { "fine" }))
        .layer(breaker.clone());
    let at = server(app).await;
    for _ in 0..5 {
        assert_eq!(status(at, "/a").await, 502);
    }
    assert_eq!([status(at, "/a").await, status(at, "/b").await], [503, 200]);
    assert_eq!(breaker.handle_for("/b").state(), CircuitState::Closed);
}

/// The breaker as a proxy has it: between a server and a client of hyper's.
async fn proxy(
    breaker: &CircuitBreakerLayer,
    client: Client<HttpConnector, Incoming>,
    upstream: SocketAddr,
) -> SocketAddr {
    let service = breaker.layer(client);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service.clone().map_request(move |mut request: Request<Incoming>| {
                *request.uri_mut() = format!("http://{upstream}/").parse().unwrap();
                request
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    at
}

/// Answers one call with these bytes.
async fn raw(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    });
    at
}

/// Says how long it is, and does not say that it ended.
async fn unended() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let service = service_fn(|_: Request<Incoming>| async {
        let data = stream::once(std::future::ready(Ok::<_, Infallible>(Frame::data(Bytes::from("abc")))));
        let body = StreamBody::new(data.chain(stream::pending()));
        Response::builder().header("content-length", "3").body(body)
    });
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        drop(server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await);
    });
    at
}

/// After trailers, and after the last byte of a known length, a server asks for nothing more, even of a body that has
/// not said that this was its end.
#[tokio::test]
async fn an_answer_that_a_proxy_passed_on_in_full_is_a_success() {
    let trailers = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-checksum: 42\r\n\r\n";
    for (upstream, http2) in [(raw(trailers).await, false), (unended().await, true)] {
        let breaker = CircuitBreakerLayer::new();
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
        let proxy = proxy(&breaker, client, upstream).await;
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let request = Request::get(format!("http://{proxy}/")).header("te", "trailers").body(Empty::new()).unwrap();
        let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.to_bytes(), "abc");
        assert_eq!(breaker.handle().snapshot().stats.calls, 1);
    }
}
