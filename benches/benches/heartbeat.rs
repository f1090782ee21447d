//! Heartbeats: the cost of following a stream, with axum's `KeepAlive` and sse-stream's body, and of a hundred
//! thousand silent streams.

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tower::{Layer, Service};
use tower_buttress::SseHeartbeatLayer;
use tower_buttress::proto::sse::Scanner;
use tower_buttress::sse_heartbeat::SseHeartbeatBody;
use tower_buttress_benches::alloc::{self, Counting};
use tower_buttress_benches::bodies::{BoxError, Endless, read};
use tower_buttress_benches::measure::{self, Case, CostOf};
use tower_buttress_benches::services::finish;
use tower_buttress_benches::table;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    measure::run(CASES, tables);
}

fn tables(runtime: &Runtime, cost: CostOf<'_>) {
    println!("Costs over the bare body of this run, where a row begins with a plus.");

    for (title, bare, ours, axum, theirs, goal) in [
        ("A frame that is ready", "ready", "ready heartbeat", "ready axum", "ready axum keep-alive", 25.0),
        (
            "A frame that is pending once",
            "pending",
            "pending heartbeat",
            "pending axum",
            "pending axum keep-alive",
            60.0,
        ),
    ] {
        table::heading(title);
        let bare = cost(bare);
        table::bare("bare", bare);
        table::over("SseHeartbeat, its scan included", cost(ours), bare, Some(goal));
        let axum = cost(axum);
        table::bare("axum Sse", axum);
        table::over("its KeepAlive", cost(theirs), axum, None);
    }
    table::bare("sse-stream SseBody, a frame that is ready", cost("ready sse-stream"));

    table::heading("Reading 64 bytes: one event with one line of data");
    table::bare("Scanner", cost("scan"));
    table::bare("memchr, for the ends of lines alone", cost("memchr"));

    silent(runtime);
}

const CASES: &[Case] = &[
    Case { name: "ready", run: |n| read(Endless::<BoxError>::ready(), n) },
    Case { name: "ready heartbeat", run: |n| read(through(Endless::<BoxError>::ready()), n) },
    Case { name: "ready axum", run: |n| read(axum(false, false), n) },
    Case { name: "ready axum keep-alive", run: |n| read(axum(false, true), n) },
    Case { name: "ready sse-stream", run: |n| read(sse_stream::SseBody::new(items()), n) },
    Case { name: "pending", run: |n| read(Endless::<BoxError>::pending(), n) },
    Case { name: "pending heartbeat", run: |n| read(through(Endless::<BoxError>::pending()), n) },
    Case { name: "pending axum", run: |n| read(axum(true, false), n) },
    Case { name: "pending axum keep-alive", run: |n| read(axum(true, true), n) },
    Case {
        name: "scan",
        run: |n| {
            let mut scanner = Scanner::new();
            for _ in 0..n {
                black_box(scanner.scan(black_box(FRAME)));
            }
        },
    },
    Case {
        name: "memchr",
        run: |n| {
            for _ in 0..n {
                black_box(memchr::memchr2_iter(b'\n', b'\r', black_box(FRAME)).count());
            }
        },
    },
];

const FRAME: &[u8; 64] =
    b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"token one\"}}]}\n\n".first_chunk().unwrap();
const INTERVAL: Duration = Duration::from_secs(15);

/// `body` through the layer.
fn through<B>(body: B) -> SseHeartbeatBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + 'static,
{
    beating(INTERVAL, body)
}

fn beating<B>(interval: Duration, body: B) -> SseHeartbeatBody<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + 'static,
{
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("text/event-stream"));
    let mut response = Some(response);
    let once = tower::service_fn(|_: Request<Empty<Bytes>>| {
        std::future::ready(Ok::<_, Infallible>(response.take().expect("called once")))
    });
    let Ok(response) = finish(SseHeartbeatLayer::new(interval).layer(once).call(Request::new(Empty::new())));
    response.into_body()
}

/// Endless events, ready or pending once each.
fn events(pending: bool) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut asked = false;
    stream::poll_fn(move |_| {
        asked = !asked;
        if pending && asked {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Event::default().data("{\"delta\":\"token\"}"))))
    })
}

fn axum(pending: bool, keep_alive: bool) -> axum::body::Body {
    let sse = Sse::new(events(pending));
    if keep_alive { sse.keep_alive(KeepAlive::new()).into_response() } else { sse.into_response() }.into_body()
}

fn items() -> impl Stream<Item = Result<sse_stream::Sse, Infallible>> {
    stream::repeat_with(|| Ok(sse_stream::Sse::default().data("{\"delta\":\"token\"}")))
}

// === streams in which nothing happens ===

/// A stream that is silent for ever.
struct Silent;

impl Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// The number of streams of a large gateway. Heartbeats come ten times as fast, for a tenth of the time.
const STREAMS: usize = 100_000;
const FAST: Duration = Duration::from_millis(1_500);
const BEATS: u32 = 2;

fn silent(runtime: &Runtime) {
    println!("\n{STREAMS} silent streams, {BEATS} heartbeats each: bytes a stream, and processor time a heartbeat");
    let keep_alive = || {
        let never = stream::pending::<Result<Event, Infallible>>();
        Sse::new(never).keep_alive(KeepAlive::new().interval(FAST)).into_response().into_body()
    };
    let bare = || Sse::new(stream::pending::<Result<Event, Infallible>>()).into_response().into_body();
    // axum boxes it together with the head, which the bare one has too.
    let theirs = allocated(keep_alive) - allocated(bare);
    let mut ours = beating(FAST, Silent);
    let own = allocated(|| Pin::new(&mut ours)) + size_of_val(&ours) as u64;
    for (name, bytes, nanos) in [
        ("SseHeartbeat", own, beats(runtime, || beating(FAST, Silent))),
        ("axum KeepAlive", theirs, beats(runtime, keep_alive)),
    ] {
        println!("{name:<28} {bytes:>6} bytes {nanos:>6.0} ns");
    }
}

/// The allocations until a body waits.
fn allocated<B: Body>(body: impl FnOnce() -> B) -> u64 {
    let before = alloc::bytes();
    let mut body = pin!(body());
    let _ = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
    alloc::bytes() - before
}

fn beats<B: Body + 'static>(runtime: &Runtime, body: impl Fn() -> B) -> f64 {
    let local = LocalSet::new();
    let spent = local.block_on(runtime, async {
        let tasks: Vec<_> = (0..STREAMS)
            .map(|_| {
                let body = body();
                tokio::task::spawn_local(async move {
                    let mut body = pin!(body);
                    for _ in 0..BEATS {
                        let _ = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let before = processor();
        for task in tasks {
            let _ = task.await;
        }
        processor() - before
    });
    spent * 1e9 / (STREAMS as f64 * f64::from(BEATS))
}

/// CPU time of this process, in seconds.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    stat.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
}
