//! The cost that the presets around hyper's client add to a call over a socket, compared with the layers of tower and
//! tower-http. The upstream answers at once; a slower one makes the share smaller.
//!
//! The contestants take turns, a few calls at a time, so that other load on the machine affects them equally.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tower::retry::{Policy, RetryLayer};
use tower::timeout::TimeoutLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_buttress::{TimeoutProfile, presets};
use tower_buttress_benches::alloc::{self, Counting};
use tower_http::timeout::ResponseBodyTimeoutLayer;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TURNS: usize = 100;
const A_TURN: usize = 40;
const EVENTS: usize = 100;
const EVENT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\" token\"}}]}\n\n";
const PROMPT: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;

/// The durations and allocations of one kind of client's calls.
#[derive(Default)]
struct Calls {
    took: Vec<Duration>,
    allocations: Vec<u64>,
}

fn main() {
    // One thread, so that no figure depends on the wake-up of another.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let at = upstream().await;
        println!(
            "Medians of {} calls over loopback, client and upstream together, the answer read whole.",
            TURNS * A_TURN
        );
        println!("Allocations, and the share of the time, are over the bare client's.");
        table("An answer of 1 KiB", &format!("http://{at}/whole")).await;
        table(&format!("A stream of {EVENTS} events"), &format!("http://{at}/stream")).await;
    });
}

async fn table(title: &str, url: &str) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let tower = ServiceBuilder::new()
        .layer(RetryLayer::new(ServerErrors { left: 2 }))
        .layer(TimeoutLayer::new(Duration::from_secs(90)))
        .layer(ResponseBodyTimeoutLayer::new(Duration::from_secs(15)))
        .service(client.clone());
    let ours = presets::llm_client(TimeoutProfile::STANDARD).layer(Client::builder(TokioExecutor::new()).build_http());
    let gateway =
        presets::llm_gateway(TimeoutProfile::STANDARD).layer(Client::builder(TokioExecutor::new()).build_http());

    let [mut bare, mut beside, mut whole, mut all] = <[Calls; 4]>::default();
    for turn in 0..TURNS {
        bare.calls(&client, url, turn).await;
        beside.calls(&tower, url, turn).await;
        whole.calls(&ours, url, turn).await;
        all.calls(&gateway, url, turn).await;
    }
    println!("\n{title}\n{:<48} {:>9} {:>8} {:>8}", "", "us", "share", "allocs");
    let over = bare.median();
    row("bare", over, (Duration::ZERO, 0));
    row("  + llm_client: 6 layers", whole.median(), over);
    row("  + llm_gateway: heartbeats and dedup too", all.median(), over);
    row("  + tower Retry and Timeout, tower-http TimeoutBody", beside.median(), over);
}

fn row(name: &str, (took, allocations): (Duration, u64), (bare, bare_allocations): (Duration, u64)) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let (over, share) = match micros(bare) {
        0.0 => (micros(took), String::new()),
        bare => (micros(took) - bare, format!("{:.1} %", (micros(took) / bare - 1.0) * 100.0)),
    };
    println!("{name:<48} {over:>9.1} {share:>8} {:>8}", allocations.saturating_sub(bare_allocations));
}

// === impl Calls ===

impl Calls {
    async fn calls<S, B>(&mut self, service: &S, url: &str, turn: usize)
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
        S::Error: std::fmt::Debug,
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        for call in 0..A_TURN {
            self.call(service.clone(), url, turn * A_TURN + call).await;
        }
    }

    async fn call<S, B>(&mut self, service: S, url: &str, nth: usize)
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>>,
        S::Error: std::fmt::Debug,
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        // Each is different: nothing may be shared or replayed.
        let request = Request::post(url)
            .header("content-type", "application/json")
            .header("authorization", "Bearer sk-0123456789")
            .body(Full::from(format!("{PROMPT}{nth}")))
            .expect("a request");
        let (allocations, began) = (alloc::allocations(), Instant::now());
        let response = service.oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = std::pin::pin!(response.into_body());
        while let Some(frame) = body.frame().await {
            frame.expect("a frame");
        }
        self.took.push(began.elapsed());
        self.allocations.push(alloc::allocations() - allocations);
    }

    fn median(mut self) -> (Duration, u64) {
        self.took.sort_unstable();
        self.allocations.sort_unstable();
        (self.took[self.took.len() / 2], self.allocations[self.allocations.len() / 2])
    }
}

/// Retries server errors, as in tower's documentation.
#[derive(Clone, Copy)]
struct ServerErrors {
    left: u32,
}

impl<R, E> Policy<Request<Full<Bytes>>, Response<R>, E> for ServerErrors {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Full<Bytes>>, result: &mut Result<Response<R>, E>) -> Option<Self::Future> {
        let failed = result.as_ref().map_or(true, |response| response.status().is_server_error());
        self.left = self.left.checked_sub(1).filter(|_| failed)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).expect("a socket");
            let answers = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let path = request.uri().path().to_owned();
                request.into_body().collect().await.expect("a prompt");
                let body =
                    if path == "/whole" { Either::Left(Full::from(vec![b'x'; 1024])) } else { Either::Right(events()) };
                let mut response = Response::new(body);
                response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), answers));
        }
    });
    at
}

/// Each event is written before the next is ready, as a model does.
fn events() -> impl Body<Data = Bytes, Error = Infallible> {
    StreamBody::new(stream::unfold(0, |sent| async move {
        tokio::task::yield_now().await;
        (sent < EVENTS).then(|| (Ok(Frame::data(Bytes::from_static(EVENT.as_bytes()))), sent + 1))
    }))
}
