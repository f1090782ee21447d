//! An event with a piece of text allocates nothing. Runs without a test harness, whose threads allocate occasionally,
//! because all allocations of the process count.
//!
//! ```sh
//! cargo test -p tower-buttress-benches --no-default-features --features llm --test allocations
//! ```

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use http::Request;
use http_body::Body;
use http_body_util::Empty;
use tower::layer::util::Stack;
use tower::{Layer, Service};
use tower_buttress::{IdleActivity, IdleBodyTimeoutLayer, SseHeartbeatLayer, StreamGuardLayer};
use tower_buttress_benches::alloc::{self, Counting};
use tower_buttress_benches::services::finish;
use tower_buttress_benches::spoken::{ANTHROPIC, Answers, CHAT, GEMINI, RESPONSES, Spoken};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: Duration = Duration::from_secs(3600);

/// The allocations for `n` events, after the stream has shown each of its forms.
fn allocations<L, B>(spoken: Spoken, layer: L, n: u64) -> u64
where
    L: Layer<Answers>,
    L::Service: Service<Request<Empty<bytes::Bytes>>, Response = http::Response<B>, Error = std::convert::Infallible>,
    B: Body,
{
    let request = Request::post(spoken.path).body(Empty::new()).expect("a request");
    let Ok(response) = finish(layer.layer(Answers(spoken)).call(request));
    let mut body = pin!(response.into_body());
    let mut cx = Context::from_waker(Waker::noop());
    let mut read = |n| {
        let before = alloc::allocations();
        for _ in 0..n {
            assert!(body.as_mut().poll_frame(&mut cx).is_ready());
        }
        alloc::allocations() - before
    };
    assert!(read(100) > 0, "it is counted");
    read(n)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    let long = CHAT.events().iter().map(bytes::Bytes::len).max();
    assert!((195..=210).contains(&long.unwrap_or_default()), "{long:?}");
    for spoken in [CHAT, RESPONSES, ANTHROPIC, GEMINI] {
        assert_eq!(allocations(spoken, StreamGuardLayer::new(), 10_000), 0, "{}", spoken.path);
        let idle = IdleBodyTimeoutLayer::new(LIMIT).activity(IdleActivity::SseEvents);
        let all = Stack::new(idle, Stack::new(StreamGuardLayer::new(), SseHeartbeatLayer::new(LIMIT)));
        assert_eq!(allocations(spoken, all, 10_000), 0, "{}, with idle and heartbeats", spoken.path);
        println!("{}: nothing is allocated for 10,000 events", spoken.path);
    }
}
