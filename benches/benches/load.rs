//! Compares pace, queue and supersede with their peers: an undelayed call, the gain of a second thread, and the cost
//! of ten thousand waiting calls.
//!
//! Every call reads its response body to the end. The peers end a call at its head, ours at the end of the body.

use std::convert::Infallible;
use std::future::Future;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::{Layer, Service};
use tower_buttress::{CallBody, PaceLayer, QueueLayer, Rate, SupersedeLayer, Tenant};
use tower_buttress_benches::alloc::{self, Counting};
use tower_buttress_benches::measure::{self, Case, CostOf};
use tower_buttress_benches::table;
use tower_resilience::bulkhead::BulkheadLayer;
use tower_resilience::ratelimiter::RateLimiterLayer;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONVERSATION: HeaderName = HeaderName::from_static("x-conversation-id");
/// More than any run sends.
const PLENTY: u32 = 1_000_000_000;
const WAITERS: u32 = 10_000;

fn main() {
    measure::run(CASES, tables);
}

fn tables(runtime: &Runtime, cost: CostOf<'_>) {
    println!(
        "Costs over the bare service of this run, where a row begins with a plus. Goals: pace +80 ns, queue +60 ns,"
    );
    println!("supersede +100 ns, and no allocation.");

    table::heading("A call that nothing holds up, its body read to the end");
    let bare = cost("bare");
    table::bare("bare", bare);
    let message = cost("bare, a message");
    table::bare("bare, a message: with a conversation and a tenant", message);
    for title in [
        "pace, until a 429",
        "pace, with a rate",
        "pace per caller, with a rate",
        "governor, with a rate",
        "tower RateLimit",
        "tower-resilience RateLimiter",
        "queue",
        "tower ConcurrencyLimit",
        "tower-resilience Bulkhead",
        "supersede, no conversation",
        "queue, off",
        "all three, off",
    ] {
        table::over(title, cost(title), bare, None);
    }
    for title in ["supersede, a message of 14 bytes", "its hashes alone"] {
        table::over(title, cost(title), message, None);
    }

    println!("\nTwo threads, each with its own clone: calls a second, over those of one thread");
    for (title, race) in RACES {
        println!("{title:<52} {:>7.2} x", race(2) / race(1));
    }

    println!("\nBytes for each of {WAITERS} calls that wait, their requests included (goal: 5 MB in all, 524 each)");
    for (title, bytes) in [("queue", waiting(runtime, queue_of_one())), ("pace", waiting(runtime, pace_of_one()))] {
        println!("{title:<52} {bytes:>7}");
    }
}

/// Calls per second of `threads` threads together.
type Race = fn(usize) -> f64;

const RACES: &[(&str, Race)] = &[
    ("bare", |threads| race(&Upstream, threads)),
    ("pace, until a 429", |threads| race(&PaceLayer::new().layer(Upstream), threads)),
    ("pace, with a rate", |threads| race(&paced().layer(Upstream), threads)),
    ("governor, with a rate", |threads| race(&governed(), threads)),
    ("tower-resilience RateLimiter", |threads| race(&limiter().layer(Upstream), threads)),
    ("queue", |threads| race(&QueueLayer::new(64).layer(Upstream), threads)),
    ("tower ConcurrencyLimit", |threads| race(&ConcurrencyLimitLayer::new(64).layer(Upstream), threads)),
    ("tower-resilience Bulkhead", |threads| race(&bulkhead().layer(Upstream), threads)),
    ("supersede, no conversation", |threads| race(&supersede().layer(Upstream), threads)),
];

const CASES: &[Case] = &[
    Case { name: "bare", run: |n| calls(Upstream, ask, n) },
    Case { name: "bare, a message", run: |n| calls(Upstream, message, n) },
    Case { name: "pace, until a 429", run: |n| calls(PaceLayer::new().layer(Upstream), ask, n) },
    Case { name: "pace, with a rate", run: |n| calls(paced().layer(Upstream), ask, n) },
    Case { name: "pace per caller, with a rate", run: |n| calls(per_caller().layer(Upstream), ask, n) },
    Case { name: "governor, with a rate", run: |n| calls(governed(), ask, n) },
    Case {
        name: "tower RateLimit",
        run: |n| calls(RateLimitLayer::new(PLENTY.into(), Duration::from_secs(1)).layer(Upstream), ask, n),
    },
    Case { name: "tower-resilience RateLimiter", run: |n| calls(limiter().layer(Upstream), ask, n) },
    Case { name: "queue", run: |n| calls(QueueLayer::new(64).layer(Upstream), ask, n) },
    Case { name: "tower ConcurrencyLimit", run: |n| calls(ConcurrencyLimitLayer::new(64).layer(Upstream), ask, n) },
    Case { name: "tower-resilience Bulkhead", run: |n| calls(bulkhead().layer(Upstream), ask, n) },
    Case { name: "supersede, no conversation", run: |n| calls(supersede().layer(Upstream), ask, n) },
    Case { name: "supersede, a message of 14 bytes", run: |n| calls(supersede().layer(Upstream), message, n) },
    Case { name: "its hashes alone", run: |n| calls(Hashing, message, n) },
    Case { name: "queue, off", run: |n| calls(QueueLayer::disabled().layer(Upstream), ask, n) },
    Case {
        name: "all three, off",
        run: |n| {
            let inner = QueueLayer::disabled().layer(PaceLayer::disabled().layer(Upstream));
            calls(SupersedeLayer::disabled().layer(inner), ask, n);
        },
    },
];

// === the upstream, and what calls it ===

/// Answers with a body of one frame.
#[derive(Clone, Copy, Debug)]
struct Upstream;

#[derive(Debug)]
struct Answer;

impl Service<Request<CallBody>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<CallBody>) -> Answer {
        black_box(&request);
        Answer
    }
}

impl Future for Answer {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    #[inline(never)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(Response::new(Full::new(Bytes::from_static(b"data: {\"delta\":\"token\"}\n\n")))))
    }
}

/// Hashes as many blocks as supersede: two for the conversation, two for a short message.
#[derive(Clone, Copy, Debug)]
struct Hashing;

impl Service<Request<CallBody>> for Hashing {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> Answer {
        for _ in 0..2 {
            black_box(Sha256::digest(black_box([0; 80])));
        }
        Upstream.call(request)
    }
}

/// Never has room.
#[derive(Clone, Copy, Debug)]
struct Silent;

impl Service<Request<CallBody>> for Silent {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = std::future::Pending<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<CallBody>) -> Self::Future {
        std::future::pending()
    }
}

fn ask() -> Request<CallBody> {
    Request::new(CallBody::new(Full::new(Bytes::from_static(b"{\"model\":\"m\"}\n"))))
}

fn message() -> Request<CallBody> {
    let mut request = ask();
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert(CONVERSATION, HeaderValue::from_static("7"));
    request.extensions_mut().insert(Tenant::new("acme"));
    request
}

/// Calls a number of times.
fn calls<S, B>(mut service: S, request: fn() -> Request<CallBody>, n: u64)
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..n {
        while service.poll_ready(&mut cx).is_pending() {}
        let mut future = pin!(service.call(request()));
        let answer = loop {
            if let Poll::Ready(answer) = poll(future.as_mut(), &mut cx) {
                break answer;
            }
        };
        if let Ok(response) = answer {
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(_)) = black_box(&poll_frame(body.as_mut(), &mut cx)) {}
        }
    }
}

/// The call of a runtime: not inlined into the loop that makes it.
#[inline(never)]
fn poll<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(cx)
}

type FrameOf<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// The call of a server, likewise.
#[inline(never)]
fn poll_frame<B: Body>(body: Pin<&mut B>, cx: &mut Context<'_>) -> Poll<Option<FrameOf<B>>> {
    body.poll_frame(cx)
}

/// The best of several runs: other work on the machine only slows a run down.
fn race<S, B>(service: &S, threads: usize) -> f64
where
    S: Service<Request<CallBody>, Response = Response<B>> + Clone + Send,
    B: Body,
{
    const CALLS: u64 = 100_000;
    let runtime = tokio::runtime::Handle::current();
    // Each thread has its own clock: this one may be woken late.
    let run = || {
        let start = Barrier::new(threads);
        let seconds = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|_| {
                    let (service, start, runtime) = (service.clone(), &start, &runtime);
                    scope.spawn(move || {
                        let _entered = runtime.enter();
                        start.wait();
                        let began = Instant::now();
                        calls(service, ask, CALLS);
                        began.elapsed().as_secs_f64()
                    })
                })
                .collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).fold(0.0, f64::max)
        });
        (CALLS * threads as u64) as f64 / seconds
    };
    (0..15).map(|_| run()).fold(0.0, f64::max)
}

/// The cost of a call that waits behind an endless one: requested bytes, and its future.
fn waiting<S>(runtime: &Runtime, service: S) -> u64
where
    S: Service<Request<CallBody>> + Clone,
{
    let _entered = runtime.enter();
    let mut cx = Context::from_waker(Waker::noop());
    let mut call = || {
        let mut service = service.clone();
        let _ = service.poll_ready(&mut cx);
        let mut call = Box::pin(service.call(ask()));
        assert!(call.as_mut().poll(&mut cx).is_pending());
        call
    };
    let first = call();
    let mut calls = Vec::with_capacity(WAITERS as usize);
    let before = alloc::bytes();
    calls.extend((0..WAITERS).map(|_| call()));
    let bytes = alloc::bytes() - before;
    drop((calls, first));
    bytes / u64::from(WAITERS)
}

// === the layers ===

fn queue_of_one() -> impl Service<Request<CallBody>> + Clone {
    QueueLayer::new(1).max_waiting(WAITERS).max_wait(Duration::from_secs(3600)).layer(Silent)
}

fn pace_of_one() -> impl Service<Request<CallBody>> + Clone {
    PaceLayer::new().requests(Rate::per_minute(1)).max_wait(Duration::from_secs(86_400 * 365)).layer(Silent)
}

fn paced() -> PaceLayer {
    PaceLayer::new().requests(Rate::per_second(PLENTY.into()).burst(PLENTY.into()))
}

fn per_caller() -> PaceLayer {
    PaceLayer::per_caller().requests(Rate::per_second(PLENTY.into()))
}

fn supersede() -> SupersedeLayer {
    SupersedeLayer::by_header(CONVERSATION)
}

fn limiter() -> RateLimiterLayer {
    let limit = RateLimiterLayer::builder().limit_for_period(PLENTY as usize).refresh_period(Duration::from_secs(1));
    limit.build().expect("a configuration")
}

fn bulkhead() -> BulkheadLayer {
    BulkheadLayer::builder().max_concurrent_calls(64).build().expect("a configuration")
}

/// governor has no layer for HTTP answers: it is used as a check before the call.
#[derive(Clone)]
struct Governed(Arc<DefaultDirectRateLimiter>);

fn governed() -> Governed {
    Governed(Arc::new(RateLimiter::direct(Quota::per_second(NonZeroU32::new(PLENTY).expect("not zero")))))
}

impl Service<Request<CallBody>> for Governed {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.0.check().is_ok() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: Request<CallBody>) -> Answer {
        Upstream.call(request)
    }
}
