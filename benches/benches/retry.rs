//! Retry and Fallback: the cost of a call whose first attempt succeeds, with tower's, tower-resilience's and
//! reqwest's.

use std::convert::Infallible;
use std::future::Ready;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use tokio::runtime::Runtime;
use tower::retry::Policy;
use tower::retry::budget::{Budget, TpsBudget};
use tower::{Layer, Service};
use tower_buttress::{FallbackLayer, Jitter, RetryAfterBackoffLayer, RetryBudget};
use tower_buttress_benches::alloc::{self, Counting};
use tower_buttress_benches::measure::{self, Case, Cost, CostOf};
use tower_buttress_benches::services::{Bare, finish, send};
use tower_buttress_benches::table;
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    measure::run(CASES, tables);
}

fn tables(runtime: &Runtime, cost: CostOf<'_>) {
    println!("Costs over the bare service of this run, where a row begins with a plus.");
    let group = |bare: Cost, rows: &[(&str, &str, Option<f64>)]| {
        for (title, case, goal) in rows {
            table::over(title, cost(case), bare, *goal);
        }
    };

    table::heading("A call that succeeds at once: 14 header fields, a body of one frame");
    let bare = cost("whole");
    table::bare("bare", bare);
    let (tower, tower_budget) = (cost("whole tower"), cost("whole tower budget"));
    // As much as tower's, with and without a budget.
    let goal = |tower: Cost| tower.instructions.zip(bare.instructions).map(|(tower, bare)| tower - bare);
    group(
        bare,
        &[
            ("RetryAfterBackoff", "whole retry", goal(tower_budget)),
            ("RetryAfterBackoff, without a budget", "whole retry unlimited", goal(tower)),
            ("RetryAfterBackoff, disabled", "whole retry off", None),
            ("Fallback", "whole fallback", None),
        ],
    );
    table::over("tower Retry, TpsBudget", tower_budget, bare, None);
    table::over("tower Retry", tower, bare, None);
    group(
        bare,
        &[
            ("tower-resilience Retry", "whole resilience", None),
            ("tower-resilience Retry, budget", "whole resilience budget", None),
        ],
    );

    table::heading("The same, a body that streams: four frames (tower and tower-resilience cannot)");
    let bare = cost("stream");
    table::bare("bare", bare);
    group(
        bare,
        &[("RetryAfterBackoff", "stream retry", None), ("RetryAfterBackoff, disabled", "stream retry off", None)],
    );

    table::heading("The same through reqwest-middleware, whose client is replaced by an answer");
    let bare = cost("reqwest");
    table::bare("bare", bare);
    group(bare, &[("reqwest-retry", "reqwest retry", None)]);

    memory(runtime);
}

/// The allocations of three attempts with a prompt of 1 MiB, beside the prompt itself.
fn memory(runtime: &Runtime) {
    const ATTEMPTS: usize = 3;
    let prompt = Bytes::from(vec![b'x'; 1024 * 1024]);
    let request = || {
        let chunks = prompt.chunks(64 * 1024).map(|chunk| prompt.slice_ref(chunk)).collect();
        Request::put("http://upstream/").body(Chunks(chunks)).expect("a request")
    };
    let layer = RetryAfterBackoffLayer::new().backoff_base(Duration::ZERO).jitter(Jitter::None);
    let allocated = |run: &dyn Fn()| {
        run();
        let before = alloc::bytes();
        run();
        (alloc::bytes() - before) / 1024
    };
    let bare = allocated(&|| {
        for _ in 0..ATTEMPTS {
            let _ = black_box(runtime.block_on(Down.call(request())));
        }
    });
    let retried = allocated(&|| drop(black_box(runtime.block_on(layer.layer(Down).call(request())))));
    println!("\nAllocated by {ATTEMPTS} attempts with a prompt of 1 MiB in 16 frames");
    println!("{:<52} {bare:>9} KiB", "three bare calls");
    println!("{:<52} {retried:>9} KiB", "RetryAfterBackoff");
}

const CASES: &[Case] = &[
    Case { name: "whole", run: |n| send(READS, || request(PROMPT), n) },
    Case { name: "whole retry", run: |n| send(RetryAfterBackoffLayer::new().layer(READS), || request(PROMPT), n) },
    Case {
        name: "whole retry unlimited",
        run: |n| {
            let layer = RetryAfterBackoffLayer::new().budget(RetryBudget::unlimited());
            send(layer.layer(READS), || request(PROMPT), n);
        },
    },
    Case {
        name: "whole retry off",
        run: |n| send(RetryAfterBackoffLayer::disabled().layer(READS), || request(PROMPT), n),
    },
    Case { name: "whole fallback", run: |n| send(FallbackLayer::new(READS).layer(READS), || request(PROMPT), n) },
    Case { name: "whole tower", run: |n| send(tower(None).layer(READS), || request(PROMPT), n) },
    Case { name: "whole tower budget", run: |n| send(tower(Some(Arc::default())).layer(READS), || request(PROMPT), n) },
    Case {
        name: "whole resilience",
        run: |n| {
            let layer = RetryLayer::<Request<Full<Bytes>>, Response<Empty<Bytes>>, Infallible>::builder();
            let layer = layer.max_attempts(3).retry_on_response(|response| response.status().is_server_error());
            send(layer.build().layer(READS), || request(PROMPT), n);
        },
    },
    Case {
        name: "whole resilience budget",
        run: |n| {
            let layer = RetryLayer::<Request<Full<Bytes>>, Response<Empty<Bytes>>, Infallible>::builder();
            let layer = layer.max_attempts(3).retry_on_response(|response| response.status().is_server_error());
            let layer = layer.budget(RetryBudgetBuilder::new().token_bucket().build().expect("a budget"));
            send(layer.build().layer(READS), || request(PROMPT), n);
        },
    },
    Case { name: "stream", run: |n| send(READS, || request(Four::default()), n) },
    Case {
        name: "stream retry",
        run: |n| send(RetryAfterBackoffLayer::new().layer(READS), || request(Four::default()), n),
    },
    Case {
        name: "stream retry off",
        run: |n| send(RetryAfterBackoffLayer::disabled().layer(READS), || request(Four::default()), n),
    },
    Case { name: "reqwest", run: |n| reqwest(builder(), n) },
    Case {
        name: "reqwest retry",
        run: |n| {
            let policy = ExponentialBackoff::builder().build_with_max_retries(2);
            reqwest(builder().with(RetryTransientMiddleware::new_with_policy(policy)), n);
        },
    },
];

const READS: Bare = Bare { pending: false, reads: true };
const PROMPT: &[u8] = b"{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";

/// An SDK's request, as a server has parsed it: all values are slices of one buffer.
static HEAD: LazyLock<HeaderMap> = LazyLock::new(|| {
    let fields = [
        ("host", "api.example.com"),
        ("content-type", "application/json"),
        ("content-length", "76"),
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip, deflate, br"),
        ("authorization", "Bearer sk-0123456789abcdef0123456789abcdef"),
        ("user-agent", "openai-python/2.1.0"),
        ("x-stainless-lang", "python"),
        ("x-stainless-package-version", "2.1.0"),
        ("x-stainless-os", "Linux"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "600"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-request-id", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
    ];
    let buffer = Bytes::from(fields.iter().map(|(_, value)| *value).collect::<String>());
    let mut at = 0;
    let value = |value: &str| {
        at += value.len();
        HeaderValue::from_maybe_shared(buffer.slice(at - value.len()..at)).expect("a value")
    };
    let values: Vec<_> = fields.iter().map(|(_, text)| *text).map(value).collect();
    fields.iter().zip(values).map(|((name, _), value)| (name.parse::<HeaderName>().expect("a name"), value)).collect()
});

fn request<B>(body: impl Into<Sent<B>>) -> Request<B> {
    let mut request = Request::new(body.into().0);
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("http://api.example.com/v1/chat/completions");
    *request.headers_mut() = HEAD.clone();
    request
}

/// A request body.
struct Sent<B>(B);

impl From<&'static [u8]> for Sent<Full<Bytes>> {
    fn from(data: &'static [u8]) -> Self {
        Self(Full::new(Bytes::from_static(data)))
    }
}

impl From<Four> for Sent<Four> {
    fn from(body: Four) -> Self {
        Self(body)
    }
}

/// A body of four frames, of unknown length.
#[derive(Default)]
struct Four(u8);

impl Body for Four {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        Poll::Ready((self.0 <= 4).then(|| Ok(Frame::data(Bytes::from_static(PROMPT)))))
    }
}

/// A body of these frames, last first.
struct Chunks(Vec<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|data| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|data| data.len() as u64).sum())
    }
}

/// Reads the request and answers 503.
#[derive(Clone)]
struct Down;

impl<B: Body + Unpin> Service<Request<B>> for Down {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut reads = READS;
        drop(finish(reads.call(request)));
        let mut down = Response::new(Empty::new());
        *down.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        std::future::ready(Ok(down))
    }
}

/// The policy from tower's documentation.
#[derive(Clone)]
struct ServerErrors {
    left: usize,
    budget: Option<Arc<TpsBudget>>,
}

impl<B: Clone, R> Policy<Request<B>, Response<R>, Infallible> for ServerErrors {
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut Request<B>,
        result: &mut Result<Response<R>, Infallible>,
    ) -> Option<tokio::time::Sleep> {
        let response = match result {
            Ok(response) => response,
            Err(never) => match *never {},
        };
        if !response.status().is_server_error() {
            if let Some(budget) = &self.budget {
                budget.deposit();
            }
            return None;
        }
        let allowed = self.budget.as_ref().is_none_or(|budget| budget.withdraw());
        (self.left > 0 && allowed).then(|| {
            self.left -= 1;
            tokio::time::sleep(Duration::from_millis(500))
        })
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

fn tower(budget: Option<Arc<TpsBudget>>) -> tower::retry::RetryLayer<ServerErrors> {
    tower::retry::RetryLayer::new(ServerErrors { left: 2, budget })
}

/// Answers instead of the client.
struct Answers;

impl Middleware for Answers {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: reqwest::Request,
        _: &'b mut http::Extensions,
        _: Next<'c>,
    ) -> Pin<Box<dyn Future<Output = reqwest_middleware::Result<reqwest::Response>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
        Self: 'd,
    {
        drop(black_box(request));
        Box::pin(std::future::ready(Ok(Response::new(reqwest::Body::default()).into())))
    }
}

fn builder() -> ClientBuilder {
    ClientBuilder::new(reqwest::Client::new())
}

fn reqwest(builder: ClientBuilder, n: u64) {
    let client: ClientWithMiddleware = builder.with(Answers).build();
    for _ in 0..n {
        let request = request(PROMPT).map(|_: Full<Bytes>| reqwest::Body::from(PROMPT));
        let request = reqwest::Request::try_from(request).expect("a request");
        drop(black_box(finish(client.execute(request))));
    }
}
