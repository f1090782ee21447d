//! The cost of reading a model's stream: `StreamGuardLayer`, with `eventsource-stream` and `serde_json`, and the
//! additional cost of the other scanning layers of a preset.
//!
//! ```sh
//! cargo bench -p tower-buttress-benches --features llm --bench guard
//! ```

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use eventsource_stream::EventStream;
use futures_util::Stream;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use serde::Deserialize;
use tower::layer::util::{Identity, Stack};
use tower::{Layer, Service};
use tower_buttress::proto::dialect::{Framing, Kind, StreamReader};
use tower_buttress::proto::sse::Scanner;
use tower_buttress::{IdleActivity, IdleBodyTimeoutLayer, SseHeartbeatLayer, StreamGuardLayer};
use tower_buttress_benches::alloc::Counting;
use tower_buttress_benches::bodies::read;
use tower_buttress_benches::measure::{self, Case, CostOf};
use tower_buttress_benches::services::finish;
use tower_buttress_benches::spoken::{ANTHROPIC, Answers, CHAT, Endless, GEMINI, RESPONSES, Spoken};
use tower_buttress_benches::table;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    measure::run(CASES, |_, cost| tables(cost));
}

fn tables(cost: CostOf<'_>) {
    println!(
        "Costs over the bare body of this run, where a row begins with a plus. An event comes in a frame of its own."
    );

    table::heading("An event of a chat completion with a piece of its text, 200 bytes");
    let bare = cost("chat");
    table::bare("bare", bare);
    table::over("StreamGuard", cost("chat guard"), bare, None);
    table::over("IdleBodyTimeout by events", cost("chat idle"), bare, None);
    table::over("SseHeartbeat", cost("chat heartbeat"), bare, None);
    table::over("all three", cost("chat all"), bare, None);
    table::bare("eventsource-stream", cost("chat eventsource"));
    table::bare("eventsource-stream, serde_json into a struct", cost("chat serde"));
    table::bare("eventsource-stream, serde_json::Value", cost("chat value"));

    table::heading("The same events of other dialects");
    for (name, bare, guarded) in [
        ("Responses", "responses", "responses guard"),
        ("Anthropic", "anthropic", "anthropic guard"),
        ("Gemini", "gemini", "gemini guard"),
    ] {
        let bare = cost(bare);
        table::bare(name, bare);
        table::over("StreamGuard", cost(guarded), bare, None);
    }
    table::over("all three, Responses", cost("responses all"), cost("responses"), None);

    table::heading("Reading such an event of a chat completion, without a layer");
    table::bare("Reader", cost("reader"));
    table::bare("Scanner", cost("scanner"));
    table::bare("memchr, for the ends of lines alone", cost("memchr"));
}

const CASES: &[Case] = &[
    Case { name: "chat", run: |n| frames(CHAT, Identity::new(), n) },
    Case { name: "chat guard", run: |n| frames(CHAT, StreamGuardLayer::new(), n) },
    Case { name: "chat idle", run: |n| frames(CHAT, idle(), n) },
    Case { name: "chat heartbeat", run: |n| frames(CHAT, heartbeat(), n) },
    Case { name: "chat all", run: |n| frames(CHAT, all(), n) },
    Case {
        name: "chat eventsource",
        run: |n| {
            pull(n, |data| {
                black_box(data);
            });
        },
    },
    Case {
        name: "chat serde",
        run: |n| {
            pull(n, |data| {
                black_box(serde_json::from_str::<Chunk<'_>>(&data).expect("a chunk"));
            });
        },
    },
    Case {
        name: "chat value",
        run: |n| {
            pull(n, |data| {
                black_box(serde_json::from_str::<serde_json::Value>(&data).expect("JSON"));
            });
        },
    },
    Case { name: "responses", run: |n| frames(RESPONSES, Identity::new(), n) },
    Case { name: "responses guard", run: |n| frames(RESPONSES, StreamGuardLayer::new(), n) },
    Case { name: "responses all", run: |n| frames(RESPONSES, all(), n) },
    Case { name: "anthropic", run: |n| frames(ANTHROPIC, Identity::new(), n) },
    Case { name: "anthropic guard", run: |n| frames(ANTHROPIC, StreamGuardLayer::new(), n) },
    Case { name: "gemini", run: |n| frames(GEMINI, Identity::new(), n) },
    Case { name: "gemini guard", run: |n| frames(GEMINI, StreamGuardLayer::new(), n) },
    Case {
        name: "reader",
        run: |n| {
            let mut reader = StreamReader::new(Some(Kind::OpenAiChat), Framing::EventStream);
            CHAT.each(n, |event| {
                reader.read(event, |fact, _| {
                    black_box(&fact);
                });
            });
        },
    },
    Case {
        name: "scanner",
        run: |n| {
            let mut scanner = Scanner::new();
            CHAT.each(n, |event| {
                black_box(scanner.scan(event));
            });
        },
    },
    Case {
        name: "memchr",
        run: |n| {
            CHAT.each(n, |event| {
                black_box(memchr::memchr2_iter(b'\n', b'\r', event).count());
            });
        },
    },
];

const LIMIT: Duration = Duration::from_secs(3600);

fn idle() -> IdleBodyTimeoutLayer {
    IdleBodyTimeoutLayer::new(LIMIT).activity(IdleActivity::SseEvents)
}

fn heartbeat() -> SseHeartbeatLayer {
    SseHeartbeatLayer::new(LIMIT)
}

fn all() -> Stack<IdleBodyTimeoutLayer, Stack<StreamGuardLayer, SseHeartbeatLayer>> {
    Stack::new(idle(), Stack::new(StreamGuardLayer::new(), heartbeat()))
}

/// The same answer for readers of streams.
struct Pulled(Endless);

impl Stream for Pulled {
    type Item = Result<Bytes, Infallible>;

    #[inline(never)]
    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(Some(Ok(self.0.next_event())))
    }
}

/// Reads `n` frames of one answer through `layer`.
fn frames<L, B>(spoken: Spoken, layer: L, n: u64)
where
    L: Layer<Answers>,
    L::Service: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    let request = Request::post(spoken.path).body(Empty::new()).expect("a request");
    let Ok(response) = finish(layer.layer(Answers(spoken)).call(request));
    read(response.into_body(), n);
}

/// The parts of a chunk that tell how an answer ended.
#[derive(Deserialize)]
#[allow(dead_code, reason = "what is read is not used")]
struct Chunk<'a> {
    id: &'a str,
    model: &'a str,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "what is read is not used")]
struct Choice {
    index: u32,
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "what is read is not used")]
struct Delta {
    content: Option<String>,
}

/// Reads `n` events of a chat completion with `eventsource-stream`.
#[inline(never)]
fn pull(n: u64, mut each: impl FnMut(String)) {
    let mut events = pin!(EventStream::new(Pulled(Endless::new(CHAT))));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..n {
        let Poll::Ready(Some(Ok(event))) = events.as_mut().poll_next(&mut cx) else { unreachable!("it does not end") };
        each(event.data);
    }
}
