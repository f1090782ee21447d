//! The gain of a second thread: calls per second of one and of two threads on clones of one service, in a runtime with
//! two workers. Locks and shared counters show only here.
//!
//! The bare service and the stacks take turns within each round, because the machine is shared; every figure is the
//! median of the rounds.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tower::{Layer, Service, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{
    CallInfo, DeadlineLayer, Event, FirstByteTimeoutLayer, IdleBodyTimeoutLayer, Observer, PaceLayer, QueueLayer,
    SupersedeLayer, TimeoutProfile, presets,
};

const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(90);
/// The share of the bare service's scaling that a stack must keep.
const GOAL: f64 = 0.9;

/// Calls per second by number of threads.
type Run = Box<dyn Fn(&Runtime, usize) -> f64>;

/// One service: its name, and calls per second by number of threads.
struct Case {
    name: &'static str,
    goal: bool,
    run: Run,
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
    let cases = [
        case("bare", false, answer),
        case("Deadline", false, || DeadlineLayer::new(LIMIT).layer(answer())),
        case("IdleBodyTimeout", false, || IdleBodyTimeoutLayer::new(LIMIT).layer(answer())),
        case("FirstByteTimeout", false, || FirstByteTimeoutLayer::new(LIMIT).layer(answer())),
        case("Pace", true, || PaceLayer::new().layer(answer())),
        case("Queue", true, || QueueLayer::new(64).layer(answer())),
        case("Supersede, no conversation", true, || {
            SupersedeLayer::by_header(http::HeaderName::from_static("x-conversation-id")).layer(answer())
        }),
        case("http_client", true, || presets::http_client(TimeoutProfile::STANDARD).layer(answer())),
        case("http_client, observed", true, || {
            presets::http_client(TimeoutProfile::STANDARD).observer(Arc::new(Deaf)).layer(answer())
        }),
        case("llm_client", false, || presets::llm_client(TimeoutProfile::STANDARD).layer(answer())),
    ];
    println!("Million calls a second whose answer is there at once and read; medians of {ROUNDS} rounds of {TURN:?}");
    println!("{:<28} {:>8} {:>8} {:>8} {:>10}", "", "one", "two", "ratio", "over bare");
    let mut runs = vec![[Vec::new(), Vec::new(), Vec::new(), Vec::new()]; cases.len()];
    for _ in 0..ROUNDS {
        let mut bare = 1.0;
        for (at, (case, runs)) in cases.iter().zip(&mut runs).enumerate() {
            let (one, two) = ((case.run)(&runtime, 1), (case.run)(&runtime, 2));
            let scales = two / one;
            if at == 0 {
                bare = scales;
            }
            for (figures, figure) in runs.iter_mut().zip([one, two, scales, scales / bare]) {
                figures.push(figure);
            }
        }
    }
    for (case, runs) in cases.iter().zip(runs) {
        let [one, two, scales, over] = runs.map(median);
        let verdict = match case.goal {
            true if over >= GOAL => format!("  at least {GOAL}: met"),
            true => format!("  at least {GOAL}: missed"),
            false => String::new(),
        };
        println!("{:<28} {:>8.2} {:>8.2} {scales:>8.2} {over:>10.2}{verdict}", case.name, one / 1e6, two / 1e6);
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn case<S, B>(name: &'static str, goal: bool, service: impl Fn() -> S + 'static) -> Case
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Future: Send> + Clone + Send + 'static,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let run = move |runtime: &Runtime, threads: usize| {
        let (service, stop) = (service(), Arc::new(AtomicBool::new(false)));
        runtime.block_on(async {
            let tasks: Vec<_> = (0..threads).map(|_| tokio::spawn(call_until(service.clone(), stop.clone()))).collect();
            // Not a timer of the runtime, whose workers are all busy.
            std::thread::sleep(TURN);
            stop.store(true, Relaxed);
            let mut rate = 0.0;
            for task in tasks {
                rate += task.await.expect("calls");
            }
            rate
        })
    };
    Case { name, goal, run: Box::new(run) }
}

/// Makes calls until stopped; returns calls per second.
async fn call_until<S, B>(mut service: S, stop: Arc<AtomicBool>) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let (began, mut calls) = (Instant::now(), 0_u32);
    while !stop.load(Relaxed) {
        for _ in 0..64 {
            let request = Request::new(Full::from(Bytes::from_static(b"{\"model\":\"m\"}")));
            let mut body = service.call(request).await.expect("an answer").into_body();
            while let Some(frame) = body.frame().await {
                std::hint::black_box(frame.map_err(Into::into).expect("a frame"));
            }
            calls += 1;
        }
    }
    f64::from(calls) / began.elapsed().as_secs_f64()
}

/// Answers at once, with a body of one frame.
fn answer<B: Send + 'static>()
-> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send
+ 'static {
    service_fn(|_: Request<B>| async { Ok(Response::new(Full::new(Bytes::from_static(b"{\"text\":\"hello\"}")))) })
}

/// An observer that ignores all events.
struct Deaf;

impl Observer for Deaf {
    fn on_event(&self, _: &Event, _: Option<&CallInfo>) {}
}
