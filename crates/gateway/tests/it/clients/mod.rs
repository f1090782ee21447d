//! Foreign proxies and clients over sockets: nginx, haproxy, Chromium, Prometheus, the SDKs of OpenAI, Anthropic and
//! Google for Python and Node, and Vercel's.
//!
//! They run only where `.ci/clients` has installed them and set the environment; elsewhere each test prints what it
//! skipped.

mod browser;
mod page;
mod prometheus;
mod proxies;
mod sdks;
mod truth;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Once;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::IntoResponse;
use http::StatusCode;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tower::{Layer, ServiceExt};
use tower_buttress::presets::ResilienceLayer;

/// The Python with the SDKs. If it is set, the other programs are installed too, and the Node packages are in the
/// folder that `BUTTRESS_CLIENTS_NODE` names.
const PYTHON: &str = "BUTTRESS_CLIENTS_PYTHON";

/// The Python with the SDKs, or the reason to skip the test.
fn python() -> Option<String> {
    let python = std::env::var(PYTHON).ok();
    if python.is_none() {
        // Printed once, without a macro, whose output a passing test would capture.
        static SAID: Once = Once::new();
        let line = format!("clients: skipped, since {PYTHON} is not set: .ci/clients runs them\n");
        SAID.call_once(|| drop(std::io::stderr().write_all(line.as_bytes())));
    }
    python
}

/// A program that ends with its test and shares its output.
fn start(program: &str, args: &[&str]) -> Child {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|err| panic!("{program} cannot be started: {err}"))
}

/// An upstream of the test.
async fn upstream(router: Router) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    addr
}

/// A server that calls `model` through the layers of a preset.
async fn proxy(stack: &ResilienceLayer, model: SocketAddr) -> SocketAddr {
    let service = stack.layer(Client::builder(TokioExecutor::new()).build_http());
    let app = Router::new().fallback(async move |mut request: Request| {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://{model}{path}").parse().unwrap();
        match service.oneshot(request).await {
            Ok(response) => response.map(Body::new),
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    });
    upstream(app).await
}

/// A free port: foreign programs do not choose one themselves.
async fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

/// Waits until the port accepts connections.
async fn listening(port: u16) -> SocketAddr {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for _ in 0..200 {
        if TcpStream::connect(addr).await.is_ok() {
            return addr;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no process listens on {addr}");
}
