//! Many streams at once: the CPU time of streams whose frames are far apart.
//!
//! 20,000 streams with a frame every 100 ms under a limit of 1.5 s have the timers and wake-ups of 200,000 streams
//! with one frame per second under a limit of 15 s, in a tenth of the time. The presets have 50,000 streams with one
//! frame per second, each an event of a chat completion with its own timer: there memory dominates.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{self, Future, Ready};
use std::hint::black_box;
use std::pin::Pin;
use std::process::Command;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::task::LocalSet;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};
use tower_buttress::{CallBody, IdleBodyTimeoutLayer, TimeoutProfile, presets};
use tower_buttress_benches::bodies::BoxError;
use tower_buttress_benches::services::through;
use tower_http::timeout::TimeoutBody;

const STREAMS: usize = 20_000;
const PERIOD: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_millis(1500);
const ROUNDS: u32 = 40;
/// Interleaved, because the machine is shared.
const TRIES: u32 = 4;

const CHATS: u32 = 50_000;
const SECOND: Duration = Duration::from_secs(1);
const CHAT_ROUNDS: u32 = 10;
const CHAT_TRIES: usize = 5;
/// Names the stack that a process of its own measures.
const ONE_STACK: &str = "STREAMS_STACK";
/// An event of a chat completion.
const TOKEN: &[u8] = b"data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1764201600,\
    \"model\":\"model-large\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"finish_reason\":null}]}\n\n";

fn main() {
    if let Ok(stack) = std::env::var(ONE_STACK) {
        println!("{}", spent_on_chats_of(&stack));
    } else {
        limits();
        chats();
    }
}

fn limits() {
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

fn chats() {
    println!(
        "\nThe same of {CHATS} chat completions with a frame every {SECOND:?}, {CHAT_ROUNDS} frames each; medians of {CHAT_TRIES}"
    );
    let stacks = ["bare", "http_client", "llm_client", "llm_gateway"];
    let mut costs = stacks.map(|_| Vec::with_capacity(CHAT_TRIES));
    for _ in 0..CHAT_TRIES {
        for (stack, costs) in stacks.iter().zip(&mut costs) {
            costs.push(in_own_process(stack));
        }
    }
    let costs = costs.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[CHAT_TRIES / 2]
    });
    for (stack, cost) in stacks.into_iter().zip(costs) {
        let goal = if stack == "llm_gateway" { " (goal: 1.5)" } else { "" };
        println!("{:<28} {:>8.0} ms  {:.2} x bare", format!("{stack}{goal}"), cost * 1e3, cost / costs[0]);
    }
}

/// Measures one stack in a new process: the heap that another stack leaves behind takes up to a third of the time.
fn in_own_process(stack: &str) -> f64 {
    let program = std::env::current_exe().expect("the path of this program");
    let run = Command::new(program).env(ONE_STACK, stack).output().expect("a run");
    assert!(run.status.success(), "{stack}: {}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stdout).trim().parse().expect("seconds")
}

fn spent_on_chats_of(stack: &str) -> f64 {
    let profile = TimeoutProfile::STANDARD;
    match stack {
        "bare" => spent_on_chats(|upstream| upstream),
        "http_client" => spent_on_chats(|upstream| presets::http_client(profile).layer(upstream)),
        "llm_client" => spent_on_chats(|upstream| presets::llm_client(profile).layer(upstream)),
        "llm_gateway" => spent_on_chats(|upstream| presets::llm_gateway(profile).layer(upstream)),
        unknown => panic!("no stack is named {unknown}"),
    }
}

/// A stream that gets a frame when its source sends one.
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

/// Seconds of CPU time, without the setup.
fn spent<B: Body<Data = Bytes> + 'static>(wrap: impl Fn(Source) -> B) -> f64 {
    on_runtime(async {
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

/// The same, of answers through a stack.
fn spent_on_chats<S, B>(stack: impl Fn(Upstream) -> S) -> f64
where
    S: Service<Request<CallBody>, Response = Response<B>, Error = Infallible> + 'static,
    S::Future: 'static,
    B: Body<Data = Bytes> + 'static,
{
    on_runtime(async {
        let mut service = stack(Upstream);
        for number in 0..CHATS {
            let call = service.call(question(number));
            tokio::task::spawn_local(async move {
                let Ok(response) = call.await;
                let mut body = Box::pin(response.into_body());
                while black_box(body.frame().await).is_some() {}
            });
        }
        // All streams have begun, and the first frames, each of which is parsed, are over.
        tokio::time::sleep(3 * SECOND).await;
        let before = processor_time();
        tokio::time::sleep(CHAT_ROUNDS * SECOND).await;
        processor_time() - before
    })
}

fn on_runtime<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, run)
}

/// A model that sends a word per second.
struct Words {
    next: Pin<Box<Sleep>>,
}

impl Body for Words {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        ready!(self.next.as_mut().poll(cx));
        let at = self.next.deadline() + SECOND;
        self.next.as_mut().reset(at);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(TOKEN)))))
    }
}

/// Answers with a stream of words; each stream starts at a different time.
#[derive(Clone, Copy)]
struct Upstream;

impl Service<Request<CallBody>> for Upstream {
    type Response = Response<Words>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Words>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> Self::Future {
        let Number(number) = request.extensions().get().expect("a number");
        let first = Instant::now() + SECOND.mul_f64(f64::from(*number) / f64::from(CHATS));
        let mut response = Response::new(Words { next: Box::pin(sleep_until(first)) });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        future::ready(Ok(response))
    }
}

#[derive(Clone, Copy)]
struct Number(u32);

/// All requests and callers differ.
fn question(number: u32) -> Request<CallBody> {
    Request::post("http://upstream/v1/chat/completions")
        .header("authorization", format!("Bearer sk-{number}"))
        .header("content-type", "application/json")
        .extension(Number(number))
        .body(format!("{{\"model\":\"m\",\"stream\":true,\"user\":\"{number}\"}}").into())
        .expect("a request")
}

/// The CPU time of this thread in seconds, as Linux counts it.
fn processor_time() -> f64 {
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos: f64 = spent.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number");
    nanos / 1e9
}
