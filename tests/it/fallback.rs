//! What Fallback promises, under paused time.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, poll};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::Instant;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::presets::ResilienceLayer;
use tower_buttress::verdict::{Classify, Health, Matter, NextStep, Outcome, Standard, Verdict};
use tower_buttress::{
    Authenticated, CallBody, Deadline, FallbackLayer, FirstByteTimeoutLayer, Jitter, NoFallback, PinTo, Rejection,
    RejectionKind, RejectionsAsErrorsLayer, RetryAfterBackoffLayer, ServedBy, TimeoutProfile, presets,
};

use crate::support::upstream::{Answer, Upstream, is, request, text};
use crate::support::{Log, Script, Step, secs, trailers};

fn hello() -> [Step; 2] {
    [Step::Data("hel"), Step::Data("lo")]
}

fn ok() -> Answer {
    Answer::status(200).body(Script::new([Step::Data("backup")]))
}

/// Sends `request` to a primary that says `primary`, with a backup that says `ok`.
async fn falls_back(primary: Answer, request: Request<Script>) -> (String, Upstream) {
    let backup = Upstream::new([ok()]);
    let service = FallbackLayer::new(backup.clone()).layer(Upstream::new([primary]));
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("backup"));
    (text(response).await, backup)
}

#[tokio::test(start_paused = true)]
async fn what_the_primary_serves_is_left_alone() {
    for status in [200, 204, 302, 400, 404, 422, 501] {
        let (primary, backup) = (Upstream::new([Answer::status(status)]), Upstream::new([]));
        let response =
            FallbackLayer::new(backup).layer(primary.clone()).oneshot(request("POST", hello())).await.unwrap();
        assert!(is(&response, status));
        assert!(response.extensions().is_empty());
        assert_eq!(text(response).await, "said");
        assert_eq!(primary.seen()[0].data, "hello");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_upstream_failed_at_goes_to_the_backup() {
    let failures: [fn() -> Answer; 9] = [
        || Answer::status(408),
        || Answer::status(500),
        || Answer::status(503),
        || Answer::status(503).header("x-should-retry", "false"),
        || Answer::status(529),
        || Answer::fails(ErrorKind::ConnectionRefused),
        || Answer::fails(ErrorKind::ConnectionReset),
        || Answer::status(502).with(Rejection::new(RejectionKind::BodyFailed)),
        || Answer::status(200).with(Rejection::new(RejectionKind::BodyFailed)),
    ];
    for failure in failures {
        let body = hello().into_iter().chain([Step::Trailers]);
        let (said, backup) = falls_back(failure(), request("POST", body)).await;
        assert_eq!(said, "backup");
        let seen = &backup.seen()[0];
        assert_eq!(seen.data, "hello");
        assert_eq!(seen.length, Some(5));
        assert_eq!(seen.trailers, Some(trailers()));
        assert_eq!(seen.uri, "http://upstream/v1/chat");
    }
}

/// What the primary answers, and who is served by the backup then.
type Door = (fn() -> Answer, [bool; 3]);

/// The doors by which a stranger could come in: what the primary answers, and whether the backup serves a caller of whom
/// nothing is known, one that was authenticated, and a call of the application's own.
const DOORS: [Door; 9] = [
    (|| Answer::status(401), [false, false, true]),
    (|| Answer::status(402), [false, false, true]),
    (|| Answer::status(403), [false, false, true]),
    (|| Answer::status(407), [false, false, true]),
    (|| Answer::status(429).header("retry-after", "3600"), [false, false, true]),
    (|| Answer::status(401).header("x-should-retry", "true"), [false, false, true]),
    (|| Answer::status(413), [false, true, true]),
    (|| refusal(503, RejectionKind::CircuitOpen), [false, true, true]),
    (|| refusal(504, RejectionKind::FirstByteTimeout), [false, true, true]),
];

fn refusal(status: u16, kind: RejectionKind) -> Answer {
    Answer::status(status).with(Rejection::new(kind))
}

fn with_key() -> Request<Script> {
    let mut request = request("POST", hello());
    request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer caller"));
    request
}

fn authenticated(mut request: Request<Script>) -> Request<Script> {
    request.extensions_mut().insert(Authenticated);
    request
}

/// Whether the backup, which is asked with the operator's credential, serves the call.
async fn is_served(layer: FallbackLayer<Upstream>, answer: Answer, request: Request<Script>) -> bool {
    let log = Arc::new(Log::default());
    let layer = layer.observer(log.clone());
    let primary = RetryAfterBackoffLayer::new().attempts(1).layer(Upstream::new([answer]));
    let response = layer.layer(primary).oneshot(request).await.unwrap();
    let served = ServedBy::of(&response) == Some("backup");
    assert_eq!(log.names(), [if served { "fallback_used: fallback" } else { "bypassed: fallback" }]);
    served
}

fn operators(layer: FallbackLayer<Upstream>) -> FallbackLayer<Upstream> {
    layer.rewrite(|mut request| {
        request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer operator"));
        request
    })
}

#[tokio::test(start_paused = true)]
async fn no_stranger_is_served_on_the_operators_account() {
    for (n, (answer, [stranger, known, own])) in DOORS.into_iter().enumerate() {
        for ask in [with_key, || request("POST", hello())] {
            let layer = || operators(FallbackLayer::new(Upstream::new([ok()])));
            assert_eq!(is_served(layer(), answer(), ask()).await, stranger, "{n}: a stranger");
            assert_eq!(is_served(layer(), answer(), authenticated(ask())).await, known, "{n}: a known caller");
            assert_eq!(is_served(layer().own_credentials(true), answer(), ask()).await, own, "{n}: our own call");
            // The backup's own service may put the credential in, where this layer does not see it.
            let layer = FallbackLayer::new(Upstream::new([ok()]));
            assert_eq!(is_served(layer, answer(), ask()).await, stranger, "{n}: without a rewrite");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn with_the_callers_own_credential_nothing_is_charity() {
    for (n, (answer, _)) in DOORS.into_iter().enumerate() {
        let layer = || FallbackLayer::new(Upstream::new([ok()])).forward_credentials(true);
        let smaller_model = layer().rewrite(|request| request.map(|_| "small".into()));
        assert!(is_served(layer(), answer(), with_key()).await, "{n}");
        assert!(is_served(smaller_model, answer(), with_key()).await, "{n}: rewritten");
        // Of a request without one, none is forwarded.
        assert!(!is_served(layer(), answer(), request("POST", hello())).await, "{n}: without a credential");
        // A rewrite that puts another one in its place, or beside it.
        assert!(!is_served(operators(layer()), answer(), with_key()).await, "{n}: replaced");
        let beside = layer().rewrite(|mut request| {
            request.headers_mut().insert("x-api-key", HeaderValue::from_static("operator"));
            request
        });
        assert!(!is_served(beside, answer(), with_key()).await, "{n}: added");
    }
    // The caller did not cause the upstream's failure.
    let layer = operators(FallbackLayer::new(Upstream::new([ok()])).forward_credentials(true));
    assert!(is_served(layer, Answer::status(503), with_key()).await);
}

#[tokio::test(start_paused = true)]
async fn no_preset_trusts_its_callers() {
    type Preset = fn(TimeoutProfile) -> ResilienceLayer;
    for preset in [presets::llm_client as Preset, presets::llm_gateway, presets::http_client, presets::grpc_client] {
        let stack = preset(TimeoutProfile::STANDARD).fallback(FallbackLayer::new(Upstream::new([])));
        let service = stack.layer(Upstream::new([Answer::status(401)]));
        let response = service.oneshot(with_key()).await.unwrap();
        assert!(is(&response, 401));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_time_is_over_goes_nowhere() {
    let refused = Answer::status(504).with(Rejection::new(RejectionKind::DeadlineExceeded));
    let service = FallbackLayer::new(Upstream::new([])).layer(Upstream::new([refused]));
    assert!(is(&service.oneshot(request("POST", hello())).await.unwrap(), 504));

    let log = Arc::new(Log::default());
    let layer = FallbackLayer::new(Upstream::new([])).observer(log.clone());
    let service = layer.layer(Upstream::new([Answer::status(503).after(secs(2))]));
    let mut request = request("POST", hello());
    request.extensions_mut().insert(Deadline::at(Instant::now() + secs(1)));
    assert!(is(&service.oneshot(request).await.unwrap(), 503));
    assert_eq!(log.names(), ["bypassed: fallback"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_primary_never_read_is_read_by_the_backup() {
    for answer in [Answer::status(503).unread(), Answer::fails(ErrorKind::ConnectionRefused).unread()] {
        let (_, backup) = falls_back(answer, request("POST", hello())).await;
        assert_eq!(backup.seen()[0].data, "hello");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_the_primary_left_half_read_is_read_whole_by_the_backup() {
    for answer in [Answer::status(503).early(), Answer::fails(ErrorKind::ConnectionReset).early()] {
        let body = [Step::Data("hel"), Step::Wait(secs(3)), Step::Data("lo")];
        let (_, backup) = falls_back(answer, request("POST", body)).await;
        assert_eq!(backup.seen()[0].data, "hello");
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_reads_on_while_the_backup_gets_ready_spoils_nothing() {
    let primary = service_fn(|request: Request<CallBody>| async {
        let mut body = request.into_body();
        body.frame().await.unwrap().unwrap();
        tokio::spawn(body.collect());
        Ok::<_, io::Error>(Response::builder().status(503).body(Script::new([])).unwrap())
    });
    let parts = ["hel", "lo, ", "wor", "ld"].map(|part| [Step::Data(part), Step::Wait(secs(1))]);
    let body = Script::new(parts.into_iter().flatten()).unsized_();
    let backup = Upstream::new([ok()]).ready_after(secs(10));
    let layer = FallbackLayer::new(backup.clone()).replay_limit(4);
    let response = layer.layer(primary).oneshot(Request::put("/").body(body).unwrap()).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("backup"));
    assert_eq!(backup.seen()[0].data, "hello, world");
}

#[tokio::test(start_paused = true)]
async fn credentials_stay_with_the_primary() {
    let secrets = ["authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-goog-api-key"];
    let with_secrets = || {
        let mut request = request("POST", hello());
        for name in secrets {
            request.headers_mut().insert(name, HeaderValue::from_static("secret"));
        }
        let mut marked = HeaderValue::from_static("secret");
        marked.set_sensitive(true);
        request.headers_mut().insert("x-tenant-token", marked);
        request.headers_mut().insert("accept", HeaderValue::from_static("text/event-stream"));
        request
    };
    let primary = Upstream::new([Answer::status(503), Answer::status(503)]);
    let backup = Upstream::new([ok(), ok()]);

    let layer = FallbackLayer::new(backup.clone());
    layer.layer(primary.clone()).oneshot(with_secrets()).await.unwrap();
    assert_eq!(primary.seen()[0].headers.len(), 8, "the primary gets them all");
    assert_eq!(
        backup.seen()[0].headers,
        HeaderMap::from_iter([(http::header::ACCEPT, HeaderValue::from_static("text/event-stream"),)])
    );

    layer.forward_credentials(true).layer(primary.clone()).oneshot(with_secrets()).await.unwrap();
    assert_eq!(backup.seen()[1].headers, primary.seen()[1].headers);
}

/// Gemini's documented form: `?key=`.
#[tokio::test(start_paused = true)]
async fn a_key_in_the_query_stays_with_the_primary() {
    let backup = Upstream::new([ok(), ok()]);
    let primary = Upstream::new([Answer::status(503), Answer::status(503)]);
    let with_key = || {
        let mut request = request("POST", hello());
        *request.uri_mut() = "http://upstream/v1/x:streamGenerateContent?key=AIzaSecret&alt=sse".parse().unwrap();
        request
    };
    let layer = FallbackLayer::new(backup.clone());
    layer.layer(primary.clone()).oneshot(with_key()).await.unwrap();
    assert_eq!(primary.seen()[0].uri, *with_key().uri());
    assert_eq!(backup.seen()[0].uri, "http://upstream/v1/x:streamGenerateContent?alt=sse");

    layer.forward_credentials(true).layer(primary).oneshot(with_key()).await.unwrap();
    assert_eq!(backup.seen()[1].uri, *with_key().uri());
}

#[tokio::test(start_paused = true)]
async fn a_call_can_ask_for_no_fallback() {
    let service = FallbackLayer::new(Upstream::new([])).layer(Upstream::new([Answer::status(503)]));
    let mut request = request("POST", hello());
    request.extensions_mut().insert(NoFallback);
    assert!(is(&service.oneshot(request).await.unwrap(), 503));
}

#[tokio::test(start_paused = true)]
async fn a_rewrite_changes_the_whole_request() {
    let rewrite = |request: Request<Bytes>| {
        let (mut head, body) = request.into_parts();
        assert!(!head.headers.contains_key("authorization"));
        head.uri = "http://backup/v2".parse().unwrap();
        head.headers.insert("authorization", HeaderValue::from_static("Bearer backup"));
        let body = String::from_utf8(body.to_vec()).unwrap().replace("hello", "good morning");
        Request::from_parts(head, body.into())
    };
    // Read whole by the primary, in part, and not at all.
    for answer in [Answer::status(503), Answer::status(503).early(), Answer::status(503).unread()] {
        let backup = Upstream::new([ok()]);
        let layer = FallbackLayer::new(backup.clone()).rewrite(rewrite);
        let body = [Step::Data("hel"), Step::Wait(secs(1)), Step::Data("lo"), Step::Trailers];
        let mut request = request("POST", body);
        request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer primary"));
        request.headers_mut().insert("content-length", 5.into());
        request.headers_mut().insert("content-digest", HeaderValue::from_static("sha-256=:hello:"));
        let response = layer.layer(Upstream::new([answer])).oneshot(request).await.unwrap();
        assert!(is(&response, 200));
        let seen = &backup.seen()[0];
        assert!(!seen.headers.contains_key("content-digest"), "it is that of other bytes");
        assert_eq!(seen.uri, "http://backup/v2");
        assert_eq!(seen.data, "good morning");
        assert_eq!(seen.length, Some(12));
        assert_eq!(seen.headers["content-length"], "12");
        assert_eq!(seen.headers["authorization"], "Bearer backup");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_says_of_its_body_is_kept_where_a_rewrite_leaves_the_body_alone() {
    let (same, other) = (Upstream::new([ok()]), Upstream::new([ok()]));
    let head_only = |mut request: Request<Bytes>| {
        *request.uri_mut() = Uri::from_static("http://backup/v2");
        request
    };
    let body_too = |request: Request<Bytes>| request.map(|_| Bytes::from_static(b"hullo"));
    for layer in
        [FallbackLayer::new(same.clone()).rewrite(head_only), FallbackLayer::new(other.clone()).rewrite(body_too)]
    {
        let mut request = request("POST", [Step::Data("hello")]);
        for name in ["content-digest", "content-md5", "x-amz-content-sha256"] {
            request.headers_mut().insert(name, HeaderValue::from_static("of hello"));
        }
        let response = layer.layer(Upstream::new([Answer::status(503)])).oneshot(request).await.unwrap();
        assert!(is(&response, 200));
    }
    for name in ["content-digest", "content-md5", "x-amz-content-sha256"] {
        assert_eq!(same.seen()[0].headers[name], "of hello");
        assert!(!other.seen()[0].headers.contains_key(name), "{name} is of other bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_to_come_is_not_rewritten() {
    for (takes, served) in [(9, true), (11, false)] {
        let log = Arc::new(Log::default());
        let layer = FallbackLayer::new(Upstream::new([ok()])).rewrite(|request| request).read_timeout(secs(10));
        let body = [Step::Data("hel"), Step::Wait(secs(takes)), Step::Data("lo")];
        let service = layer.observer(log.clone()).layer(Upstream::new([Answer::status(503).early()]));
        let start = Instant::now();
        let response = service.oneshot(request("POST", body)).await.unwrap();
        assert_eq!((ServedBy::of(&response).is_some(), is(&response, 503)), (served, !served));
        assert_eq!(start.elapsed(), secs(takes.min(10)));
        assert_eq!(log.names(), [if served { "fallback_used: fallback" } else { "bypassed: fallback" }]);
    }
}

/// A place behind the backup's limit is not held by a caller who is still sending.
#[tokio::test(start_paused = true)]
async fn no_readiness_of_the_backup_is_held_while_a_request_comes() {
    let backup = ConcurrencyLimitLayer::new(1).layer(Upstream::new([ok(), ok()]));
    let layer = FallbackLayer::new(backup).rewrite(|request| request);
    let service = layer.layer(Upstream::new([Answer::status(503).early(), Answer::status(503)]));
    let slow = [Step::Data("hel"), Step::Wait(secs(20)), Step::Data("lo")];
    let mut waits = pin!(service.clone().oneshot(request("POST", slow)));
    let start = Instant::now();
    assert!(poll!(waits.as_mut()).is_pending());
    let other = tokio::time::timeout(secs(10), service.oneshot(request("POST", hello())));
    assert!(is(&other.await.expect("there is a place").unwrap(), 200));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(is(&waits.await.unwrap(), 200));
    assert_eq!(start.elapsed(), secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_body_can_be_rewritten_too() {
    let backup = Upstream::new([ok()]);
    let layer = FallbackLayer::new(backup.clone()).rewrite(|mut request| {
        request.headers_mut().insert("x-rewritten", HeaderValue::from_static("yes"));
        request
    });
    layer.layer(Upstream::new([Answer::status(503)])).oneshot(request("GET", [])).await.unwrap();
    assert_eq!(backup.seen()[0].headers["x-rewritten"], "yes");
    assert_eq!(backup.seen()[0].length, Some(0));
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_first_answer_is_returned() {
    let failures: [fn() -> Answer; 4] = [
        || Answer::status(500),
        || Answer::status(400),
        || Answer::status(429),
        || Answer::fails(ErrorKind::ConnectionRefused),
    ];
    for failure in failures {
        let log = Arc::new(Log::default());
        let layer = FallbackLayer::new(Upstream::new([failure()])).observer(log.clone());
        let first = Answer::status(503).header("retry-after", "7");
        let response = layer.layer(Upstream::new([first])).oneshot(request("POST", hello())).await.unwrap();
        assert!(is(&response, 503));
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(ServedBy::of(&response), None);
        assert_eq!(text(response).await, "said");
        assert_eq!(log.names(), ["fallback_used: fallback", "backup_failed: fallback"]);

        let first = Answer::fails(ErrorKind::ConnectionReset);
        let layer = FallbackLayer::new(Upstream::new([failure()]));
        let err = layer.layer(Upstream::new([first])).oneshot(request("POST", hello())).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_never_ready_is_one_that_fails() {
    let backup = Upstream::new([]).ready_fails_after(0, ErrorKind::NotConnected);
    let service = FallbackLayer::new(backup).layer(Upstream::new([Answer::status(503)]));
    assert!(is(&service.oneshot(request("POST", hello())).await.unwrap(), 503));
}

#[tokio::test(start_paused = true)]
async fn the_backup_is_called_when_it_is_ready() {
    // `Upstream` panics where it is called on a clone that was not polled ready.
    let backup = Upstream::new([ok(), ok()]).ready_after(secs(5));
    let layer = FallbackLayer::new(backup.clone());
    let mut service = layer.layer(Upstream::new([Answer::status(503), Answer::status(503)]));
    for _ in 0..2 {
        let ready = ServiceExt::<Request<Script>>::ready(&mut service).await.unwrap();
        assert!(is(&ready.call(request("GET", [])).await.unwrap(), 200));
    }
    assert_eq!(backup.times(), [5.0, 10.0]);
}

#[tokio::test(start_paused = true)]
async fn layers_nest_into_a_chain() {
    let chain = |primary, second, third| {
        ServiceBuilder::new()
            .layer(FallbackLayer::new(Upstream::new([third])).name("third"))
            .layer(FallbackLayer::new(Upstream::new([second])).name("second"))
            .service(Upstream::new([primary]))
            .oneshot(request("POST", hello()))
    };
    let down = || Answer::status(503);
    let response = chain(down(), ok(), down()).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("second"));
    let response = chain(down(), down(), ok()).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("third"));
    let response = chain(Answer::status(529), down(), down()).await.unwrap();
    assert!(is(&response, 529));
    assert_eq!(ServedBy::of(&response), None);

    // The backup may be a chain, too: then it is the last link that gives its name.
    let backup = FallbackLayer::new(Upstream::new([ok()])).name("last").layer(Upstream::new([down()]));
    let service = FallbackLayer::new(backup).name("branch").layer(Upstream::new([down()]));
    let response = service.oneshot(request("POST", hello())).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("last"));
}

#[tokio::test(start_paused = true)]
async fn a_backup_whose_circuit_is_open_is_passed_over() {
    let open = || Answer::status(503).with(Rejection::new(RejectionKind::CircuitOpen));
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(Upstream::new([ok()])).name("third"))
        .layer(FallbackLayer::new(Upstream::new([open()])).name("second"))
        .service(Upstream::new([Answer::status(500)]));
    let response = service.oneshot(request("POST", hello())).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("third"));
}

/// A chain on both sides: `first` (or `second`), else `branch`, which is `inner` (or `last`).
fn chain(answers: [Option<Answer>; 4]) -> (impl Fn(Request<Script>) -> Answered, [Upstream; 4]) {
    let upstreams = answers.map(Upstream::new);
    let [first, second, inner, last] = upstreams.clone();
    let branch = FallbackLayer::new(last).name("last").layer(inner);
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(branch).name("branch"))
        .layer(FallbackLayer::new(second).name("second"))
        .service(first);
    (move |request| Box::pin(service.clone().oneshot(request).map(|answer| answer.unwrap().map(drop))), upstreams)
}

type Answered = Pin<Box<dyn Future<Output = Response<()>>>>;

#[tokio::test(start_paused = true)]
async fn a_pinned_request_goes_where_its_answer_came_from_and_nowhere_else() {
    for nth in 0..4 {
        // The upstreams before it are down.
        let (ask, _) = chain([0, 1, 2, 3].map(|at| (at <= nth).then(|| if at < nth { down() } else { ok() })));
        let pin = PinTo::origin_of(&ask(request("POST", hello())).await);
        // Whatever it says is the answer.
        for status in [200, 401, 503] {
            let (ask, upstreams) = chain([0, 1, 2, 3].map(|at| (at == nth).then(|| Answer::status(status))));
            let mut pinned = with_key();
            pinned.extensions_mut().insert(pin.clone());
            let answer = ask(pinned).await;
            assert!(is(&answer, status), "{nth}");
            assert_eq!(PinTo::origin_of(&answer), pin, "{nth}");
            assert_eq!(upstreams[nth].seen()[0].data, "hello");
            assert_eq!(upstreams[nth].seen()[0].headers.contains_key("authorization"), nth == 0, "{nth}");
        }
    }
}

fn down() -> Answer {
    Answer::status(503)
}

#[tokio::test(start_paused = true)]
async fn a_pinned_request_that_the_backup_does_not_answer_is_refused() {
    let pinned = || {
        let mut request = request("POST", hello());
        request.extensions_mut().insert(PinTo::backup("backup"));
        request
    };
    let backup = Upstream::new([Answer::fails(ErrorKind::ConnectionReset)]);
    let layers = [
        FallbackLayer::new(backup.clone()),
        FallbackLayer::new(Upstream::new([])).replay_limit(4),
        FallbackLayer::new(Upstream::new([])).replay_limit(4).rewrite(|request| request),
    ];
    for layer in layers {
        let response = layer.layer(Upstream::new([])).oneshot(pinned()).await.unwrap();
        assert!(is(&response, 502));
        assert_eq!(Rejection::of(&response).unwrap().kind(), RejectionKind::UpstreamFailed);
    }
    assert_eq!(backup.seen().len(), 1);

    let backup = Upstream::new([ok()]);
    let layer = operators(FallbackLayer::new(backup.clone()));
    assert!(is(&layer.layer(Upstream::new([])).oneshot(pinned()).await.unwrap(), 200));
    assert_eq!(backup.seen()[0].headers["authorization"], "Bearer operator");
}

/// A body in memory is always ready.
#[tokio::test(start_paused = true)]
async fn a_body_of_empty_frames_does_not_keep_its_thread() {
    let polls = Arc::new(AtomicUsize::new(0));
    let counted = polls.clone();
    let body = StreamBody::new(futures_util::stream::poll_fn(move |_| {
        counted.fetch_add(1, SeqCst);
        Poll::Ready(Some(Ok::<_, Infallible>(Frame::data(Bytes::new()))))
    }));
    let layer = FallbackLayer::new(Upstream::new([])).rewrite(|request| request);
    let service = layer.layer(Upstream::new([Answer::status(503).unread()]));
    let mut call = std::pin::pin!(service.oneshot(Request::post("/").body(body).unwrap()));
    for _ in 0..50 {
        assert!(poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!((256..=50 * 257).contains(&polls.load(SeqCst)), "{polls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_primary_can_be_reached_through_the_layer() {
    let mut service = FallbackLayer::new(Upstream::new([])).layer(Upstream::new([]));
    assert_eq!(service.get_ref().clones(), 1);
    assert_eq!(service.get_mut().clones(), 1);
    assert_eq!(service.into_inner().clones(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_goes_elsewhere_when_attempts_are_spent() {
    let (primary, backup) = (Upstream::new((0..3).map(|_| Answer::status(503))), Upstream::new([ok()]));
    let retry = RetryAfterBackoffLayer::llm().backoff_base(secs(1)).jitter(Jitter::None);
    let service = ServiceBuilder::new().layer(FallbackLayer::new(backup.clone())).layer(retry).service(primary.clone());
    let response = service.oneshot(request("POST", hello())).await.unwrap();
    assert_eq!(text(response).await, "backup");
    assert_eq!(primary.times(), [0.0, 1.0, 3.0]);
    assert!(backup.seen()[0].headers.is_empty(), "the primary's key is not the backup's");
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_costs_one_first_byte_timeout() {
    let (primary, backup) = (Upstream::new([Answer::never()]), Upstream::new([ok()]));
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(backup.clone()))
        .layer(RetryAfterBackoffLayer::llm())
        .layer(FirstByteTimeoutLayer::new(secs(20)))
        .service(primary.clone());
    let response = service.oneshot(authenticated(request("POST", hello()))).await.unwrap();
    assert_eq!(ServedBy::of(&response), Some("backup"));
    assert_eq!(primary.seen().len(), 1);
    assert_eq!(backup.times(), [20.0]);
}

#[tokio::test(start_paused = true)]
async fn refusals_as_errors_below_are_refusals_all_the_same() {
    let broken = Answer::status(502).with(Rejection::new(RejectionKind::BodyFailed));
    let primary = RejectionsAsErrorsLayer::new().layer(Upstream::new([broken]));
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(Upstream::new([ok()])))
        .map_err(tower_buttress::error::BoxedError::new)
        .service(primary);
    assert_eq!(ServedBy::of(&service.oneshot(request("POST", hello())).await.unwrap()), Some("backup"));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_of_ones_own_decides() {
    let strict = |outcome: &Outcome<'_>| match outcome.cause() {
        Some(_) => Verdict::new(NextStep::GiveUp, Health::Failure),
        None => Standard::new().classify(outcome),
    };
    let layer = FallbackLayer::new(Upstream::new([])).classifier(strict);
    let service = layer.layer(Upstream::new([Answer::fails(ErrorKind::ConnectionReset)]));
    assert!(service.oneshot(request("POST", hello())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_classifier_sees_the_request() {
    // Of this one path, a 404 means that the upstream does not know the model yet.
    let by_path = |outcome: &Outcome<'_>| {
        let path = outcome.request().map(|request| request.uri.path());
        match (outcome.status(), path) {
            (Some(StatusCode::NOT_FOUND), Some("/v1/chat")) => {
                Verdict::new(NextStep::retry(None), Health::Ignored).with_matter(Matter::Upstream)
            }
            _ => Standard::new().classify(outcome),
        }
    };
    let (primary, backup) = (Upstream::new((0..2).map(|_| Answer::status(404))), Upstream::new([ok()]));
    let service = ServiceBuilder::new()
        .layer(FallbackLayer::new(backup).classifier(by_path))
        .layer(RetryAfterBackoffLayer::llm().attempts(2).classifier(by_path))
        .service(primary.clone());
    let response = service.oneshot(request("POST", hello())).await.unwrap();
    assert_eq!((ServedBy::of(&response), primary.seen().len()), (Some("backup"), 2));
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_goes_nowhere_else() {
    let known = || request("POST", hello());
    let streamed = || request("POST", hello()).map(Script::unsized_);
    for (request, answer) in [
        (known(), Answer::status(503)),
        (streamed(), Answer::status(503)),
        // Found out while it is read for the rewrite.
        (streamed(), Answer::status(503).unread()),
    ] {
        let log = Arc::new(Log::default());
        let layer = FallbackLayer::new(Upstream::new([])).replay_limit(4).observer(log.clone()).rewrite(|r| r);
        let response = layer.layer(Upstream::new([answer])).oneshot(request).await.unwrap();
        assert!(is(&response, 503));
        assert_eq!(text(response).await, "said");
        assert_eq!(log.names(), ["bypassed: fallback"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_fails_goes_nowhere_else() {
    for (answer, read) in [(Answer::status(200), true), (Answer::status(503).unread(), false)] {
        let log = Arc::new(Log::default());
        let layer = FallbackLayer::new(Upstream::new([])).observer(log.clone()).rewrite(|r| r);
        let body = [Step::Data("hel"), Step::Fail("the caller left")];
        let result = layer.layer(Upstream::new([answer])).oneshot(request("POST", body)).await;
        assert_eq!(result.is_err(), read);
        assert_eq!(log.names(), ["bypassed: fallback"]);
    }
}

#[tokio::test(start_paused = true)]
async fn off_it_passes_everything_through() {
    let service = FallbackLayer::<Upstream>::disabled().layer(Upstream::new([Answer::status(503)]));
    assert!(is(&service.oneshot(request("POST", hello())).await.unwrap(), 503));
    let service = FallbackLayer::new(Upstream::new([])).layer(Upstream::new([Answer::status(503)]));
    assert!(is(&service.oneshot(request("CONNECT", [])).await.unwrap(), 503));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_leaves_nothing_behind() {
    // While the primary is asked, while the request is read, while the backup gets ready, while it is asked.
    let stages: [(Answer, Step, Duration, Answer); 4] = [
        (Answer::never(), Step::Data(""), Duration::ZERO, ok()),
        (Answer::status(503).unread(), Step::Hang, Duration::ZERO, ok()),
        (Answer::status(503), Step::Data(""), secs(9), ok()),
        (Answer::status(503), Step::Data(""), Duration::ZERO, Answer::never()),
    ];
    for (n, (first, last, ready_after, second)) in stages.into_iter().enumerate() {
        let held = Script::new([Step::Data("busy")]);
        let answer_dropped = held.dropped();
        let (primary, backup) = (Upstream::new([first.body(held)]), Upstream::new([second]).ready_after(ready_after));
        let request = request("POST", [Step::Data("hello"), last]);
        let request_dropped = request.body().dropped();
        let service = FallbackLayer::new(backup.clone()).rewrite(|r| r).layer(primary.clone());
        assert!(tokio::time::timeout(secs(3), service.oneshot(request)).await.is_err(), "stage {n} is over");
        assert!(request_dropped(), "stage {n}");
        assert!(answer_dropped() || n == 0, "stage {n}");
        assert_eq!((primary.clones(), backup.clones()), (1, 1), "stage {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_primary_said_is_dropped_once_the_backup_serves() {
    let held = Script::new([Step::Data("busy"), Step::Hang]);
    let dropped = held.dropped();
    let service = FallbackLayer::new(Upstream::new([ok()])).layer(Upstream::new([Answer::status(503).body(held)]));
    let response: Response<_> = service.oneshot(request("POST", hello())).await.unwrap();
    assert!(dropped());
    drop(response);
}

#[test]
fn it_can_be_spawned_and_shared() {
    fn check<T: Send + Sync + 'static>(_: &T) {}
    fn future<F: Send + 'static>(_: &F) {}
    let layer = FallbackLayer::new(Upstream::new([]));
    let mut service = layer.layer(Upstream::new([]));
    check(&service);
    check(&layer);
    let _ = format!("{service:?} {layer:?} {:?}", service.clone());
    if false {
        future(&Service::call(&mut service, request("GET", [])));
    }
}
