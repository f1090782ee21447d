//! The gate against costs that creep in: instructions of named paths, beside those that are checked in.
//!
//! `cargo bench -p tower-buttress-benches --bench costs` prints them, `-- --check` compares them with `costs.txt` and fails
//! where one differs by more than 2 %, `-- --write` writes that file anew. A cheaper path fails too: the table then
//! says less than it could.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::{Ready, poll_fn, ready};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, ExitCode};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::layer::util::Identity;
use tower::{Layer, Service};
use tower_buttress::{
    CircuitBreakerLayer, DeadlineLayer, DedupLayer, FirstByteTimeoutLayer, GrpcStatusLayer, IdleBodyTimeoutLayer,
    RetryAfterBackoffLayer, SseHeartbeatLayer, TimeoutProfile, presets, presets::ResilienceLayer,
};
use tower_buttress_benches::alloc::Counting;
use tower_buttress_benches::bodies::{Endless, read};
use tower_buttress_benches::measure::{self, Case};
use tower_buttress_benches::services::finish;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A path may differ by this ratio, or by [`SLACK`] instructions, whichever is more: a frame costs tens of them, and how
/// the compiler lays out its code moves a few.
const TOLERANCE: f64 = 0.02;
const SLACK: f64 = 4.0;

const LIMIT: Duration = Duration::from_secs(3600);

/// Over what a path is counted: the bare service or body of the run.
const BARE_CALL: &str = "call, bare";
const BARE_FRAME: &str = "frame, bare";

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    measure::run(CASES, |_, cost| {
        let args: Vec<String> = std::env::args().collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let Some(bare) = cost(BARE_CALL).instructions.zip(cost(BARE_FRAME).instructions) else {
            println!("valgrind is not installed: nothing is counted");
            return;
        };
        let over = |name: &str| {
            let bare = if name.starts_with("call") { bare.0 } else { bare.1 };
            let count = cost(name).instructions.unwrap_or_default();
            if name.ends_with(", bare") { count } else { count - bare }
        };
        let now: BTreeMap<&str, f64> = CASES.iter().map(|case| (case.name, over(case.name))).collect();
        if has("--write") {
            std::fs::write(table(), written(&now)).expect("the table can be written");
        } else if has("--check") {
            code = check(&now);
        } else {
            print!("{}", written(&now));
        }
    });
    code
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("costs.txt")
}

/// Instructions depend on the compiler as much as on the code: a table of another one says nothing.
fn compiler() -> String {
    let version = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&version).trim().to_owned()
}

fn written(costs: &BTreeMap<&str, f64>) -> String {
    let mut text = format!("# Instructions over the bare service or frame. {}\n", compiler());
    for (name, count) in costs {
        let _ = writeln!(text, "{count:>8.0}  {name}");
    }
    text
}

fn check(now: &BTreeMap<&str, f64>) -> ExitCode {
    let text = std::fs::read_to_string(table()).unwrap_or_default();
    if !text.lines().next().is_some_and(|head| head.contains(&compiler())) {
        println!("costs.txt is of another compiler than {}: not compared", compiler());
        return ExitCode::SUCCESS;
    }
    let rows = text.lines().skip(1).filter_map(|line| line.trim().split_once("  "));
    let before: BTreeMap<&str, f64> = rows.filter_map(|(count, name)| Some((name, count.parse().ok()?))).collect();
    let mut code = ExitCode::SUCCESS;
    for (name, &count) in now {
        let known = before.get(name).copied();
        if known.is_none_or(|known| (count - known).abs() > (known.abs() * TOLERANCE).max(SLACK)) {
            println!("{name}: {count:.0} instructions, costs.txt says {known:?}");
            code = ExitCode::FAILURE;
        }
    }
    if code == ExitCode::FAILURE {
        println!("If that is meant, run it with `-- --write`, and say why in the commit.");
    }
    code
}

const CASES: &[Case] = &[
    Case { name: BARE_CALL, run: |n| calls(Answers, n) },
    Case { name: "call, deadline", run: |n| calls(DeadlineLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, first byte", run: |n| calls(FirstByteTimeoutLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, idle", run: |n| calls(IdleBodyTimeoutLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, retry", run: |n| calls(RetryAfterBackoffLayer::new().layer(Answers), n) },
    Case { name: "call, breaker", run: |n| calls(CircuitBreakerLayer::new().layer(Answers), n) },
    Case { name: "call, dedup, leader", run: |n| calls(DedupLayer::new().window(Duration::ZERO).layer(Answers), n) },
    Case { name: "call, heartbeat", run: |n| calls(SseHeartbeatLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, off", run: |n| calls(off().layer(Answers), n) },
    Case { name: "call, http_client", run: |n| calls(presets::http_client(profile()).layer(Answers), n) },
    Case { name: "call, llm_client", run: |n| calls(presets::llm_client(profile()).layer(Answers), n) },
    Case { name: "call, llm_gateway, leader", run: |n| calls(gateway().layer(Answers), n) },
    Case { name: "call, grpc_client", run: |n| calls(presets::grpc_client(profile()).layer(Answers), n) },
    Case { name: BARE_FRAME, run: |n| frames(Identity::new(), n) },
    Case { name: "frame, deadline", run: |n| frames(DeadlineLayer::new(LIMIT), n) },
    Case { name: "frame, first byte", run: |n| frames(FirstByteTimeoutLayer::new(LIMIT), n) },
    Case { name: "frame, idle", run: |n| frames(IdleBodyTimeoutLayer::new(LIMIT), n) },
    Case { name: "frame, breaker", run: |n| frames(CircuitBreakerLayer::new(), n) },
    Case { name: "frame, heartbeat", run: |n| frames(SseHeartbeatLayer::new(LIMIT), n) },
    Case { name: "frame, grpc status", run: |n| frames(GrpcStatusLayer::new(), n) },
    Case { name: "frame, off", run: |n| frames(off(), n) },
    Case { name: "frame, http_client", run: |n| frames(presets::http_client(profile()), n) },
    Case { name: "frame, llm_client", run: |n| frames(presets::llm_client(profile()), n) },
];

fn profile() -> TimeoutProfile {
    TimeoutProfile::STANDARD
}

/// Every call leads: nothing is kept for the next.
fn gateway() -> ResilienceLayer {
    presets::llm_gateway(profile()).dedup(|dedup| dedup.window(Duration::ZERO))
}

/// A preset of which every layer is off.
fn off() -> ResilienceLayer {
    presets::http_client(profile())
        .deadline(|_| DeadlineLayer::disabled())
        .retry(|_| RetryAfterBackoffLayer::disabled())
        .breaker(|_| CircuitBreakerLayer::disabled())
        .idle(|_| IdleBodyTimeoutLayer::disabled())
        .first_byte(|_| FirstByteTimeoutLayer::disabled())
}

/// Answers every request with two bytes.
#[derive(Clone, Copy)]
struct Answers;

impl<B> Service<Request<B>> for Answers {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::from("ok"))))
    }
}

/// Answers every request with a body that does not end.
#[derive(Clone, Copy)]
struct Streams;

impl<B> Service<Request<B>> for Streams {
    type Response = Response<Endless>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Endless::ready())))
    }
}

/// A POST as a caller of a model provider sends it.
fn post() -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header("authorization", "Bearer sk-0123456789")
        .header("content-type", "application/json")
        .body(Full::from("{\"model\":\"m\"}"))
        .expect("a request")
}

/// Calls `n` times, and reads each answer to its end.
fn calls<S, B>(mut service: S, n: u64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: Body,
{
    for _ in 0..n {
        let Ok(response) = finish(service.call(post())) else { continue };
        let mut body = pin!(response.into_body());
        while finish(poll_fn(|cx| body.as_mut().poll_frame(cx))).is_some() {}
    }
}

/// Reads `n` frames of one answer.
fn frames<L, B>(layer: L, n: u64)
where
    L: Layer<Streams>,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: Body,
{
    if let Ok(response) = finish(layer.layer(Streams).call(post())) {
        read(response.into_body(), n);
    }
}
