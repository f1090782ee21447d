//! Composable [tower] layers for HTTP calls to slow, flaky, *streaming* upstreams, above all LLM APIs.
//!
//! Each concern is one [`Layer`](tower_layer::Layer); stack only what you need: on an axum server with `.layer(..)`,
//! around a hyper client in a `ServiceBuilder`, under tonic or reqwest. A [preset](presets) has all of them in their order:
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper_util::client::legacy::{Client, connect::HttpConnector};
//! use hyper_util::rt::TokioExecutor;
//! use tower::Layer;
//! use tower_buttress::{ConnectTimeoutLayer, TimeoutProfile, presets};
//!
//! # fn client() -> impl tower::Service<http::Request<Full<Bytes>>> {
//! // With TLS (the connector of hyper-rustls, say) it goes outermost, so that the time of the handshake counts.
//! let connector = ConnectTimeoutLayer::new(Duration::from_secs(5)).layer(HttpConnector::new());
//! let client = Client::builder(TokioExecutor::new()).build(connector);
//! presets::llm_client(TimeoutProfile::STANDARD).layer(client)
//! # }
//! # let _ = client();
//! ```
//!
//! # Getting started
//!
//! The crate is not published on crates.io yet; name a checkout:
//!
//! ```toml
//! [dependencies]
//! tower-buttress = { path = "../tower-buttress", features = ["hyper", "llm", "tracing"] }
//! tower = "0.5"
//! tokio = { version = "1", features = ["macros", "net", "rt-multi-thread"] }
//! ```
//!
//! Start with the preset above, or with the layer for the problem you see:
//!
//! | What you see | Layer |
//! |---|---|
//! | A call never ends, or the upstream keeps working after the caller has left | [`DeadlineLayer`] |
//! | One timeout is too short for long answers and too long for dead upstreams | [`FirstByteTimeoutLayer`] and [`IdleBodyTimeoutLayer`] |
//! | Load balancers close streams while the model thinks | [`SseHeartbeatLayer`] |
//! | The upstream answers 429 or 503 or breaks the connection, and a second attempt would succeed | [`RetryAfterBackoffLayer`] |
//! | The upstream is down for minutes | [`CircuitBreakerLayer`], and [`FallbackLayer`] to another upstream |
//! | The provider bills double clicks and client retries twice | [`DedupLayer`] |
//! | A truncated stream passes for a complete one, or a 200 contains an error | `StreamGuardLayer` |
//! | The connection breaks in the middle of an answer | `ResumeLayer` to the upstream, [`DedupLayer::resumable`] to the callers |
//! | More calls than the upstream can serve, or one tenant takes all places | [`QueueLayer`] |
//! | 429 after 429 | [`PaceLayer`] |
//! | The user sends the next message while the last one is being answered | [`SupersedeLayer`] |
//! | All upstreams are down | `LastGoodLayer` |
//! | Answers that should be JSON do not parse | `StructuredOutputLayer` |
//! | Log lines do not say which call they are about | [`ObserveLayer`] |
//!
//! # Crate features
//!
//! No feature is on by default. The crate then depends on `bytes`, `http`, `http-body`, `sha2`, `tokio`, and little else.
//!
//! | Feature | Adds |
//! |---|---|
//! | `hyper` | reads the errors of hyper and hyper-util: whether the request was sent, whether the upstream is at fault |
//! | `llm` | `StreamGuardLayer`, `ResumeLayer`, `LastGoodLayer`, and the formats they read (`proto::dialect`); brings `serde_json` |
//! | `schema` | `StructuredOutputLayer`; brings `jsonschema` |
//! | `json` | `DedupLayer::json_canonical`: JSON bodies that differ only in the order of their members are equal |
//! | `tracing`, `metrics` | log lines, and metrics, of each [`Event`] |
//! | `tower` | `ServiceBuilderExt`: the layers by name on the `ServiceBuilder` of tower 0.5 |
//! | `store-suite` | `store::suite`, which tests a [`Store`](store::Store) of your own |
//! | `reqwest`, `reqwest-middleware`, `tonic` | read the errors of those crates; `tower-buttress-reqwest` and `tower-buttress-tonic` turn them on |
//!
//! # The layers, outermost first
//!
//! | Layer | Does, or bounds | Why there |
//! |---|---|---|
//! | [`ObserveLayer`] | names the call that an event is about | sees the events of all layers below |
//! | [`RejectionsAsErrorsLayer`] | turns refusals into typed errors | the layers below work on refusals as responses |
//! | [`InspectRequestLayer`] | shows the request's body to a closure | its decision applies to all layers below |
//! | [`GrpcStatusLayer`] | writes the status of gRPC streams | sees the errors that no layer below handled |
//! | [`TimeoutProfileLayer`] | chooses the limits of a request | the limits apply to all layers below |
//! | [`SseHeartbeatLayer`] | fills the silence of an event stream | its bytes must not feed a timer below |
//! | [`DeadlineLayer`] | the whole call and its body | bounds all waits below too |
//! | [`SupersedeLayer`] | ends the older messages of a conversation | sees the call of each caller |
//! | [`DedupLayer`] | shares calls | retries and fallbacks below belong to the one shared call |
//! | `LastGoodLayer` (feature `llm`) | stores complete answers | returns an earlier answer in place of an error |
//! | `ResumeLayer` (feature `llm`) | continues streams that broke | callers outside see one answer; the layer asks the upstream that began it |
//! | [`FallbackLayer`] | asks a backup | sees the final outcome of the primary |
//! | `StructuredOutputLayer` (feature `schema`) | checks answers that should be JSON | asks again with calls of its own |
//! | [`RetryAfterBackoffLayer`] | the attempts | each attempt passes every layer below |
//! | [`QueueLayer`] | the calls in flight, and the wait of the others | an attempt that waits for its retry holds no place |
//! | [`PaceLayer`] | the rate of calls | each attempt counts, and the timeouts below do not count the wait |
//! | [`CircuitBreakerLayer`] | refuses calls to a failing upstream at once | sees each attempt, and the timeouts below |
//! | `StreamGuardLayer` (feature `llm`) | finds truncated answers, and errors inside a 200 | the layers outside act on what it finds |
//! | [`IdleBodyTimeoutLayer`] | the longest silence of the body | per attempt; begins where the next timeout ends |
//! | [`FirstByteTimeoutLayer`] | the wait for the first data | per attempt |
//! | the client, with [`ConnectTimeoutLayer`] on its connector | a connection | sees connections, not requests |
//!
//! A preset contains the layers from [`GrpcStatusLayer`] to [`FirstByteTimeoutLayer`].
//!
//! Two wrong orders are easy to miss. A heartbeat inside a timeout resets the timer, so a dead upstream is never found. A
//! breaker outside the retries counts three failed attempts as one failure.
//!
//! # What a layer requires of the service inside
//!
//! All layers are for services of `http::Request` and `http::Response`. A response's body is a `Body<Data = Bytes>` whose
//! error converts into a [`BoxError`](error::BoxError), as with hyper, axum, tonic and reqwest; the service's own error
//! passes unchanged. A layer that records the request's body, or waits until the body was sent, takes any body and passes
//! on a [`CallBody`]. Nested layers do not wrap a `CallBody` again. The client inside must take it as its request body
//! (`Client::builder(..).build::<_, CallBody>(..)`).
//!
//! | Layer | Request's body: takes, passes on | Requires besides |
//! |---|---|---|
//! | [`ObserveLayer`], [`TimeoutProfileLayer`], [`GrpcStatusLayer`], [`DeadlineLayer`], [`IdleBodyTimeoutLayer`] | any, the same | |
//! | [`RejectionsAsErrorsLayer`], [`AnyErrorLayer`] | any, the same | `Error: Into<BoxError>`; the error becomes a `BoxError`, a [`BoxedError`](error::BoxedError) |
//! | [`SseHeartbeatLayer`] | any, the same | `Error: Into<BoxError>`; `Future: Send + 'static` |
//! | [`CircuitBreakerLayer`], [`PaceLayer`], [`QueueLayer`] | any, the same | `Clone`; `Error: std::error::Error` |
//! | `StreamGuardLayer` | any, the same | response body `Unpin` |
//! | [`FirstByteTimeoutLayer`] | any, [`CallBody`] | response body `Unpin` |
//! | [`InspectRequestLayer`], [`SupersedeLayer`] | any, [`CallBody`] | `Clone` |
//! | [`RetryAfterBackoffLayer`], `LastGoodLayer` | any, [`CallBody`] | `Clone`; `Error: std::error::Error` |
//! | `ResumeLayer` | any, [`CallBody`] | `Clone` |
//! | `StructuredOutputLayer` | any, [`CallBody`] | `Clone`; service, future, error and body `Send` |
//! | [`FallbackLayer`] | any, [`CallBody`] | `Error: std::error::Error`; the backup `Clone`, with any error |
//! | [`DedupLayer`] | any, [`CallBody`] | `Clone`; service, future, error and body `Send` |
//! | a [preset](presets) | any, [`CallBody`] | `Clone + Send + Sync`; future `Send`; `Error: std::error::Error`; body `Send + Unpin` |
//!
//! Put an [`AnyErrorLayer`] around a service whose error is a `BoxError`, which is not an [`Error`](std::error::Error). A
//! preset's service has a nameable type, [`Resilience<Client>`](presets::Resilience), for a struct or axum's state. To
//! hide the client's type too, box the service: `tower::util::BoxCloneSyncService::new(stack.layer(client))`.
//!
//! # Recipes
//!
//! - **A proxy in front of a model provider**: see below. The crate `tower-buttress-gateway` is a complete proxy, with
//!   every layer from heartbeats to the connect timeout and an option for each. It also does what every proxy must
//!   (hop-by-hop headers, upgrades), and bounds its socket writes, since a body that is not polled cannot time out. On
//!   your own server use [`WriteTimeout`].
//! - **A client**: a [preset](presets), or a `ServiceBuilder` with some of the layers (`ServiceBuilderExt` of the feature
//!   `tower` has them by name).
//! - **A handler with a deadline**: [`DeadlineLayer`] with `accept` on the router and another with `propagate` around the
//!   client; the handler need not pass the remaining time to the upstream. See the example `deadline`.
//! - **reqwest**: the crate `tower-buttress-reqwest` has a service to put the layers around; both bodies stream. Its
//!   feature `reqwest-middleware` turns a layer into middleware.
//! - **tonic**: the crate `tower-buttress-tonic` has the adapter for a `Channel`. Deadlines travel in `grpc-timeout`, and
//!   every limit that is reached becomes a status. On a server, use [`GrpcStatusLayer`] and [`DeadlineLayer`].
//! - **Other limits for some requests**: [`TimeoutProfileLayer`] chooses by path or header, [`InspectRequestLayer`] by
//!   the model that the body names; or put a [`TimeoutProfile`] into the request's extensions.
//! - **Each layer alone**: each layer has an example of its own name, `cargo run -p examples --example dedup`; the
//!   example `gateway` is the core of a proxy with TLS to its upstream.
//!
//! The core of a proxy, in axum:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_buttress::error::BoxError> {
//! use axum::Router;
//! use axum::body::Body;
//! use axum::extract::Request;
//! use axum::response::{IntoResponse, Response};
//! use http::{StatusCode, header::HOST};
//! use hyper_util::client::legacy::Client;
//! use hyper_util::rt::TokioExecutor;
//! use tower::{Layer, ServiceExt};
//! use tower_buttress::{TimeoutProfile, presets};
//!
//! # let provider = Router::new().fallback(|request: Request| async move { request.uri().to_string() });
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let origin = format!("http://{}", listener.local_addr()?);
//! # tokio::spawn(axum::serve(listener, provider).into_future());
//! let client = Client::builder(TokioExecutor::new()).build_http();
//! let upstream = presets::llm_gateway(TimeoutProfile::STANDARD).layer(client);
//! let app: Router = Router::new().fallback(async move |mut request: Request| -> Response {
//!     let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
//!     let Ok(uri) = format!("{origin}{path}").parse() else { return StatusCode::BAD_REQUEST.into_response() };
//!     *request.uri_mut() = uri;
//!     request.headers_mut().remove(HOST);
//!     match upstream.clone().oneshot(request).await {
//!         Ok(response) => response.map(Body::new),
//!         Err(_) => StatusCode::BAD_GATEWAY.into_response(),
//!     }
//! });
//! # let asked = Request::get("/v1/models?limit=5").body(Body::empty())?;
//! # let answer = app.oneshot(asked).await?.into_body();
//! # assert_eq!(axum::body::to_bytes(answer, 100).await?, "/v1/models?limit=5");
//! # Ok(())
//! # }
//! ```
//!
//! # What proxies need
//!
//! A proxy closes a connection after a silence longer than its timeout. [`SseHeartbeatLayer`] sends a comment before
//! that, and with [`before_headers`](SseHeartbeatLayer::before_headers) also before the upstream has answered.
//!
//! Tested with real proxies in front of a model that thinks for 6 s, before its head or in the middle of its answer; with
//! nginx and `presets::llm_gateway` also in front of a model that sends its head and then only comments. Without
//! heartbeats the proxy closes each of these streams; with heartbeats each arrives whole. (The tests are in
//! `crates/gateway/tests/it/clients`; `.ci/clients` runs them.)
//!
//! | Proxy | Limit in the test (default) | Heartbeats in the test |
//! |---|---|---|
//! | [nginx](https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_read_timeout) 1.22 | `proxy_read_timeout` 2 s and 3 s (60 s) | every 0.5 s and 1 s, the same before the head. Buffering is left on: the layer's `X-Accel-Buffering: no` turns it off |
//! | [HAProxy](https://docs.haproxy.org/2.6/configuration.html#4.2-timeout%20server) 2.6 | `timeout server` 2 s (none) | every 0.5 s, the same before the head |
//!
//! The limits of other proxies by their documentation, as of November 2026, not tested:
//!
//! | Proxy | Closes a stream after | Setting |
//! |---|---|---|
//! | [AWS ALB](https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html#connection-idle-timeout) | 60 s of silence | heartbeats every 15 s, also before the head; TCP keep-alive does not count |
//! | [Cloudflare](https://developers.cloudflare.com/fundamentals/reference/connection-limits/) | 120 s of silence, before the head too | the same |
//! | [Envoy](https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts) | 300 s of silence, and 15 s for the whole answer | the same, and the route's `timeout` set to 0 for streams |
//! | [Heroku](https://devcenter.heroku.com/articles/request-timeout) | 30 s to the head, then 55 s of silence | the same, before the head after less than 30 s |
//!
//! Compression between the layer and the caller must flush each frame.
//!
//! # What a provider can do to you, and what you get
//!
//! With `presets::llm_client` or `presets::llm_gateway` and the feature `llm`, in the dialects of `proto::dialect`.
//! *Content* is a piece of text, a thought or a tool call. Retry, fallback and circuit breaker act on a refusal. An error
//! of the body reaches the caller after the part of the answer that was forwarded; with `llm_gateway` the error event of
//! its dialect comes before it.
//!
//! | The provider | Before the first content | After it |
//! |---|---|---|
//! | ends the stream early, without an error | a 502 with `stream_truncated`, retried | the body ends with an error; the answer counts as a failure and is not stored |
//! | breaks the connection | a 502, retried | the stream continues from the provider's cursor, where it has one; else the body ends with its error |
//! | sends an error inside a 200 | the status that matches the error, with the provider's own JSON and wait | the body ends with an error that carries the event; nothing after it is forwarded |
//! | reports a spent quota or credit, with any status | the backup is asked, the provider not again | as any error |
//! | reports that the prompt is too long | the backup is asked | as any error |
//! | sends truncated JSON, or an error as JSON with a 200 | a refusal, for answers up to 256 KiB | above 256 KiB, the body ends with an error |
//! | sends its head, and then nothing, or only comments and pings | a 504 after the first-byte limit, or the first-content limit (90 s) | the body ends with an error after the idle limit; comments do not reset it |
//! | thinks for long after a valid first event | the head and that event are forwarded after 2 s | - |
//! | sends data that is not JSON, or an error without an object around it | a 502 | the body ends with an error if the end is missing |
//! | sends JSON of another form, as another API at the same path does | it passes unchanged; once events of a dialect follow, their end is required | the body ends with an error if the end is missing |
//! | stops at a limit, filters, or refuses | this is an answer, and passes; `Ending` says which | the same |
//! | compresses, though asked for `identity` | the answer passes unread, with an event that says so | the same |
//! | answers 429 with a wait in a header, its JSON, or its rate-limit headers | calls with this credential wait that long, at most 60 s each time | - |
//! # Coming from tower and tower-http
//!
//! | There | Here | What is different |
//! |---|---|---|
//! | `tower::timeout`, `tower_http::timeout::TimeoutLayer` | [`DeadlineLayer`] | bounds the body too, and travels in a header; a 504 in place of an error |
//! | `tower_http`'s `ResponseBodyDeadlineLayer` | [`DeadlineLayer`] | counts from the start of the call |
//! | `tower_http`'s `ResponseBodyTimeoutLayer` | [`IdleBodyTimeoutLayer`] | a slow reader does not count as a silent upstream; can count events in place of bytes |
//! | `tower::retry` with a `Policy` | [`RetryAfterBackoffLayer`] | records the request's body itself, and knows which requests are safe to send again |
//! | `tower::limit::ConcurrencyLimitLayer` | [`QueueLayer`] | a call holds its place until its body ends; fair to tenants |
//! | `tower::limit::RateLimitLayer` behind a `Buffer` | [`PaceLayer`] | is `Clone`: needs no buffer |
//! | `tower::load_shed` | [`QueueLayer::max_waiting`] with 0 | a 503 with `Retry-After` in place of an error |
//! | axum's `HandleErrorLayer` around them | nothing | a refusal is already a response |
//!
//! `tower::hedge`, balancing and discovery combine with these layers, outside or inside.
//!
//! # Testing a stack
//!
//! Every wait uses tokio's clock, so a test with paused time takes no time. A refusal is a response that the test can
//! inspect:
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::atomic::{AtomicU32, Ordering};
//! use std::sync::{Arc, Mutex};
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_buttress::{Attempts, CallBody, CallInfo, Event, RetryAfterBackoffLayer};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! // An upstream that is busy once. A service that is called again is cloned.
//! let calls = Arc::new(AtomicU32::new(0));
//! let upstream = service_fn(move |_: Request<CallBody>| {
//!     let answer = Response::builder();
//!     let answer = match calls.fetch_add(1, Ordering::Relaxed) {
//!         0 => answer.status(503).header("retry-after", "7"),
//!         _ => answer.status(200),
//!     };
//!     async move { Ok::<_, Infallible>(answer.body(Full::new(Bytes::from("hello"))).unwrap()) }
//! });
//!
//! let events = Arc::new(Mutex::new(Vec::new()));
//! let seen = Arc::clone(&events);
//! let retry = RetryAfterBackoffLayer::new()
//!     .observer(Arc::new(move |event: &Event, _: Option<&CallInfo>| seen.lock().unwrap().push(event.clone())));
//! let stack = ServiceBuilder::new().layer(retry).service(upstream);
//!
//! let start = tokio::time::Instant::now();
//! let answer = stack.oneshot(Request::get("http://upstream.test/").body(Full::<Bytes>::default()).unwrap()).await.unwrap();
//! assert_eq!((answer.status().as_u16(), Attempts::of(&answer)), (200, Attempts(2)));
//! assert!(start.elapsed() >= Duration::from_secs(7));
//! assert!(matches!(events.lock().unwrap()[..], [Event::RetryScheduled { attempt: 2, .. }]));
//! # }
//! ```
//!
//! # Events, logs and metrics
//!
//! A layer that refuses, waits, gives up or passes a call untouched emits an [`Event`]; a successful call emits none.
//! Give an [`Observer`], which may be a closure, to a layer or a preset with `observer(..)`. With the feature `tracing`
//! each event is a log line; with the feature `metrics` the crate records these through the `metrics` facade, times in
//! seconds:
//!
//! | Name | Kind | Labels | Value |
//! |---|---|---|---|
//! | `tower_buttress_events_total` | counter | `event`, `detail`, `stack` | how often each [`Event`] happened |
//! | `tower_buttress_first_data_seconds` | histogram | `stack` | how long callers waited for the first data |
//! | `tower_buttress_call_seconds` | histogram | `stack`, `status`, `end` | how long calls took, with their bodies |
//! | `tower_buttress_queue_in_flight`, `_queue_waiting`, `_queue_limit` | gauge | `layer` | the places of a [`QueueLayer`] |
//! | `tower_buttress_pace_in_flight`, `_pace_waiting` | gauge | `layer` | the calls at a [`PaceLayer`] |
//! | `tower_buttress_pace_paused_until_seconds` | gauge | `layer` | the end of the last pause, in seconds since 1970 |
//! | `tower_buttress_supersede_in_flight`, `_supersede_waiting` | gauge | `layer` | the messages at a [`SupersedeLayer`] |
//! | `tower_buttress_memory_used_bytes` | gauge | | what all [`Memory`]s of the process hold for calls |
//!
//! `stack` is the name of the [`ObserveLayer`] around a call; without that layer there is no `stack` label and no
//! histogram. `layer` is the name that you gave the layer. The program bounds the number of label values, never its
//! callers. [`Memory::used`] is the number of one memory.
//!
//! # Compared with other crates
//!
//! As of November 2026. `benches/README.md` has the cost of each crate; the example `proof` shows how many faults reach
//! the caller.
//!
//! | | This crate | tower, tower-http | tower-resilience | reqwest-retry |
//! |---|---|---|---|---|
//! | A refusal is | a response | an error, or a response with an empty body | an error | an error |
//! | Waits as long as `Retry-After` says | yes | write it yourself | write it yourself | no |
//! | Retries a body that streams | yes, up to a limit | if it can be cloned | if it can be cloned | if it can be cloned |
//! | First data, idle time, and total apart | yes | head; idle and total of bodies | head | reqwest's own |
//! | Breaker sees streams that break off | yes | has none | no | has none |
//! | Double clicks on a stream | one call | has none | answers that can be cloned | has none |
//! | Works with any `Service`, not only HTTP | no | yes (tower) | yes | no |
//! | Concurrency limits count streams to their end, fair to tenants | yes | no | no | has none |
//! | A 429 pauses all callers; rates of requests and tokens | yes | requests | requests | has none |
//! | Hedging, caches | no | some | yes | no |
//!
//! # What holds for all layers
//!
//! - **A refusal is a response.** No layer but [`RejectionsAsErrorsLayer`] changes the service's error type. A layer
//!   refuses with a 504, 503 or 502 (misuse of a key with a 400, 409 or 422) that carries a [`Rejection`]. (A connector
//!   has no responses and refuses with an error.)
//! - **A ready result beats a timer.** A layer forwards a ready frame even when its timer has fired because the reader
//!   was slow. (Only [`DeadlineLayer`] ends a body that is late as a whole.)
//! - **A successful call pays little.** A layer makes a timer only when something is pending, and moves it only when it
//!   fires.
//! - **Bytes pass unchanged**, trailers included; length and end are forwarded. Only [`SseHeartbeatLayer`] adds bytes,
//!   and [`GrpcStatusLayer`] trailers. After an error or the end a body is fused, and the inner body is dropped at once,
//!   which closes the upstream's connection.
//! - **A layer never breaks a call it cannot handle.** It passes the call untouched, with an [`Event`].
//! - **Every layer can be off**: `disabled()` keeps the types.
//!
//! # Where things are
//!
//! `proto` parses and writes wire formats, `policy` decides, `rt` holds timers, `body` streams, [`store`] keeps shared
//! answers, and each folder of `layers` puts them together. [`presets`] puts the layers in order. A body fails with one
//! of the structs in [`error`].
//!
//! [tower]: https://docs.rs/tower

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::print_stdout)]

#[cfg(test)]
extern crate self as tower_buttress;

#[cfg(feature = "tower")]
mod builder;
mod call;
pub mod error;
mod event;
mod rejection;

mod admission;
mod body;
mod layers;
mod policy;
pub mod presets;
pub mod proto;
mod rt;
pub mod store;

// One module per layer, with its service, future and body.
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::layers::structured_output;
pub use self::layers::{
    any_error, circuit_breaker, connect_timeout, deadline, dedup, fallback, first_byte_timeout, grpc_status,
    idle_body_timeout, inspect_request, observe, pace, queue, rejections_as_errors, retry_after_backoff, sse_heartbeat,
    supersede, timeout_profile,
};
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::{last_good, resume, stream_guard};

/// The types that the services, futures and bodies of several layers are aliases of. Layers make them.
pub mod generic {
    pub use crate::admission::{Guarded, GuardedBody, GuardedFuture};
    pub use crate::body::either::EitherBody;
    pub use crate::body::monitored::MonitoredBody;
    pub use crate::body::observed::Observed;
    pub use crate::body::prefixed::PrefixedBody;
    pub use crate::body::request::HandledFuture;
    pub use crate::rt::layered::Layered;
}

pub use self::body::ending::Ending;
pub use self::body::request::CallBody;
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub use self::builder::ServiceBuilderExt;
pub use self::call::{
    Attempt, Attempts, Authenticated, CallInfo, InvalidOutput, Memory, Model, NoFallback, NoRetry, NoStore, Notice,
    OutputFault, PinTo, Reservation, RetryReport, ServedBy, Stale, StaleKind, Tenant,
};
pub use self::event::{Event, Observer, StreamFault};
pub use self::layers::any_error::AnyErrorLayer;
pub use self::layers::circuit_breaker::{
    CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitPeers, HealthProbeLayer, PeerCircuit,
    ProbeHold, SlowCallBy,
};
pub use self::layers::connect_timeout::ConnectTimeoutLayer;
pub use self::layers::deadline::DeadlineLayer;
pub use self::layers::dedup::{DedupLayer, DedupRole, InFlightPolicy, Resumable};
pub use self::layers::fallback::FallbackLayer;
pub use self::layers::first_byte_timeout::{FirstByteEvent, FirstByteTimeoutLayer};
pub use self::layers::grpc_status::GrpcStatusLayer;
pub use self::layers::idle_body_timeout::{IdleActivity, IdleBodyTimeoutLayer};
pub use self::layers::inspect_request::InspectRequestLayer;
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::last_good::{Embedder, Embedding, LastGoodLayer, OpenAiEmbeddings, Similar, UnansweredRequest};
pub use self::layers::observe::ObserveLayer;
pub use self::layers::pace::{
    PaceLayer, PacePeers, PaceStats, PeerLimit, PeerPause, PeerReserving, PeerTurn, RateCost, TokenEstimate,
};
pub use self::layers::queue::{QueueLayer, QueueStats};
pub use self::layers::rejections_as_errors::RejectionsAsErrorsLayer;
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::resume::ResumeLayer;
pub use self::layers::retry_after_backoff::RetryAfterBackoffLayer;
pub use self::layers::sse_heartbeat::{CustomFrame, HeadersSentEarly, HeartbeatFrame, SseHeartbeatLayer};
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::layers::stream_guard::{MissingEnd, StreamGuardLayer};
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::layers::structured_output::{OutputUsage, StructuredOutputLayer};
pub use self::layers::supersede::{PeerMessage, SupersedeHandle, SupersedeLayer, SupersedePeers, SupersedeStats};
pub use self::layers::timeout_profile::TimeoutProfileLayer;
pub use self::policy::backoff::Jitter;
pub use self::policy::breaker::order::{CircuitOrder, UnknownOrder};
pub use self::policy::breaker::peers::{PeerDecision, PeerReport};
pub use self::policy::breaker::report::{CircuitChange, CircuitReason, CircuitSnapshot, CircuitState, CircuitStats};
pub use self::policy::pace::Rate;
pub use self::policy::resume::{NotResumed, ResumedBy};
pub use self::policy::retry::NotRetried;
#[cfg(feature = "schema")]
#[cfg_attr(docsrs, doc(cfg(feature = "schema")))]
pub use self::policy::structured::{InvalidSchema, OutputSchema};
pub use self::policy::supersede::SupersedeMode;
pub use self::policy::timeout_profile::TimeoutProfile;
pub use self::policy::verdict;
pub use self::policy::window::CircuitWindow;
pub use self::proto::deadline::DeadlineHeader;
pub use self::proto::event_stream::ExpectsEventStream;
#[cfg(feature = "llm")]
#[cfg_attr(docsrs, doc(cfg(feature = "llm")))]
pub use self::proto::resume::ResumeBy;
pub use self::rejection::{Rejection, RejectionFormat, RejectionKind};
pub use self::rt::deadline::{Deadline, DeadlineScope};
pub use self::rt::retry_budget::RetryBudget;
pub use self::rt::write_timeout::WriteTimeout;

// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
