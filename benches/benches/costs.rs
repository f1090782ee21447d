//! Guards against creeping costs: compares instruction counts of named paths with checked-in ones.
//!
//! `cargo bench --profile release -p tower-buttress-benches --no-default-features --features schema --bench costs`
//! prints them, `-- --check` compares them with `costs.txt` and fails if one differs by more than 2 %, `-- --write`
//! writes that file. A cheaper path fails too; otherwise its gain could be lost unnoticed.
//!
//! The profile is `release`, without LTO, because CI builds much of it for the fuzz targets anyway.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::{Ready, poll_fn, ready};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::{Command, ExitCode};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::layer::util::Identity;
use tower::{Layer, Service};
use tower_buttress::{
    CircuitBreakerLayer, DeadlineLayer, DedupLayer, FallbackLayer, FirstByteTimeoutLayer, GrpcStatusLayer,
    IdleActivity, IdleBodyTimeoutLayer, InspectRequestLayer, LastGoodLayer, ObserveLayer, PaceLayer, QueueLayer, Rate,
    RejectionsAsErrorsLayer, ResumeLayer, RetryAfterBackoffLayer, SseHeartbeatLayer, StreamGuardLayer,
    StructuredOutputLayer, SupersedeLayer, TimeoutProfile, TimeoutProfileLayer, presets, presets::ResilienceLayer,
};
use tower_buttress_benches::alloc::Counting;
use tower_buttress_benches::bodies::{Endless, read};
use tower_buttress_benches::measure::{self, Case};
use tower_buttress_benches::services::finish;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A path may differ by this ratio, or by these instructions, whichever is more. Two runs of one binary differ by at
/// most 3, but a change elsewhere in the crate can change what the compiler inlines: 16 per call and 3 per frame were
/// observed.
const TOLERANCE: f64 = 0.02;
const SLACK_OF_CALL: f64 = 20.0;
const SLACK_OF_FRAME: f64 = 4.0;

const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    measure::run(CASES, |_, _| {
        let Some(now) = costs() else {
            println!("valgrind is not installed: nothing is counted");
            return;
        };
        let args: Vec<String> = std::env::args().collect();
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
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

/// The instructions of each path, over the bare service or body that its name begins with.
fn costs() -> Option<BTreeMap<&'static str, f64>> {
    let count =
        |cases: &[Case]| cases.iter().map(|case| Some((case.name, case.instructions()?))).collect::<Option<_>>();
    let (one, two) = CASES.split_at(CASES.len() / 2);
    // Each count runs in its own process, undisturbed by others.
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| count(two));
        (count(one), other.join().ok().flatten())
    });
    let (mut counts, two): (BTreeMap<_, _>, BTreeMap<_, _>) = (one?, two?);
    counts.extend(two);
    let over = |name: &str| {
        let count = counts.get(name).copied().unwrap_or_default();
        let bare = name.split_once(", ").map(|(kind, _)| format!("{kind}, bare")).unwrap_or_default();
        if name == bare { count } else { count - counts.get(bare.as_str()).copied().unwrap_or_default() }
    };
    Some(counts.keys().map(|name| (*name, over(name))).collect())
}

fn table() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("costs.txt")
}

/// The other influences on instructions: the compiler, the C library (whose allocator is counted), and whether
/// valgrind offers AVX2 to code that selects it at run time, as it does if the machine has it. A table of another
/// toolchain is not comparable.
fn toolchain() -> String {
    let said_by = |program: &str| {
        let output = Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
    };
    #[cfg(target_arch = "x86_64")]
    let vectors = if is_x86_feature_detected!("avx2") { " with AVX2" } else { "" };
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = "";
    let libc = said_by("ldd");
    let libc = libc.rsplit(' ').next().unwrap_or_default();
    format!("{}, libc {libc}, {}{vectors}", said_by("rustc"), std::env::consts::ARCH)
}

fn written(costs: &BTreeMap<&str, f64>) -> String {
    let mut text = format!("# Instructions over the bare service or frame. {}\n", toolchain());
    for (name, count) in costs {
        let _ = writeln!(text, "{count:>8.0}  {name}");
    }
    text
}

fn check(now: &BTreeMap<&str, f64>) -> ExitCode {
    let text = std::fs::read_to_string(table()).unwrap_or_default();
    let toolchain = toolchain();
    if !text.lines().next().is_some_and(|head| head.ends_with(&toolchain)) {
        println!("costs.txt is of another toolchain than {toolchain}: not compared");
        return ExitCode::SUCCESS;
    }
    let rows = text.lines().skip(1).filter_map(|line| line.trim().split_once("  "));
    let before: BTreeMap<&str, f64> = rows.filter_map(|(count, name)| Some((name, count.parse().ok()?))).collect();
    let mut code = ExitCode::SUCCESS;
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        println!("{name}: a row in costs.txt, and not counted any more");
        code = ExitCode::FAILURE;
    }
    for (name, &count) in now {
        let known = before.get(name).copied();
        let slack = if name.starts_with("call") { SLACK_OF_CALL } else { SLACK_OF_FRAME };
        if known.is_none_or(|known| (count - known).abs() > (known.abs() * TOLERANCE).max(slack)) {
            match known {
                Some(known) => println!("{name}: {count:.0} instructions, where costs.txt has {known:.0}"),
                None => println!("{name}: {count:.0} instructions, and no row in costs.txt"),
            }
            code = ExitCode::FAILURE;
        }
    }
    if code == ExitCode::FAILURE {
        println!("If that is meant, run this bench with `-- --write`, and say why in the commit.");
    }
    code
}

/// Calls are read to their end. Frames come from one endless answer that no layer parses, tokens from a chat
/// completion's event stream.
const CASES: &[Case] = &[
    Case { name: "call, bare", run: |n| calls(Answers, n) },
    Case { name: "call, deadline", run: |n| calls(DeadlineLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, first byte", run: |n| calls(FirstByteTimeoutLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, idle", run: |n| calls(IdleBodyTimeoutLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, retry", run: |n| calls(RetryAfterBackoffLayer::new().layer(Answers), n) },
    Case { name: "call, breaker", run: |n| calls(CircuitBreakerLayer::new().layer(Answers), n) },
    Case { name: "call, dedup, leader", run: |n| calls(DedupLayer::new().window(Duration::ZERO).layer(Answers), n) },
    Case { name: "call, dedup, replay", run: |n| calls(replays().layer(Answers), n) },
    Case { name: "call, pace", run: |n| calls(pace().layer(Answers), n) },
    Case { name: "call, queue", run: |n| calls(QueueLayer::new(64).layer(Answers), n) },
    Case { name: "call, supersede", run: |n| calls(supersede().layer(Answers), n) },
    Case { name: "call, last good", run: |n| calls(LastGoodLayer::new().layer(Answers), n) },
    Case { name: "call, resume", run: |n| calls(ResumeLayer::new().layer(Answers), n) },
    Case { name: "call, stream guard", run: |n| calls(StreamGuardLayer::new().layer(Answers), n) },
    Case { name: "call, inspect", run: |n| calls(InspectRequestLayer::llm().layer(Answers), n) },
    Case { name: "call, observe", run: |n| calls(ObserveLayer::new("costs").layer(Answers), n) },
    Case { name: "call, fallback", run: |n| calls(FallbackLayer::new(Answers).layer(Answers), n) },
    Case {
        name: "call, structured output, none asked",
        run: |n| calls(StructuredOutputLayer::new().layer(Answers), n),
    },
    Case { name: "call, profile", run: |n| calls(TimeoutProfileLayer::new(|_| Some(profile())).layer(Answers), n) },
    Case { name: "call, grpc status", run: |n| calls(GrpcStatusLayer::new().layer(Answers), n) },
    Case { name: "call, rejections as errors", run: |n| calls(RejectionsAsErrorsLayer::new().layer(Answers), n) },
    Case { name: "call, heartbeat", run: |n| calls(SseHeartbeatLayer::new(LIMIT).layer(Answers), n) },
    Case { name: "call, off", run: |n| calls(off().layer(Answers), n) },
    Case { name: "call, http_client", run: |n| calls(presets::http_client(profile()).layer(Answers), n) },
    Case { name: "call, llm_client", run: |n| calls(presets::llm_client(profile()).layer(Answers), n) },
    Case { name: "call, llm_gateway, leader", run: |n| calls(gateway().layer(Answers), n) },
    Case { name: "call, grpc_client", run: |n| calls(presets::grpc_client(profile()).layer(Answers), n) },
    Case { name: "frame, bare", run: |n| frames(Identity::new(), n) },
    Case { name: "frame, deadline", run: |n| frames(DeadlineLayer::new(LIMIT), n) },
    Case { name: "frame, first byte", run: |n| frames(FirstByteTimeoutLayer::new(LIMIT), n) },
    Case { name: "frame, idle", run: |n| frames(IdleBodyTimeoutLayer::new(LIMIT), n) },
    Case { name: "frame, breaker", run: |n| frames(CircuitBreakerLayer::new(), n) },
    Case { name: "frame, heartbeat", run: |n| frames(SseHeartbeatLayer::new(LIMIT), n) },
    Case { name: "frame, grpc status", run: |n| frames(GrpcStatusLayer::new(), n) },
    Case { name: "frame, pace", run: |n| frames(pace(), n) },
    Case { name: "frame, queue", run: |n| frames(QueueLayer::new(64), n) },
    Case { name: "frame, supersede", run: |n| frames(supersede(), n) },
    Case { name: "frame, observe", run: |n| frames(ObserveLayer::new("costs"), n) },
    Case { name: "frame, structured output, none asked", run: |n| frames(StructuredOutputLayer::new(), n) },
    Case { name: "frame, off", run: |n| frames(off(), n) },
    Case { name: "frame, http_client", run: |n| frames(presets::http_client(profile()), n) },
    Case { name: "frame, grpc_client", run: |n| frames(presets::grpc_client(profile()), n) },
    Case { name: "token, bare", run: |n| tokens(Identity::new(), n) },
    Case { name: "token, idle by events", run: |n| tokens(by_events(), n) },
    Case { name: "token, heartbeat", run: |n| tokens(SseHeartbeatLayer::new(LIMIT), n) },
    Case { name: "token, stream guard", run: |n| tokens(StreamGuardLayer::new(), n) },
    Case { name: "token, resume", run: |n| tokens(ResumeLayer::new().verified_restart(true), n) },
    Case { name: "token, llm_client", run: |n| tokens(presets::llm_client(profile()), n) },
    Case { name: "token, llm_gateway", run: |n| tokens(gateway(), n) },
];

/// Names the conversation of a call.
const CONVERSATION: &str = "x-conversation";

/// Far more than requested.
fn pace() -> PaceLayer {
    PaceLayer::new().requests(Rate::per_second(1_000_000))
}

/// Also keeps answers to requests without a key.
fn replays() -> DedupLayer {
    DedupLayer::new().fingerprint_window(LIMIT).stateless(|_, _| false)
}

fn supersede() -> SupersedeLayer {
    SupersedeLayer::by_header(HeaderName::from_static(CONVERSATION))
}

fn by_events() -> IdleBodyTimeoutLayer {
    IdleBodyTimeoutLayer::new(LIMIT).activity(IdleActivity::SseEvents)
}

fn profile() -> TimeoutProfile {
    TimeoutProfile::STANDARD
}

/// Every call leads: no answer is kept for the next.
fn gateway() -> ResilienceLayer {
    presets::llm_gateway(profile()).dedup(|dedup| dedup.window(Duration::ZERO))
}

/// A preset with every layer off.
fn off() -> ResilienceLayer {
    presets::http_client(profile())
        .deadline(|_| DeadlineLayer::disabled())
        .retry(|_| RetryAfterBackoffLayer::disabled())
        .pace(|_| PaceLayer::disabled())
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

/// Answers every request with an endless body.
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

/// Answers every request with the event stream of an endless chat completion.
#[derive(Clone, Copy)]
struct Tokens;

/// Its body: one event of 200 bytes per frame.
struct Completion;

const TOKEN: &[u8] = b"data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1764201600,\
    \"model\":\"model-large\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n";

impl Body for Completion {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(TOKEN)))))
    }
}

impl<B> Service<Request<B>> for Tokens {
    type Response = Response<Completion>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let mut response = Response::new(Completion);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        ready(Ok(response))
    }
}

/// A POST of a model provider's caller.
fn post() -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header(CONVERSATION, "one")
        .header("authorization", "Bearer sk-0123456789")
        .header("content-type", "application/json")
        .body(Full::from("{\"model\":\"m\",\"stream\":true}"))
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

/// Reads `n` events of one event stream.
fn tokens<L, B>(layer: L, n: u64)
where
    L: Layer<Tokens>,
    L::Service: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: Body,
{
    if let Ok(response) = finish(layer.layer(Tokens).call(post())) {
        read(response.into_body(), n);
    }
}
