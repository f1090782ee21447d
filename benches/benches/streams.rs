//! Many streams at once: what the processor spends on streams whose frames are far apart.
//!
//! 20,000 streams with a frame every 100 ms under a limit of 1.5 s have the timers and wake-ups of 200,000 streams with
//! a frame a second under a limit of 15 s, in a tenth of the time.

use std::cell::RefCell;
use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::task::LocalSet;
use tower_buttress::IdleBodyTimeoutLayer;
use tower_buttress_benches::bodies::BoxError;
use tower_buttress_benches::services::through;
use tower_http::timeout::TimeoutBody;

const STREAMS: usize = 20_000;
const PERIOD: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_millis(1500);
const ROUNDS: u32 = 40;
/// Interleaved, since the machine is not ours alone.
const TRIES: u32 = 4;

fn main() {
    println!(
        "Processor time of {STREAMS} streams with a frame every {PERIOD:?}, {ROUNDS} frames each; best of {TRIES}"
    );
    let mut best = [f64::INFINITY; 3];
    for _ in 0..TRIES {
        best[0] = best[0].min(spent(|body| body));
        best[1] = best[1].min(spent(|body| through(IdleBodyTimeoutLayer::new(LIMIT), body)));
        best[2] = best[2].min(spent(|body| TimeoutBody::new(LIMIT, body)));
    }
    for (name, cost) in ["bare", "IdleBodyTimeout (goal: 1.3)", "tower-http TimeoutBody"].into_iter().zip(best) {
        println!("{name:<28} {:>8.0} ms  {:.2} x bare", cost * 1e3, cost / best[0]);
    }
}

/// A stream that gets a frame when its source says so.
#[derive(Clone, Default)]
struct Source(Rc<RefCell<Slot>>);

#[derive(Default)]
struct Slot {
    frame: bool,
    reader: Option<Waker>,
}

impl Source {
    fn send(&self) {
        let mut slot = self.0.borrow_mut();
        slot.frame = true;
        let reader = slot.reader.take();
        drop(slot);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut slot = self.0.borrow_mut();
        if std::mem::take(&mut slot.frame) {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: token\n\n")))));
        }
        slot.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Seconds of processor time, without setting up.
fn spent<B: Body<Data = Bytes> + 'static>(wrap: impl Fn(Source) -> B) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let sources: Vec<Source> = (0..STREAMS).map(|_| Source::default()).collect();
        for source in &sources {
            let mut body = Box::pin(wrap(source.clone()));
            tokio::task::spawn_local(async move { while black_box(body.frame().await).is_some() {} });
        }
        let mut ticks = tokio::time::interval(PERIOD);
        for _ in 0..3 {
            ticks.tick().await;
        }
        let before = processor_time();
        for _ in 0..ROUNDS {
            ticks.tick().await;
            sources.iter().for_each(Source::send);
        }
        ticks.tick().await;
        processor_time() - before
    })
}

/// What this thread has spent, in seconds, as Linux accounts for it.
fn processor_time() -> f64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos: f64 = spent.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number");
    nanos / 1e9
}
