//! The presets, and the names on a `ServiceBuilder`: every layer, where it belongs.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::presets::{self, ResilienceLayer};
use tower_buttress::verdict::{Classify, Health, NextStep, Outcome, Standard, Verdict};
use tower_buttress::{
    CallBody, CircuitBreakerLayer, CircuitState, DedupRole, Event, FallbackLayer, Model, PaceLayer, QueueLayer, Rate,
    Rejection, RejectionKind, Resumable, RetryAfterBackoffLayer, ServedBy, SupersedeLayer, TimeoutProfile, error,
};

use crate::support::{Log, Script, Step, secs};

type Asked = Request<Full<Bytes>>;

fn asked() -> Asked {
    Request::post("/v1/chat").header("authorization", "Bearer a").body(Full::from("hello")).unwrap()
}

const PRESETS: [fn(TimeoutProfile) -> ResilienceLayer; 3] =
    [presets::http_client, presets::llm_client, presets::llm_gateway];

/// Answers each call with the next status, and then with the last again; counts the calls.
fn upstream<B>(
    statuses: &'static [u16],
) -> (
    impl Service<Request<B>, Response = Response<Script>, Error = Infallible, Future: Send> + Clone + Send,
    Arc<AtomicU32>,
)
where
    B: Send + 'static,
{
    let calls = Arc::<AtomicU32>::default();
    let counted = calls.clone();
    let service = service_fn(move |_: Request<B>| {
        let nth = counted.fetch_add(1, SeqCst) as usize;
        let status = statuses[nth.min(statuses.len() - 1)];
        async move {
            let mut response = Response::new(Script::new([Step::Wait(secs(1)), Step::Data("data: a\n\n")]).unsized_());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    (service, calls)
}

fn is_shared<T: Clone + Send + Sync + std::fmt::Debug + 'static>(_: &T) {}

#[tokio::test(start_paused = true)]
async fn a_client_for_models_asks_again_and_falls_back() {
    let (primary, calls) = upstream(&[500]);
    let (backup, backups) = upstream(&[200]);
    let log = Arc::new(Log::default());
    let stack = presets::llm_client(TimeoutProfile::STANDARD)
        .fallback(FallbackLayer::new(backup).name("other"))
        .observer(log.clone());
    let response = stack.layer(primary).oneshot(asked()).await.unwrap();
    assert_eq!((response.status().as_u16(), ServedBy::of(&response)), (200, Some("other")));
    assert_eq!((calls.load(SeqCst), backups.load(SeqCst)), (3, 1), "a POST is retried after a 500");
    assert_eq!(log.names().last().unwrap(), "fallback_used: fallback");
    assert_eq!(log.names().iter().filter(|name| name.starts_with("retry_scheduled")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_for_anything_else_repeats_nothing_that_may_have_been_done() {
    let (service, calls) = upstream(&[500, 200]);
    let response = presets::http_client(TimeoutProfile::FAST).layer(service).oneshot(asked()).await.unwrap();
    assert_eq!((response.status().as_u16(), calls.load(SeqCst)), (500, 1));
}

#[tokio::test(start_paused = true)]
async fn the_backup_has_the_limits_of_an_attempt() {
    let silent = service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>());
    let (primary, _) = upstream(&[500]);
    let stack = presets::http_client(TimeoutProfile::STANDARD).fallback(FallbackLayer::new(silent));
    let start = Instant::now();
    let response = stack.layer(primary).oneshot(asked()).await.unwrap();
    // It said nothing for 20 s, and so the first answer is the one that counts.
    assert_eq!((response.status().as_u16(), start.elapsed()), (500, secs(20)));
}

#[tokio::test(start_paused = true)]
async fn limits_are_those_of_the_profile_or_of_the_request() {
    let silent = service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>());
    let stack = presets::llm_client(TimeoutProfile::STANDARD)
        .profile(|head| head.uri.path().ends_with("deep").then_some(TimeoutProfile::DEEP));
    let chat = |path, stream| {
        let body = format!(r#"{{"model":"m","stream":{stream}}}"#);
        Request::post(path).header("content-type", "application/json").body(Full::<Bytes>::from(body)).unwrap()
    };
    for (path, stream, limit) in [("/chat", true, 20), ("/deep", true, 45), ("/chat", false, 50), ("/deep", false, 110)]
    {
        let start = Instant::now();
        let request = chat(path, stream);
        let response = stack.layer(silent).oneshot(request).await.unwrap();
        assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::FirstByteTimeout);
        assert_eq!(start.elapsed(), secs(limit));
    }
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_stack_share_one_breaker() {
    let stack = presets::http_client(TimeoutProfile::FAST).retry(|_| RetryAfterBackoffLayer::disabled());
    let (service, calls) = upstream(&[500]);
    for _ in 0..5 {
        stack.clone().layer(service.clone()).oneshot(asked()).await.unwrap();
    }
    let refused = stack.layer(service).oneshot(asked()).await.unwrap();
    assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::CircuitOpen);
    assert_eq!(calls.load(SeqCst), 5);
}

#[tokio::test(start_paused = true)]
async fn the_presets_for_models_know_them_by_body_and_path() {
    let call = |model: &str, in_path: bool| {
        let (path, body) = match in_path {
            true => (format!("/v1beta/models/{model}:generateContent"), "{}".to_owned()),
            false => ("/v1/chat/completions".to_owned(), format!(r#"{{"stream":false,"model":"{model}"}}"#)),
        };
        let request = Request::post(format!("http://h{path}")).header("content-type", "application/json");
        request.header("accept", "text/event-stream").body(Full::<Bytes>::from(body)).unwrap()
    };
    for (preset, in_path) in PRESETS[1..].iter().flat_map(|preset| [(preset, false), (preset, true)]) {
        let stack = preset(TimeoutProfile::FAST).retry(|_| RetryAfterBackoffLayer::disabled());
        let upstream = |request: Request<CallBody>| async move {
            let is_down = request.headers().contains_key("x-down");
            Ok::<_, Infallible>(
                Response::builder().status(if is_down { 500 } else { 200 }).body(Script::new([])).unwrap(),
            )
        };
        let service = stack.layer(service_fn(upstream));
        let status = async |request: Asked| {
            let response = service.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let _ = response.into_body().collect().await;
            status
        };
        for model in ["down", "well"] {
            assert_eq!(status(call(model, in_path)).await, 200);
        }
        tokio::time::sleep(secs(6)).await;
        for _ in 0..5 {
            let mut request = call("down", in_path);
            request.headers_mut().insert("x-down", HeaderValue::from_static("1"));
            assert_eq!(status(request).await, 500);
        }
        assert_eq!([status(call("down", in_path)).await, status(call("well", in_path)).await], [503, 200]);
    }
}

#[tokio::test(start_paused = true)]
async fn each_host_and_each_model_has_a_circuit_of_its_own() {
    let call = |host: &str, model: &str| {
        let request = Request::post(format!("http://{host}/v1/chat")).extension(Model::new(model));
        request.body(Full::<Bytes>::from("hello")).unwrap()
    };
    for preset in PRESETS {
        let stack = preset(TimeoutProfile::FAST).retry(|_| RetryAfterBackoffLayer::disabled());
        let upstream = |request: Request<CallBody>| async move {
            let is_down = request.headers().contains_key("x-down");
            Ok::<_, Infallible>(
                Response::builder().status(if is_down { 500 } else { 200 }).body(Script::new([])).unwrap(),
            )
        };
        let service = stack.layer(service_fn(upstream));
        let status = async |request: Asked| {
            let response = service.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let _ = response.into_body().collect().await;
            status
        };
        for (host, model) in [("h", "down"), ("h", "well"), ("other", "down")] {
            assert_eq!(status(call(host, model)).await, 200);
        }
        tokio::time::sleep(secs(6)).await;
        for _ in 0..5 {
            let mut request = call("h", "down");
            request.headers_mut().insert("x-down", HeaderValue::from_static("1"));
            assert_eq!(status(request).await, 500);
        }
        let ends =
            [status(call("h", "down")).await, status(call("h", "well")).await, status(call("other", "down")).await];
        assert_eq!(ends, [503, 200, 200]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_may_think_as_long_as_any_call() {
    let thinks = service_fn(|_| async {
        tokio::time::sleep(secs(120)).await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("thought")))
    });
    let mut circuit = None;
    let limits = TimeoutProfile::EXTENDED_THINKING.with_first_byte(secs(150));
    let stack = presets::llm_client(limits).breaker(|breaker| {
        circuit = Some(breaker.handle());
        breaker
    });
    let (service, circuit) = (stack.layer(thinks), circuit.unwrap());
    circuit.open_for(Duration::ZERO);
    let probe = tokio::spawn(service.clone().oneshot(asked()));
    tokio::time::sleep(secs(4)).await;
    assert_eq!(service.oneshot(asked()).await.unwrap().status(), 503);
    let Ok(answer) = probe.await.unwrap();
    answer.into_body().collect().await.unwrap();
    assert_eq!(circuit.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_shares_calls_and_keeps_streams_alive() {
    let (service, calls) = {
        let calls = Arc::<AtomicU32>::default();
        let counted = calls.clone();
        let service = service_fn(move |_| {
            counted.fetch_add(1, SeqCst);
            async {
                let body = Script::new([
                    Step::Data("data: a\n\n"),
                    Step::Wait(secs(14)),
                    Step::Wait(secs(10)),
                    Step::Data("data: b\n\n"),
                ]);
                let mut response = Response::new(body.unsized_());
                response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
                Ok::<_, Infallible>(response)
            }
        });
        (service, calls)
    };
    let stack = presets::llm_gateway(TimeoutProfile::STANDARD.with_idle(Duration::MAX));
    let service = stack.layer(service);
    let (first, second) = tokio::join!(service.clone().oneshot(asked()), service.oneshot(asked()));
    let second = second.unwrap();
    assert_eq!(second.extensions().get(), Some(&DedupRole::Joined));
    let (first, second) = tokio::join!(first.unwrap().into_body().collect(), second.into_body().collect());
    let first = first.unwrap().to_bytes();
    assert_eq!(first, "data: a\n\n: keepalive\n\ndata: b\n\n");
    assert_eq!(first, second.unwrap().to_bytes());
    assert_eq!(calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_begins_a_stream_after_25_seconds_without_an_answer() {
    let service = service_fn(|_| async {
        tokio::time::sleep(secs(28)).await;
        let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n";
        let mut response = Response::new(Full::<Bytes>::from(events));
        response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
        Ok::<_, Infallible>(response)
    });
    let later = Resumable::at("/answers").respond_async(true);
    let waits = presets::llm_gateway(TimeoutProfile::DEEP);
    let sends_away = presets::llm_gateway(TimeoutProfile::DEEP).dedup(|dedup| dedup.resumable(later));
    for (stack, path, stream, prefer, head_after) in [
        (&waits, "/v1/chat/completions", true, "", 25),
        // Nothing in the stack answers later: the caller waits as any other.
        (&waits, "/v1/chat/completions", true, "respond-async", 25),
        (&sends_away, "/v1/chat/completions", true, "respond-async, wait=26", 26),
        (&waits, "/v1/chat/completions", false, "", 28),
        (&waits, "/events", true, "", 28),
    ] {
        let start = Instant::now();
        let request = Request::post(path).header("content-type", "application/json").header("prefer", prefer);
        let request = request.header("authorization", "Bearer a");
        let body = Full::<Bytes>::from(format!("{{\"stream\":{stream},\"user\":\"{path} {prefer}\"}}"));
        let response = stack.layer(service).oneshot(request.body(body).unwrap()).await.unwrap();
        assert_eq!(start.elapsed(), secs(head_after), "{path} {stream} {prefer}");
        if head_after == 25 {
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            let mut body = response.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), ": keepalive\n\n");
        }
    }
}

/// A model that hangs is given up in time for another one, whatever was asked for.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_reaches_its_backup() {
    for (stream, given_up) in [(true, 20), (false, 50)] {
        let silent = service_fn(|_| std::future::pending::<Result<Response<Script>, Infallible>>());
        let (backup, _) = upstream(&[200]);
        for stack in [presets::llm_client(TimeoutProfile::STANDARD), presets::llm_gateway(TimeoutProfile::STANDARD)] {
            let stack = stack.fallback(FallbackLayer::new(backup.clone()).name("other").own_credentials(true));
            let body = format!(r#"{{"model":"m","stream":{stream}}}"#);
            let request = Request::post("/v1/chat").header("content-type", "application/json").body(Full::from(body));
            let start = Instant::now();
            let response = stack.layer(silent).oneshot(request.unwrap()).await.unwrap();
            assert_eq!((response.status().as_u16(), ServedBy::of(&response)), (200, Some("other")));
            assert_eq!(start.elapsed(), secs(given_up + 1));
        }
    }
}

#[test]
fn limits_that_cannot_work_are_reported_when_a_preset_is_made() {
    let told = |limits| {
        let log = Arc::new(Log::default());
        let _ = presets::http_client(limits).observer(log.clone());
        log.events()
    };
    assert!(told(TimeoutProfile::STANDARD).is_empty());
    let events = told(TimeoutProfile::STANDARD.with_first_byte(secs(91)));
    let [event @ Event::Misconfigured { .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.to_string(), "timeout profile: first_byte is longer than total, and never reached");
}

#[test]
fn a_stack_can_be_shared_and_shown() {
    let stack: ResilienceLayer = presets::grpc_client(TimeoutProfile::default());
    is_shared(&stack);
    assert!(format!("{stack:?}").contains("CircuitBreakerLayer"));
    let (service, _) = upstream::<CallBody>(&[200]);
    let _ = presets::http_client(TimeoutProfile::FAST).fallback(FallbackLayer::new(service));
}

#[cfg(feature = "tower")]
#[tokio::test(start_paused = true)]
async fn by_name_on_a_builder_they_are_the_same_layers() {
    use tower_buttress::{Attempts, ServiceBuilderExt};

    let (service, calls) = upstream(&[429, 200]);
    let (backup, _) = upstream(&[200]);
    let service = ServiceBuilder::new()
        .rejections_as_errors()
        .timeout_profile(|_| None)
        .sse_heartbeat(secs(15))
        .deadline(secs(90))
        .supersede(http::HeaderName::from_static("x-conversation-id"))
        .dedup()
        .fallback(backup)
        .retry_after_backoff()
        .queue(8)
        .pace()
        .circuit_breaker()
        .idle_body_timeout(secs(15))
        .first_byte_timeout(secs(20))
        .any_error()
        .service(service);
    let response = service.clone().oneshot(asked()).await.unwrap();
    assert_eq!((response.status().as_u16(), Attempts::of(&response)), (200, Attempts(2)));
    assert_eq!(calls.load(SeqCst), 2);
    assert!(response.into_body().collect().await.unwrap().to_bytes().starts_with(b"data: a"));
}

/// Envoy answers 503 when the upstream's connection ends after it had the request.
#[tokio::test(start_paused = true)]
async fn a_payment_is_made_once() {
    let (envoy, payments) = upstream(&[503]);
    let service = presets::http_client(TimeoutProfile::STANDARD).layer(envoy);
    let response = service.oneshot(asked()).await.unwrap();
    assert_eq!((response.status().as_u16(), payments.load(SeqCst)), (503, 1));
}

/// A gRPC server that has sent its head, and fails before any message: nothing has gone to the caller yet.
#[tokio::test(start_paused = true)]
async fn a_grpc_status_before_any_message_is_retried() {
    let calls = Arc::<AtomicU32>::default();
    let counted = calls.clone();
    let service = service_fn(move |_: Request<_>| {
        let nth = counted.fetch_add(1, SeqCst);
        let trailers = HeaderMap::from_iter([
            ("grpc-status".parse().unwrap(), HeaderValue::from_static(if nth == 0 { "14" } else { "0" })),
            ("grpc-retry-pushback-ms".parse().unwrap(), HeaderValue::from_static("10")),
        ]);
        let frames = [Ok::<_, Infallible>(Frame::<Bytes>::trailers(trailers))];
        let response = Response::builder().header("content-type", "application/grpc");
        async move { Ok::<_, Infallible>(response.body(StreamBody::new(futures_util::stream::iter(frames))).unwrap()) }
    });
    let service = presets::grpc_client(TimeoutProfile::STANDARD).layer(service);
    let request = Request::post("/p.S/M").header("content-type", "application/grpc").body(Full::<Bytes>::default());
    let response = service.oneshot(request.unwrap()).await.unwrap();
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!((calls.load(SeqCst), trailers["grpc-status"].to_str().unwrap()), (2, "0"));
}

/// A struct can hold one, and a handler in a stack can call another.
#[derive(Clone)]
struct App {
    model: presets::Resilience<Client<HttpConnector, CallBody>>,
}

async fn serve(app: axum::Router) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    at
}

fn hyper_client() -> Client<HttpConnector, CallBody> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Within the compiler's default recursion limit: a stack, in a handler, in a stack.
#[tokio::test]
async fn stacks_nest_and_have_names() {
    let upstream = serve(axum::Router::new().fallback(|body: String| async move { format!("{body}!") })).await;
    let stack = presets::llm_client(TimeoutProfile::STANDARD).fallback(FallbackLayer::new(hyper_client()));
    let app = App { model: stack.layer(hyper_client()) };
    let handler = move |axum::extract::State(app): axum::extract::State<App>, request: axum::extract::Request| async move {
        let (mut head, body) = request.into_parts();
        head.uri = format!("http://{upstream}/").parse().unwrap();
        let response = app.model.oneshot(Request::from_parts(head, body)).await.unwrap();
        response.map(axum::body::Body::new)
    };
    let router = axum::Router::new().fallback(handler).with_state(app);
    let gateway = serve(router.layer(presets::llm_gateway(TimeoutProfile::STANDARD))).await;
    let request = Request::post(format!("http://{gateway}/")).body(CallBody::from("hello")).unwrap();
    let response = hyper_client().request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello!");
}

/// By hand as well: the primary and its backup take the same requests.
#[tokio::test]
async fn a_client_backs_up_its_own_kind_by_hand() {
    let at = serve(axum::Router::new().fallback(|request: axum::extract::Request| async move {
        let status = if request.headers().contains_key("x-attempt") { 503 } else { 200 };
        (StatusCode::from_u16(status).unwrap(), request.into_body())
    }))
    .await;
    let primary = ServiceBuilder::new()
        .layer(FallbackLayer::new(hyper_client()))
        .layer(RetryAfterBackoffLayer::new().attempt_header("x-attempt".parse().unwrap()))
        .service(hyper_client());
    let request = Request::put(format!("http://{at}/")).body(Full::<Bytes>::from("hello")).unwrap();
    let response = primary.oneshot(request).await.unwrap();
    assert_eq!((response.status().as_u16(), ServedBy::of(&response)), (200, Some("backup")));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_backup_has_a_circuit_of_its_own_and_is_passed_over_while_that_is_open() {
    let (primary, _) = upstream(&[500]);
    let (first, firsts) = upstream(&[500]);
    let (second, seconds) = upstream(&[200]);
    let stack = presets::http_client(TimeoutProfile::STANDARD)
        .breaker(|breaker| breaker.configure(|config| config.consecutive_failures(3)))
        .fallback(FallbackLayer::new(first).name("first").own_credentials(true))
        .fallback(FallbackLayer::new(second).name("second").own_credentials(true));
    let service = stack.layer(primary);
    for _ in 0..5 {
        let response = service.clone().oneshot(asked()).await.unwrap();
        assert_eq!((response.status().as_u16(), ServedBy::of(&response)), (200, Some("second")));
        response.into_body().collect().await.unwrap();
    }
    assert_eq!((firsts.load(SeqCst), seconds.load(SeqCst)), (3, 5));
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_the_calls_with_the_same_credential() {
    let start = Instant::now();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    let upstream = service_fn(move |_: Request<CallBody>| {
        let mut calls = seen.lock().unwrap();
        calls.push(start.elapsed());
        let status = if calls.len() == 1 { 429 } else { 200 };
        let answer = Response::builder().status(status).header("retry-after", "3").body(Full::<Bytes>::default());
        async move { Ok::<_, Infallible>(answer.unwrap()) }
    });
    let service = presets::http_client(TimeoutProfile::STANDARD).layer(upstream);
    let get = || service.clone().oneshot(Request::new(Full::<Bytes>::default()));
    let (first, second) = tokio::join!(get(), async {
        tokio::time::sleep(secs(1)).await;
        get().await
    });
    assert_eq!((first.unwrap().status(), second.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    let calls = calls.lock().unwrap();
    assert_eq!((calls.len(), calls[1] >= secs(3)), (3, true), "{calls:?}");
}

/// They count what a caller asks for, whichever upstream answers.
#[tokio::test(start_paused = true)]
async fn limits_per_caller_stand_outside_of_what_answers_without_the_upstream() {
    let (upstream, calls) = upstream(&[200]);
    let limits = PaceLayer::per_caller().requests(Rate::per_minute(2));
    let service = presets::llm_gateway(TimeoutProfile::STANDARD).pace_per_caller(|_| limits).layer(upstream);
    let (first, second) = tokio::join!(service.clone().oneshot(asked()), service.clone().oneshot(asked()));
    assert_eq!(second.unwrap().headers()["ratelimit"], "\"requests\";r=0;t=59");
    assert_eq!(first.unwrap().status(), 200);
    let refused = service.oneshot(asked()).await.unwrap();
    assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::Paced);
    assert_eq!((refused.headers()["ratelimit"].as_bytes(), calls.load(SeqCst)), (&b"\"requests\";r=0;t=59"[..], 1));
}

#[tokio::test(start_paused = true)]
async fn a_newer_message_ends_the_older_one_and_its_call() {
    let (upstream, calls) = upstream(&[200]);
    let log = Arc::new(Log::default());
    let conversations = SupersedeLayer::by_header("x-conversation-id".parse().unwrap());
    let stack = presets::llm_gateway(TimeoutProfile::STANDARD).supersede(|_| conversations).observer(log.clone());
    let service = stack.layer(upstream);
    let say = |text: &'static str| {
        let mut request = asked().map(|_| Full::from(text));
        request.headers_mut().insert("x-conversation-id", HeaderValue::from_static("7"));
        service.clone().oneshot(request)
    };
    let mut first = say("one").await.unwrap().into_body();
    let second = say("two").await.unwrap();
    assert!(error::find::<error::Superseded>(&first.frame().await.unwrap().unwrap_err()).is_some());
    assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "data: a\n\n");
    assert_eq!((say("one").await.unwrap().status().as_u16(), calls.load(SeqCst)), (410, 2));
    let names = log.names();
    assert_eq!(names, ["flight_abandoned: dedup", "superseded: supersede", "refused: superseded"]);
}

/// How much load is too much is for the operator to say, and so is what a conversation is.
#[tokio::test(start_paused = true)]
async fn no_preset_bounds_or_ends_calls_unless_set_to() {
    for preset in PRESETS {
        let (upstream, calls) = upstream(&[200]);
        let service = preset(TimeoutProfile::STANDARD).layer(upstream);
        let start = Instant::now();
        let say = |message: u32| {
            let mut request = asked().map(|_| Full::from(format!("message {message}")));
            request.headers_mut().insert("x-conversation-id", HeaderValue::from_static("7"));
            let call = service.clone().oneshot(request);
            async move {
                let response = call.await.unwrap();
                (response.status().as_u16(), response.into_body().collect().await.is_ok())
            }
        };
        let answers = futures_util::future::join_all((0..300).map(say)).await;
        assert!(answers.iter().all(|answer| *answer == (200, true)), "{answers:?}");
        assert_eq!((calls.load(SeqCst), start.elapsed()), (300, secs(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn one_slow_upload_holds_no_place() {
    let (upstream, calls) = upstream(&[200]);
    let service = presets::http_client(TimeoutProfile::STANDARD).queue(|_| QueueLayer::new(1)).layer(upstream);
    let slow = Script::new([Step::Data("a"), Step::Wait(secs(10)), Step::Data("b")]).unsized_();
    let upload = tokio::spawn(service.clone().oneshot(Request::put("/").body(slow).unwrap()));
    tokio::time::sleep(secs(1)).await;
    let start = Instant::now();
    let other = service.oneshot(Request::put("/").body(Full::<Bytes>::from("quick")).unwrap()).await.unwrap();
    assert_eq!((other.status(), start.elapsed(), calls.load(SeqCst)), (StatusCode::OK, secs(1), 1));
    drop(other);
    assert_eq!(upload.await.unwrap().unwrap().status(), 200);
}

/// A teapot is an upstream that fails.
fn teapots(outcome: &Outcome<'_>) -> Verdict {
    match outcome.status() {
        Some(StatusCode::IM_A_TEAPOT) => Verdict::new(NextStep::retry(None), Health::Failure),
        _ => Standard::new().classify(outcome),
    }
}

#[tokio::test(start_paused = true)]
async fn the_classifier_of_a_stack_is_that_of_layers_without_their_own() {
    let get = || Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let stack = || presets::http_client(TimeoutProfile::STANDARD).classifier(teapots);

    let (primary, calls) = upstream(&[418, 200]);
    let served = stack().retry(|_| RetryAfterBackoffLayer::new()).layer(primary).oneshot(get()).await.unwrap();
    assert_eq!((served.status().as_u16(), calls.load(SeqCst)), (200, 2), "a layer that was put in later");

    let (primary, calls) = upstream(&[418, 200]);
    let own = stack().retry(|retry| retry.classifier(Standard::new()));
    let served = own.layer(primary).oneshot(get()).await.unwrap();
    assert_eq!((served.status().as_u16(), calls.load(SeqCst)), (418, 1), "its own comes first");

    let (primary, _) = upstream(&[418]);
    let (backup, _) = upstream::<CallBody>(&[200]);
    let mut circuit = None;
    let stack = stack().retry(|retry| retry.attempts(1)).breaker(|breaker| {
        circuit = Some(breaker.handle());
        breaker.configure(|config| config.consecutive_failures(2))
    });
    let service = stack.fallback(FallbackLayer::new(backup)).layer(primary);
    for _ in 0..2 {
        let served = service.clone().oneshot(get()).await.unwrap();
        assert_eq!((served.status().as_u16(), ServedBy::of(&served).is_some()), (200, true), "the backup serves it");
    }
    assert_eq!(circuit.unwrap().state(), CircuitState::Open);
}

/// An application keeps a clone of its queue to show how it is doing.
#[tokio::test(start_paused = true)]
async fn a_queue_keeps_its_places_when_it_takes_the_classifier_of_the_stack() {
    let queue = QueueLayer::auto(1, 100);
    let (primary, _) = upstream(&[418]);
    let throttled = |_: &Outcome<'_>| Verdict::new(NextStep::GiveUp, Health::Throttled);
    let stack = presets::http_client(TimeoutProfile::STANDARD).classifier(throttled).pace(|_| PaceLayer::disabled());
    let service = stack.breaker(|_| CircuitBreakerLayer::disabled()).queue(|_| queue.clone()).layer(primary);
    let before = queue.stats().limit;
    for _ in 0..20 {
        let get = Request::get("/").body(Full::<Bytes>::default()).unwrap();
        let _ = service.clone().oneshot(get).await.unwrap().into_body().collect().await;
    }
    assert!(queue.stats().limit < before, "{before}");
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_asked_after_a_grpc_status() {
    let answer = |status: &'static str| {
        service_fn(move |_: Request<CallBody>| async move {
            let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        })
    };
    let stack = presets::grpc_client(TimeoutProfile::STANDARD).fallback(FallbackLayer::new(answer("0")));
    let request = Request::post("/p.S/M").header("content-type", "application/grpc").body(Full::<Bytes>::default());
    let response = stack.layer(answer("14")).oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "0");
}

#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn the_classifier_of_a_stack_says_when_an_earlier_answer_stands_in() {
    use crate::last_good::{QUESTION, Upstream, ask, send, status};

    let upstream = Upstream::new();
    let stack = presets::http_client(TimeoutProfile::STANDARD).classifier(teapots);
    let service = stack.last_good(|_| tower_buttress::LastGoodLayer::new()).layer(upstream.service());
    send(&service, ask(QUESTION)).await;
    upstream.set(status(418));
    let (status, stale, _) = send(&service, ask(QUESTION)).await;
    assert_eq!((status, stale.is_some()), (200, true));
}
