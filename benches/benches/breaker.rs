//! Compares the circuit breaker with its peers: a call through a closed circuit, a refusal, a whole cycle of a
//! circuit, and the gain of a second thread.
//!
//! Every call reads its response body to the end. The peers decide at the head, ours at the end of the body.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::Barrier;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use failsafe::futures::CircuitBreaker as _;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{Empty, Full};
use recloser::{AsyncRecloser, Recloser};
use rskit_errors::AppError;
use rskit_resilience::{CbConfig, CircuitBreaker as Rskit};
use tokio::runtime::Runtime;
use tower::{Layer, Service};
use tower_buttress::{CircuitBreakerLayer, Rejection, RejectionFormat, RejectionKind};
use tower_buttress_benches::alloc::Counting;
use tower_buttress_benches::measure::{self, Case, CostOf};
use tower_buttress_benches::table;
use tower_resilience_circuitbreaker::{CircuitBreakerLayer as ResilienceLayer, DefaultClassifier, SlidingWindowType};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LONG: Duration = Duration::from_secs(3600);

fn main() {
    measure::run(CASES, tables);
}

fn tables(_: &Runtime, cost: CostOf<'_>) {
    println!("Costs over the bare service of this run, where a row begins with a plus.");

    table::heading("A call through a closed circuit, its body read to the end");
    let bare = cost("bare");
    table::bare("bare", bare);
    for (title, case) in [
        ("CircuitBreaker", "closed"),
        ("CircuitBreaker, by key", "closed keyed"),
        ("CircuitBreaker, slow calls too", "closed slow"),
        ("CircuitBreaker, off", "off"),
        ("recloser", "closed recloser"),
        ("failsafe", "closed failsafe"),
        ("rskit-resilience", "closed rskit"),
        ("tower-resilience, window of 100 calls", "closed tower-resilience"),
        ("tower-resilience, window of 10 s", "closed tower-resilience time"),
    ] {
        table::over(title, cost(case), bare, None);
    }

    table::heading("A call that an open circuit refuses");
    for (title, case) in [
        ("CircuitBreaker", "open"),
        ("the response of it alone", "open response"),
        ("recloser", "open recloser"),
        ("failsafe", "open failsafe"),
        ("rskit-resilience", "open rskit"),
        ("tower-resilience", "open tower-resilience"),
    ] {
        table::bare(title, cost(case));
    }

    table::heading("A circuit's cycle: it opens, a probe succeeds, it closes");
    for (title, case) in [
        ("CircuitBreaker: one failure, one probe", "cycle"),
        ("recloser: two failures, two probes", "cycle recloser"),
        ("failsafe: one failure, one probe", "cycle failsafe"),
        ("rskit-resilience: one failure, one probe", "cycle rskit"),
        ("tower-resilience: one failure, one probe", "cycle tower-resilience"),
    ] {
        table::bare(title, cost(case));
    }

    println!("\nTwo threads on one closed circuit, each with its own clone: calls a second, over those of one thread");
    for (title, race) in RACES {
        println!("{title:<52} {:>7.2} x", race(2) / race(1));
    }
}

/// Calls per second of `threads` threads together.
type Race = fn(usize) -> f64;

const RACES: &[(&str, Race)] = &[
    ("bare", |threads| race(&Upstream, threads)),
    ("CircuitBreaker", |threads| race(&breaker().layer(Upstream), threads)),
    ("CircuitBreaker, by key", |threads| race(&keyed().layer(Upstream), threads)),
    ("recloser", |threads| race(&recloser(100, 10, LONG), threads)),
    ("failsafe", |threads| race(&failsafe(5, LONG), threads)),
    ("rskit-resilience", |threads| race(&rskit(5, LONG), threads)),
    ("tower-resilience", |threads| race(&resilience(100, LONG).layer(Upstream), threads)),
];

const CASES: &[Case] = &[
    Case { name: "bare", run: |n| calls(Upstream, GET, n) },
    Case { name: "closed", run: |n| calls(breaker().layer(Upstream), GET, n) },
    Case { name: "closed keyed", run: |n| calls(keyed().layer(Upstream), GET, n) },
    Case { name: "closed slow", run: |n| calls(slow().layer(Upstream), GET, n) },
    Case { name: "off", run: |n| calls(CircuitBreakerLayer::disabled().layer(Upstream), GET, n) },
    Case { name: "closed recloser", run: |n| calls(recloser(100, 10, LONG), GET, n) },
    Case { name: "closed failsafe", run: |n| calls(failsafe(5, LONG), GET, n) },
    Case { name: "closed rskit", run: |n| calls(rskit(5, LONG), GET, n) },
    Case { name: "closed tower-resilience", run: |n| calls(resilience(100, LONG).layer(Upstream), GET, n) },
    Case { name: "closed tower-resilience time", run: |n| calls(resilience_time().layer(Upstream), GET, n) },
    Case { name: "open", run: |n| calls(opened(breaker().layer(Upstream), 5), GET, n) },
    Case { name: "open response", run: refusals },
    Case { name: "open recloser", run: |n| calls(opened(recloser(1, 1, LONG), 2), GET, n) },
    Case { name: "open failsafe", run: |n| calls(opened(failsafe(1, LONG), 1), GET, n) },
    Case { name: "open rskit", run: |n| calls(opened(rskit(1, LONG), 1), GET, n) },
    Case { name: "open tower-resilience", run: |n| calls(opened(resilience(1, LONG).layer(Upstream), 1), GET, n) },
    Case { name: "cycle", run: |n| cycles(nervous().layer(Upstream), 1, n) },
    Case { name: "cycle recloser", run: |n| cycles(recloser(1, 1, Duration::ZERO), 2, n) },
    Case { name: "cycle failsafe", run: |n| cycles(failsafe(1, Duration::ZERO), 1, n) },
    Case { name: "cycle rskit", run: |n| cycles(rskit(1, Duration::ZERO), 1, n) },
    Case { name: "cycle tower-resilience", run: |n| cycles(resilience(1, Duration::ZERO).layer(Upstream), 1, n) },
];

// === the upstream, and what calls it ===

/// Answers a GET with a body of one frame; any other call fails.
#[derive(Clone, Copy, Debug)]
struct Upstream;

#[derive(Debug)]
struct Answer {
    good: bool,
}

#[derive(Debug)]
struct Broken;

const GET: Method = Method::GET;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl Error for Broken {}

impl Service<Request<Empty<Bytes>>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Broken;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Empty<Bytes>>) -> Answer {
        Answer { good: *request.method() == Method::GET }
    }
}

impl Future for Answer {
    type Output = Result<Response<Full<Bytes>>, Broken>;

    #[inline(never)]
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(if self.good {
            Ok(Response::new(Full::new(Bytes::from_static(b"data: {\"delta\":\"token\"}\n\n"))))
        } else {
            Err(Broken)
        })
    }
}

/// A caller that can be called a number of times.
trait Calls {
    fn one(&mut self, method: Method);
}

impl<S, B> Calls for S
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: Body,
{
    fn one(&mut self, method: Method) {
        let mut cx = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(_)) = self.poll_ready(&mut cx) {
            return;
        }
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method;
        if let Some(response) = finish(self.call(request)) {
            let mut body = pin!(response.into_body());
            while let Poll::Ready(Some(frame)) = black_box(body.as_mut().poll_frame(&mut cx)) {
                drop(black_box(frame));
            }
        }
    }
}

/// A peer that guards futures.
#[derive(Clone)]
struct Guarding<F>(F);

impl<F, R, E, B> Service<Request<Empty<Bytes>>> for Guarding<F>
where
    F: FnMut(Request<Empty<Bytes>>) -> R,
    R: Future<Output = Result<Response<B>, E>>,
{
    type Response = Response<B>;
    type Error = E;
    type Future = R;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty<Bytes>>) -> R {
        self.0(request)
    }
}

fn finish<F: Future<Output = Result<T, E>>, T, E>(future: F) -> Option<T> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = poll(future.as_mut(), &mut cx) {
            return output.ok();
        }
    }
}

/// The call of a runtime: not inlined into the loop that makes it.
#[inline(never)]
fn poll<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(cx)
}

fn calls(mut service: impl Calls, method: Method, n: u64) {
    for _ in 0..n {
        service.one(method.clone());
    }
}

fn opened<S: Calls>(mut service: S, failures: u32) -> S {
    (0..failures).for_each(|_| service.one(Method::DELETE));
    service
}

/// This many failures, and as many probes.
fn cycles(mut service: impl Calls, failures: u32, n: u64) {
    for _ in 0..n {
        (0..failures).for_each(|_| service.one(Method::DELETE));
        (0..failures).for_each(|_| service.one(Method::GET));
    }
}

/// The best of several runs: other work on the machine only slows a run down.
fn race<S: Calls + Clone + Send>(service: &S, threads: usize) -> f64 {
    const CALLS: u64 = 200_000;
    let run = || {
        let start = Barrier::new(threads + 1);
        let seconds = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|_| {
                    let (service, start) = (service.clone(), &start);
                    scope.spawn(move || {
                        start.wait();
                        calls(service, GET, CALLS);
                    })
                })
                .collect();
            start.wait();
            let began = Instant::now();
            running.into_iter().for_each(|thread| thread.join().expect("no panic"));
            began.elapsed().as_secs_f64()
        });
        (CALLS * threads as u64) as f64 / seconds
    };
    (0..15).map(|_| run()).fold(0.0, f64::max)
}

/// The minimal refusal: the response that any breaker must build.
fn refusals(n: u64) {
    for _ in 0..n {
        let refused = Rejection::new(RejectionKind::CircuitOpen).with_retry_after(Duration::from_secs(5));
        drop(black_box(refused.into_response(black_box(RejectionFormat::Http))));
    }
}

// === the breakers ===

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new()
}

fn keyed() -> CircuitBreakerLayer {
    breaker().key(|parts| Some(parts.method.as_str().into()))
}

fn slow() -> CircuitBreakerLayer {
    breaker().configure(|config| config.slow_calls(LONG, 0.5))
}

/// Opens at once, for a short time.
fn nervous() -> CircuitBreakerLayer {
    breaker().configure(|config| config.consecutive_failures(1).open_duration(Duration::ZERO, Duration::ZERO))
}

fn recloser(closed: usize, half_open: usize, open: Duration) -> impl Calls + Clone + Send {
    let breaker = Recloser::custom().error_rate(0.5).closed_len(closed).half_open_len(half_open).open_wait(open);
    let breaker = AsyncRecloser::from(breaker.build());
    Guarding(move |request| breaker.call(Upstream.call(request)))
}

fn failsafe(failures: u32, open: Duration) -> impl Calls + Clone + Send {
    let policy = failsafe::failure_policy::consecutive_failures(failures, failsafe::backoff::constant(open));
    let breaker = failsafe::Config::new().failure_policy(policy).build();
    Guarding(move |request| breaker.call(Upstream.call(request)))
}

fn rskit(failures: usize, open: Duration) -> impl Calls + Clone + Send {
    let config = CbConfig::new("upstream").with_max_failures(failures).with_timeout(open).with_half_open_max_calls(1);
    let breaker = Rskit::new(config).expect("a configuration");
    Guarding(move |request| {
        let breaker = breaker.clone();
        async move {
            let call = || async { Upstream.call(request).await.map_err(|_| AppError::service_unavailable("upstream")) };
            breaker.execute(call).await
        }
    })
}

fn resilience(calls: usize, open: Duration) -> ResilienceLayer<DefaultClassifier> {
    let layer = ResilienceLayer::builder().failure_rate_threshold(0.5).sliding_window_size(calls);
    let layer = layer.minimum_number_of_calls(calls).permitted_calls_in_half_open(1).wait_duration_in_open(open);
    layer.build().expect("a configuration")
}

fn resilience_time() -> ResilienceLayer<DefaultClassifier> {
    let layer = ResilienceLayer::builder().sliding_window_type(SlidingWindowType::TimeBased);
    let layer = layer.sliding_window_duration(Duration::from_secs(10)).minimum_number_of_calls(10);
    layer.build().expect("a configuration")
}
