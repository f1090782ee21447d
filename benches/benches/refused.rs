//! The wait of a caller while the circuit is open, and that of a call to an upstream that answers at once.
//!
//! Callers come one by one, a thousand per second, as at a moderately loaded service.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tower::{Layer, Service, ServiceExt};
use tower_buttress::CircuitBreakerLayer;

const CALLS: usize = 5_000;
const PACE: Duration = Duration::from_millis(1);

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let at = upstream().await;
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let breaker = CircuitBreakerLayer::new();
        breaker.handle().isolate();
        println!("{CALLS} calls, one each {PACE:?}: microseconds until the answer was read");
        println!("{:<40} {:>8} {:>8} {:>8}", "", "p50", "p99", "worst");
        row("hyper, an upstream that answers 503", paced(client.clone(), at).await);
        row("CircuitBreaker, open", paced(breaker.layer(client), at).await);
    });
}

fn row(title: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: usize| took[(took.len() * part / 1000).min(took.len() - 1)].as_secs_f64() * 1e6;
    println!("{title:<40} {:>8.1} {:>8.1} {:>8.1}", at(500), at(990), at(1000));
}

async fn paced<S, B>(service: S, at: SocketAddr) -> Vec<Duration>
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: Body,
    B::Error: std::fmt::Debug,
{
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut took = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        ticks.tick().await;
        let request = Request::get(format!("http://{at}/")).body(Empty::new()).expect("a request");
        let began = Instant::now();
        let response = service.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        response.into_body().collect().await.expect("a body");
        took.push(began.elapsed());
    }
    took
}

async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let busy = service_fn(async |_| {
                let mut busy = Response::new(Empty::<Bytes>::new());
                *busy.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok::<_, std::convert::Infallible>(busy)
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), busy));
        }
    });
    at
}
