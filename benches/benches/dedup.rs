//! The cost of dedup for a leader, a joined call and a replay, with tower-resilience's coalesce and cache.
//!
//! The peers need answers that can be cloned, and so cannot stream: theirs are `Response<Bytes>`. They get their key
//! ready-made; ours reads and hashes the request.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt};
use tower_buttress::DedupLayer;
use tower_buttress::dedup::DedupBody;
use tower_buttress_benches::alloc::{self, Counting};
use tower_buttress_benches::measure::{self, Case, CostOf};
use tower_buttress_benches::services::finish;
use tower_buttress_benches::table;
use tower_resilience::cache::CacheLayer;
use tower_resilience::coalesce::CoalesceLayer;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    measure::run(CASES, tables);
}

fn tables(runtime: &Runtime, cost: CostOf<'_>) {
    println!("Costs over the bare service of this run, where a row begins with a plus.");

    table::heading("A POST of 14 bytes whose answer is read to the end");
    let bare = cost("bare");
    table::bare("bare", bare);
    for (title, case) in [
        ("Dedup, off", "off"),
        ("Dedup, no tenant", "aside"),
        ("Dedup, leader, by key", "leader key"),
        ("Dedup, leader, by fingerprint", "leader"),
        ("Dedup, joined (head and first frame)", "join"),
        ("Dedup, replayed", "replay"),
    ] {
        table::over(title, cost(case), bare, None);
    }
    let bare = cost("bare clone");
    table::bare("bare, an answer that can be cloned", bare);
    for (title, case) in [("tower-resilience coalesce, leader", "coalesce"), ("tower-resilience cache, hit", "cache")] {
        table::over(title, cost(case), bare, None);
    }

    println!("\nThe fingerprint: what a longer body adds to a leader, and SHA-256 alone, in ns");
    for length in [1024, 32 * 1024, 1024 * 1024] {
        let (ours, hash) = (hashing(length), sha256(length));
        println!("{:<52} {ours:>9.0} {hash:>9.0} {:>6.2} x", format!("{} KiB", length / 1024), ours / hash);
    }

    println!("\nAllocated for a stream of 1 MiB in 1,024 frames, in KiB");
    for followers in [0, 1, 100] {
        println!("{:<52} {:>9}", format!("{followers} followers"), stream(runtime, followers) / 1024);
    }
}

const CASES: &[Case] = &[
    Case { name: "bare", run: |n| posts(Upstream, || post(ASK), n) },
    Case { name: "off", run: |n| posts(DedupLayer::disabled().layer(Upstream), || post(ASK), n) },
    Case {
        name: "aside",
        run: |n| posts(DedupLayer::new().layer(Upstream), || Request::post("/").body(Full::new(ASK)).expect("one"), n),
    },
    Case { name: "leader key", run: |n| posts(live().layer(Upstream), || keyed(ASK), n) },
    Case { name: "leader", run: |n| posts(live().layer(Upstream), || post(ASK), n) },
    Case { name: "join", run: joins },
    Case { name: "replay", run: |n| posts(DedupLayer::new().layer(Upstream), || post(ASK), n) },
    Case { name: "bare clone", run: |n| clones(Cloneable, n) },
    Case {
        name: "coalesce",
        run: |n| clones(CoalesceLayer::new(|_: &Request<Full<Bytes>>| 7_u64).layer(Cloneable), n),
    },
    Case {
        name: "cache",
        run: |n| {
            let layer = CacheLayer::builder().max_size(100).key_extractor(|_: &Request<Full<Bytes>>| 7_u64).build();
            clones(layer.expect("a configuration").layer(Cloneable), n);
        },
    },
];

const ASK: Bytes = Bytes::from_static(b"{\"stream\":true");
const ANSWER: Bytes = Bytes::from_static(b"data: {\"delta\":\"token\"}\n\n");

/// Nothing is replayed.
fn live() -> DedupLayer {
    DedupLayer::new().window(Duration::ZERO)
}

fn post(body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::post("/v1/chat/completions").header("authorization", "Bearer someone");
    request.body(Full::new(body)).expect("a request")
}

fn keyed(body: Bytes) -> Request<Full<Bytes>> {
    let mut request = post(body);
    request.headers_mut().insert("idempotency-key", http::HeaderValue::from_static("8e03978e-40d5-43dd-bc93"));
    request
}

// === the upstreams ===

/// Answers with a body of one frame.
#[derive(Clone, Copy, Debug)]
struct Upstream;

impl<B> Service<Request<B>> for Upstream {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(Full::new(ANSWER))))
    }
}

/// The same body in one piece.
#[derive(Clone, Copy, Debug)]
struct Cloneable;

impl Service<Request<Full<Bytes>>> for Cloneable {
    type Response = Response<Bytes>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Bytes>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(ANSWER)))
    }
}

/// This many frames of 1 KiB, each a slice of one buffer, then the end, or silence.
#[derive(Clone, Debug)]
struct Frames {
    left: usize,
    ends: bool,
    buffer: Bytes,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(Frame::data(self.buffer.clone()))))
            }
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

// === what is done ===

fn posts<S, B>(mut service: S, request: impl Fn() -> Request<Full<Bytes>>, n: u64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..n {
        let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else { panic!("it is always ready") };
        let Ok(response) = finish(service.call(request())) else { panic!("it never fails") };
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(frame)) = black_box(body.as_mut().poll_frame(&mut cx)) {
            drop(black_box(frame));
        }
    }
}

fn clones<S: Service<Request<Full<Bytes>>>>(mut service: S, n: u64) {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..n {
        let _ = service.poll_ready(&mut cx);
        drop(black_box(finish(service.call(post(ASK)))));
    }
}

fn stalled(
    left: usize,
    ends: bool,
) -> impl Service<Request<Asked>, Response = Response<Frames>, Error = Infallible, Future: Send> + Clone + Send {
    let buffer = Bytes::from(vec![b'x'; 1024]);
    tower::service_fn(move |_| ready(Ok(Response::new(Frames { left, ends, buffer: buffer.clone() }))))
}

type Asked = tower_buttress::CallBody;

/// A call that has sent data and is silent: each repetition joins, reads it and leaves.
fn joins(n: u64) {
    let service = live().layer(stalled(1, false));
    let leader = finish(service.clone().oneshot(post(ASK)));
    posts(service, || post(ASK), n);
    drop(leader);
}

/// The cost that a body of this length adds, in nanoseconds.
fn hashing(length: usize) -> f64 {
    let (short, long) = (Bytes::from(vec![7; 64]), Bytes::from(vec![7; length]));
    let run = |body: &Bytes| median(|| posts(live().layer(Upstream), || post(body.clone()), 20)) / 20.0;
    run(&long) - run(&short)
}

fn sha256(length: usize) -> f64 {
    let body = vec![7_u8; length];
    median(|| {
        (0..20).for_each(|_| {
            black_box(Sha256::digest(black_box(&body)));
        })
    }) / 20.0
}

fn median(mut run: impl FnMut()) -> f64 {
    let mut took: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64
        })
        .collect();
    took.sort_by(f64::total_cmp);
    took[took.len() / 2]
}

/// The bytes allocated until the leader and this number of followers have read everything.
fn stream(runtime: &Runtime, followers: usize) -> u64 {
    let run = || {
        let service = live().layer(stalled(1024, true));
        runtime.block_on(async {
            let mut listeners: Vec<Pin<Box<DedupBody<Frames>>>> = Vec::with_capacity(followers + 1);
            for _ in 0..=followers {
                let Ok(response) = service.clone().oneshot(post(ASK)).await;
                listeners.push(Box::pin(response.into_body()));
            }
            loop {
                let mut over = 0;
                for body in &mut listeners {
                    over += usize::from(poll_fn(|cx| body.as_mut().poll_frame(cx)).await.is_none());
                }
                if over > 0 {
                    break;
                }
            }
        });
    };
    run();
    let before = alloc::bytes();
    run();
    alloc::bytes() - before
}
