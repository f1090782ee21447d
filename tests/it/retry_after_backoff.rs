//! What `RetryAfterBackoff` promises, under paused time.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderName, Request, Response};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::error::ConnectElapsed;
use tower_buttress::verdict::{Classify, Health, NextStep, Outcome, Standard, Verdict};
use tower_buttress::{
    Attempt, Attempts, CallBody, Deadline, Jitter, NoRetry, Rejection, RejectionKind, RetryAfterBackoffLayer,
    RetryBudget, RetryReport,
};

use crate::support::upstream::{Answer, Upstream, is, request, text};
use crate::support::{Log, Script, Step, secs, trailers};

/// Waits of one second, two, four ..
fn steady() -> RetryAfterBackoffLayer {
    RetryAfterBackoffLayer::new().backoff_base(secs(1)).jitter(Jitter::None)
}

fn hello() -> [Step; 2] {
    [Step::Data("hel"), Step::Data("lo")]
}

async fn send(layer: &RetryAfterBackoffLayer, upstream: &Upstream, request: Request<Script>) -> Response<Script> {
    layer.layer(upstream.clone()).oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_succeeds_at_once_is_left_alone() {
    let upstream = Upstream::new([Answer::status(200)]);
    let response = send(&steady(), &upstream, request("POST", hello())).await;
    assert!(is(&response, 200));
    assert_eq!(Attempts::of(&response), Attempts(1));
    assert!(response.extensions().is_empty());
    assert_eq!(text(response).await, "said");
    assert_eq!(upstream.seen()[0].data, "hello");
}

#[tokio::test(start_paused = true)]
async fn every_attempt_sends_the_same_request() {
    let upstream = Upstream::new([Answer::status(503), Answer::fails(ErrorKind::ConnectionReset), Answer::status(200)]);
    let mut request = request("PUT", hello().into_iter().chain([Step::Trailers]));
    request.headers_mut().insert("content-length", 5.into());
    let response = send(&steady(), &upstream, request).await;
    assert!(is(&response, 200));
    assert_eq!(Attempts::of(&response), Attempts(3));
    for (seen, attempt) in upstream.seen().iter().zip(1..) {
        assert_eq!(seen.attempt, Attempt(attempt));
        assert_eq!(seen.data, "hello");
        assert_eq!(seen.trailers, Some(trailers()));
        assert_eq!(seen.length, Some(5));
        assert_eq!(seen.headers.len(), 1);
        assert_eq!(seen.uri, "http://upstream/v1/chat");
    }
    assert_eq!(upstream.times(), [0.0, 1.0, 3.0]);
}

#[tokio::test(start_paused = true)]
async fn a_429_is_asked_again_when_it_said_and_not_before() {
    for seed in 0..20 {
        let upstream = Upstream::new([Answer::status(429).header("retry-after", "2"), Answer::status(200)]);
        let layer = RetryAfterBackoffLayer::new().seed(seed);
        assert!(is(&send(&layer, &upstream, request("POST", hello())).await, 200));
        let again = upstream.times()[1];
        assert!((2.0..=3.0).contains(&again), "{again}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_date_counts_from_the_servers_own_clock() {
    let date = |seconds| format!("Fri, 20 Nov 2026 12:00:{seconds:02} GMT");
    let busy = Answer::status(503).header("date", &date(10)).header("retry-after", &date(20));
    let upstream = Upstream::new([busy, Answer::status(200)]);
    send(&steady(), &upstream, request("GET", [])).await;
    assert!((10.0..=15.0).contains(&upstream.times()[1]));
}

#[tokio::test(start_paused = true)]
async fn at_once_is_not_at_once() {
    let upstream = Upstream::new([Answer::status(429).header("retry-after", "0"), Answer::status(200)]);
    send(&steady(), &upstream, request("POST", hello())).await;
    assert_eq!(upstream.times(), [0.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_long_is_the_callers_to_know_at_once() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::new([Answer::status(429).header("retry-after", "61")]);
    let response = send(&steady().observer(log.clone()), &upstream, request("POST", hello())).await;
    assert!(is(&response, 429));
    assert_eq!(response.headers()["retry-after"], "61");
    assert_eq!(text(response).await, "said");
    assert_eq!(log.names(), ["not_retried: retry-after-too-long"]);

    let upstream = Upstream::new([Answer::status(429).header("retry-after", "61"), Answer::status(200)]);
    let patient = steady().max_retry_after(secs(120));
    assert!(is(&send(&patient, &upstream, request("POST", hello())).await, 200));
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_clock_is_not_over_at_once() {
    let endless = Answer::status(429).header("retry-after", &u64::MAX.to_string());
    let upstream = Upstream::new([endless]);
    let patient = steady().max_retry_after(Duration::MAX);
    let call = patient.layer(upstream.clone()).oneshot(request("GET", []));
    assert!(tokio::time::timeout(secs(1_000_000_000), call).await.is_err());
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_beyond_the_deadline() {
    for (answer, deadline, calls) in [
        (Answer::status(429).header("retry-after", "5"), 5, 1),
        (Answer::status(429).header("retry-after", "5"), 9, 2),
        (Answer::status(503), 1, 1),
        (Answer::status(503), 2, 2),
    ] {
        let (log, start) = (Arc::new(Log::default()), Instant::now());
        let upstream = Upstream::new([answer, Answer::status(200)]);
        let mut request = request("PUT", hello());
        request.extensions_mut().insert(Deadline::at(start + secs(deadline)));
        let response = send(&steady().observer(log.clone()), &upstream, request).await;
        assert_eq!(upstream.seen().len(), calls, "deadline {deadline}");
        if calls == 1 {
            assert!(!is(&response, 200));
            assert_eq!(text(response).await, "said");
            assert_eq!(start.elapsed(), secs(0));
            assert_eq!(log.names(), ["not_retried: deadline"]);
        }
        assert!(start.elapsed() < secs(deadline));
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_answer_is_returned_as_it_came() {
    let log = Arc::new(Log::default());
    let last = Answer::status(503).header("x-last", "yes").body(Script::new([Step::Data("down"), Step::Trailers]));
    let upstream = Upstream::new([Answer::status(500), Answer::status(502), last]);
    let layer = steady().observer(log.clone());
    let response = send(&layer, &upstream, request("GET", [])).await;
    assert!(is(&response, 503));
    assert_eq!(Attempts::of(&response), Attempts(3));
    assert_eq!(response.headers()["x-last"], "yes");
    assert_eq!(response.headers().len(), 1);
    assert_eq!(text(response).await, "down");
    let retry = "retry_scheduled: retry-after-backoff";
    assert_eq!(log.names(), [retry, retry, "not_retried: attempts-spent"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_returned_as_it_came() {
    let refused = || Answer::fails(ErrorKind::ConnectionRefused);
    let upstream = Upstream::new([refused(), refused(), Answer::fails(ErrorKind::ConnectionReset)]);
    let layer = steady().retry_non_idempotent(true);
    let err = layer.layer(upstream.clone()).oneshot(request("POST", hello())).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn what_no_retry_can_help_is_not_retried() {
    for status in [400, 401, 404, 422, 501] {
        let upstream = Upstream::new([Answer::status(status)]);
        let response = send(&RetryAfterBackoffLayer::llm(), &upstream, request("GET", [])).await;
        assert!(is(&response, status));
        assert!(response.headers().is_empty(), "and says nothing of retries");
    }
}

#[tokio::test(start_paused = true)]
async fn the_server_may_ask_for_a_retry_or_for_none() {
    let upstream = Upstream::new([Answer::status(503).header("x-should-retry", "false")]);
    assert!(is(&send(&steady(), &upstream, request("GET", [])).await, 503));
    let upstream = Upstream::new([Answer::status(400).header("x-should-retry", "true"), Answer::status(200)]);
    assert!(is(&send(&steady(), &upstream, request("GET", [])).await, 200));
}

#[tokio::test(start_paused = true)]
async fn a_post_that_may_have_been_done_is_not_done_twice() {
    let may_have_been_done: [fn() -> Answer; 6] = [
        || Answer::status(500),
        || Answer::status(502),
        // Envoy's, when the upstream's connection ended after it had the request.
        || Answer::status(503),
        || Answer::status(504),
        || Answer::status(529),
        || Answer::fails(ErrorKind::ConnectionReset),
    ];
    let surely_not = [
        || Answer::status(429),
        || Answer::status(503).header("retry-after", "1"),
        || Answer::status(425),
        || Answer::fails(ErrorKind::ConnectionRefused),
    ];
    let calls = async |layer: RetryAfterBackoffLayer, answer: Answer, request: Request<Script>| {
        let upstream = Upstream::new([answer, Answer::status(200)]);
        let _ = layer.layer(upstream.clone()).oneshot(request).await;
        upstream.seen().len()
    };
    let keyed = || {
        let mut request = request("POST", hello());
        request.headers_mut().insert("idempotency-key", "8e03978e".parse().unwrap());
        request
    };
    for answer in may_have_been_done {
        assert_eq!(calls(steady(), answer(), request("POST", hello())).await, 1);
        assert_eq!(calls(steady(), answer(), request("PATCH", hello())).await, 1);
        assert_eq!(calls(steady(), answer(), keyed()).await, 2);
        assert_eq!(calls(steady(), answer(), request("DELETE", [])).await, 2);
        assert_eq!(calls(steady().retry_non_idempotent(true), answer(), request("POST", hello())).await, 2);
        assert_eq!(calls(RetryAfterBackoffLayer::llm(), answer(), request("POST", hello())).await, 2);
    }
    for answer in surely_not {
        assert_eq!(calls(steady(), answer(), request("POST", hello())).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_refusals_are_judged_as_what_they_are() {
    let refused = |kind| Answer::status(504).with(Rejection::new(kind));
    for kind in [RejectionKind::FirstByteTimeout, RejectionKind::DeadlineExceeded] {
        let upstream = Upstream::new([refused(kind)]);
        assert!(is(&send(&steady(), &upstream, request("GET", [])).await, 504));
    }
    let upstream = Upstream::new([refused(RejectionKind::BodyFailed), Answer::status(200)]);
    assert!(is(&send(&steady(), &upstream, request("GET", [])).await, 200));
    let upstream = Upstream::new([refused(RejectionKind::FirstByteTimeout), Answer::status(200)]);
    let stubborn = steady().classifier(Standard::new().retry_first_byte_timeout(true));
    assert!(is(&send(&stubborn, &upstream, request("GET", [])).await, 200));
}

#[tokio::test(start_paused = true)]
async fn a_classifier_of_ones_own_decides() {
    let teapots = |outcome: &Outcome<'_>| match outcome.status() {
        Some(http::StatusCode::IM_A_TEAPOT) => {
            Verdict::new(NextStep::retry(Some(secs(7).into())), Health::Failure).not_executed()
        }
        _ => Standard::new().classify(outcome),
    };
    let upstream = Upstream::new([Answer::status(418), Answer::status(200)]);
    assert!(is(&send(&steady().classifier(teapots), &upstream, request("POST", hello())).await, 200));
    assert!(upstream.times()[1] >= 7.0);
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_returns_the_answer_at_once() {
    let (log, start) = (Arc::new(Log::default()), Instant::now());
    let layer = steady().budget(RetryBudget::new(100, 0, secs(10))).observer(log.clone());
    let upstream = Upstream::new([Answer::status(503), Answer::status(500)]);
    // One call pays for one retry.
    let response = send(&layer, &upstream, request("GET", [])).await;
    assert!(is(&response, 500));
    assert_eq!(start.elapsed(), secs(1));
    assert_eq!(text(response).await, "said");
    assert_eq!(log.names()[1], "not_retried: budget");
}

#[tokio::test(start_paused = true)]
async fn layers_share_a_budget_if_they_are_given_one() {
    let budget = RetryBudget::new(100, 0, secs(10));
    let (one, other) = (steady().budget(budget.clone()), steady().budget(budget));
    let upstream = Upstream::new([Answer::status(200), Answer::status(503), Answer::status(503), Answer::status(503)]);
    send(&one, &upstream, request("GET", [])).await;
    // Two calls were paid in: two retries are paid for.
    assert!(is(&send(&other, &upstream, request("GET", [])).await, 503));
    assert_eq!(upstream.seen().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_budget() {
    let layer = steady().budget(RetryBudget::new(100, 0, secs(10)));
    let upstream = Upstream::new([Answer::status(200), Answer::status(503), Answer::status(503), Answer::status(503)]);
    for _ in 0..2 {
        let _ = layer.layer(upstream.clone()).oneshot(request("GET", [])).await;
    }
    assert_eq!(upstream.seen().len(), 4);
}

/// tower's `ExponentialBackoffMaker` fails this: it clones its generator into each session.
#[tokio::test(start_paused = true)]
async fn sessions_of_one_layer_do_not_come_back_in_step() {
    let layer = RetryAfterBackoffLayer::new();
    let upstreams: Vec<_> = (0..10).map(|_| Upstream::new([Answer::status(503), Answer::status(200)])).collect();
    let service = layer.layer(upstreams[0].clone());
    let calls = upstreams.iter().map(|upstream| layer.layer(upstream.clone()).oneshot(request("GET", [])));
    join_all(calls).await;
    let mut waits: Vec<_> = upstreams.iter().map(|upstream| upstream.seen()[1].at).collect();
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 8, "{waits:?}");
    drop(service);
}

#[tokio::test(start_paused = true)]
async fn a_call_can_ask_not_to_be_retried() {
    let upstream = Upstream::new([Answer::status(503)]);
    let mut request = request("GET", hello());
    request.extensions_mut().insert(NoRetry);
    assert!(is(&send(&RetryAfterBackoffLayer::llm(), &upstream, request).await, 503));
    assert!(upstream.seen()[0].headers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn off_and_one_attempt_pass_everything_through() {
    for layer in [
        RetryAfterBackoffLayer::disabled(),
        RetryAfterBackoffLayer::disabled().attempts(9),
        RetryAfterBackoffLayer::llm().attempts(1),
    ] {
        let log = Arc::new(Log::default());
        let upstream = Upstream::new([Answer::status(503)]);
        let body = hello().into_iter().chain([Step::Trailers]);
        let response = send(&layer.observer(log.clone()), &upstream, request("POST", body)).await;
        assert!(is(&response, 503));
        assert!(response.headers().is_empty());
        assert_eq!(upstream.seen()[0].data, "hello");
        assert_eq!(upstream.seen()[0].length, Some(5));
        assert_eq!(upstream.seen()[0].trailers, Some(trailers()));
        assert!(log.names().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_stands_and_a_tunnel_is_not_touched() {
    let upgrade = || {
        let mut request = request("GET", []);
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        request
    };
    let upstream = Upstream::new([Answer::status(503), Answer::status(101)]);
    assert!(is(&send(&steady(), &upstream, upgrade()).await, 101));
    assert_eq!(upstream.seen()[1].headers["upgrade"], "websocket");
    let upstream = Upstream::new([Answer::status(503)]);
    assert!(is(&send(&steady(), &upstream, request("CONNECT", [])).await, 503));
}

#[tokio::test(start_paused = true)]
async fn a_body_over_the_limit_is_sent_once() {
    // Known from the start, and found out while it streams.
    let known = request("PUT", hello());
    let streamed = request("PUT", [Step::Data("hel"), Step::Wait(secs(1)), Step::Data("lo")]).map(Script::unsized_);
    for (request, event) in [(known, "bypassed: retry-after-backoff"), (streamed, "not_retried: body-too-large")] {
        let log = Arc::new(Log::default());
        let upstream = Upstream::new([Answer::status(503)]);
        let layer = steady().replay_limit(4).observer(log.clone());
        assert!(is(&send(&layer, &upstream, request).await, 503));
        assert_eq!(upstream.seen()[0].data, "hello");
        assert_eq!(log.names(), [event]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_answer_to_half_a_request_is_not_retried() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::new([Answer::status(503).early()]);
    let layer = steady().observer(log.clone());
    assert!(is(&send(&layer, &upstream, request("PUT", hello())).await, 503));
    assert_eq!(log.names(), ["not_retried: body-cut-short"]);
}

#[tokio::test(start_paused = true)]
async fn an_unread_body_can_still_be_sent() {
    let upstream = Upstream::new([Answer::status(503).unread(), Answer::status(200)]);
    assert!(is(&send(&steady(), &upstream, request("PUT", hello())).await, 200));
    assert_eq!(upstream.seen()[1].data, "hello");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_broke_in_the_middle_of_the_request_is_tried_again() {
    let slow = || [Step::Data("hel"), Step::Wait(secs(1)), Step::Data("lo")];
    let upstream = Upstream::new([Answer::fails(ErrorKind::ConnectionReset).early(), Answer::status(200)]);
    assert!(is(&send(&steady(), &upstream, request("PUT", slow())).await, 200));
    assert_eq!(upstream.seen()[1].data, "hello");
}

/// As a pooled connection does that has not noticed yet that no caller waits for its answer.
#[tokio::test(start_paused = true)]
async fn a_connection_that_reads_on_while_the_call_waits_spoils_nothing() {
    let body = || {
        let parts = ["hel", "lo, ", "wor", "ld"].map(|part| [Step::Data(part), Step::Wait(Duration::from_millis(300))]);
        Script::new(parts.into_iter().flatten()).unsized_()
    };
    for limit in [4, 1024] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let upstream = service_fn(|request: Request<CallBody>| {
            let (first, seen) = (Attempt::of(&request) == Attempt(1), seen.clone());
            let mut body = request.into_body();
            async move {
                if first {
                    body.frame().await.unwrap().unwrap();
                    tokio::spawn(body.collect());
                    return Err(io::Error::from(ErrorKind::TimedOut));
                }
                let sent = body.collect().await.unwrap().to_bytes();
                seen.lock().unwrap().push(sent);
                Ok(Response::new(Script::new([])))
            }
        });
        let service = steady().replay_limit(limit).layer(upstream);
        service.oneshot(Request::put("/").body(body()).unwrap()).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["hello, world"], "{limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_own_body_fails_is_not_sent_again() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::new([Answer::status(200)]);
    let service = steady().observer(log.clone()).layer(upstream.clone());
    let body = [Step::Data("hel"), Step::Fail("the caller left")];
    assert!(service.oneshot(request("PUT", body)).await.is_err());
    assert_eq!(upstream.seen()[0].failed.as_deref(), Some("the caller left"));
    assert_eq!(log.names(), ["not_retried: body-failed"]);
}

#[tokio::test(start_paused = true)]
async fn one_key_serves_all_attempts_of_a_call() {
    let layer = steady().generate_idempotency_key(true);
    let keys = async |request: Request<Script>| {
        let upstream = Upstream::new([Answer::status(500), Answer::status(500), Answer::status(200)]);
        assert!(is(&send(&layer, &upstream, request).await, 200));
        let keys = upstream.seen().into_iter().map(|seen| seen.headers.get("idempotency-key").cloned());
        keys.collect::<Vec<_>>()
    };
    let generated = keys(request("POST", hello())).await;
    assert!(generated[0].is_some());
    assert!(generated.iter().all(|key| *key == generated[0]));
    assert_ne!(keys(request("POST", hello())).await, generated);

    let mut own = request("POST", hello());
    own.headers_mut().insert("idempotency-key", "mine".parse().unwrap());
    assert!(keys(own).await.iter().flatten().all(|key| key == "mine"));
    assert_eq!(keys(request("GET", [])).await, [None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_key_is_none() {
    let without = || {
        let mut request = request("POST", hello());
        request.headers_mut().insert("idempotency-key", "".parse().unwrap());
        request
    };
    let upstream = Upstream::new([Answer::status(500)]);
    assert!(is(&send(&steady(), &upstream, without()).await, 500));
    let upstream = Upstream::new([Answer::status(500), Answer::status(200)]);
    assert!(is(&send(&steady().generate_idempotency_key(true), &upstream, without()).await, 200));
    assert!(upstream.seen().iter().all(|seen| !seen.headers["idempotency-key"].is_empty()));
}

#[tokio::test(start_paused = true)]
async fn attempts_can_be_counted_on_the_wire() {
    let layer = steady().attempt_header(HeaderName::from_static("x-attempt"));
    let upstream = Upstream::new([Answer::status(503), Answer::status(503), Answer::status(200)]);
    let mut request = request("GET", []);
    request.headers_mut().insert("x-attempt", "the caller's".parse().unwrap());
    send(&layer, &upstream, request).await;
    let counted = upstream.seen().into_iter().map(|seen| seen.headers["x-attempt"].clone());
    assert_eq!(counted.collect::<Vec<_>>(), ["1", "2", "3"]);
}

/// What the upstream and the layers below answer, one after the other.
type End = fn(&dyn Fn(u16, RejectionKind) -> Answer) -> Vec<Answer>;

/// Three attempts of an SDK times three of ours would be nine.
#[tokio::test(start_paused = true)]
async fn every_answer_that_ends_the_attempts_tells_the_caller_not_to_try_again() {
    let refused = |status, kind| Answer::status(status).with(Rejection::new(kind));
    let ends: [End; 8] = [
        |_| vec![Answer::status(503), Answer::status(500)],
        // Refusals from below, on the first attempt and after a retry.
        |refused| vec![refused(504, RejectionKind::FirstByteTimeout)],
        |refused| vec![Answer::status(503), refused(504, RejectionKind::FirstByteTimeout)],
        |refused| vec![Answer::status(503), refused(502, RejectionKind::BodyFailed)],
        |refused| vec![Answer::status(503), refused(503, RejectionKind::CircuitOpen)],
        // A wait that is longer than SDKs obey: they would come back early.
        |_| vec![Answer::status(429).header("retry-after", "36000")],
        |_| vec![Answer::fails(ErrorKind::ConnectionReset), Answer::status(429).header("retry-after", "90")],
        |_| vec![Answer::status(503).header("x-should-retry", "false")],
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let answers = end(&refused);
        let attempts = u32::try_from(answers.len()).unwrap();
        let layer = steady().mark_exhausted(true).attempts(2);
        let response = send(&layer, &Upstream::new(answers), request("GET", [])).await;
        assert_eq!(response.headers()["x-should-retry"], "false", "{n}");
        assert_eq!(Attempts::of(&response), Attempts(attempts), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_which_the_caller_may_do_better_says_nothing_of_retries() {
    let layer = steady().mark_exhausted(true).attempts(2);
    for answer in [
        Answer::status(429).header("retry-after", "90"),
        Answer::status(404),
        Answer::status(401),
        Answer::status(503).header("retry-after", "5").with(Rejection::new(RejectionKind::CircuitOpen)),
    ] {
        let response = send(&layer, &Upstream::new([answer]), request("GET", [])).await;
        assert!(!response.headers().contains_key("x-should-retry"), "{}", response.status());
    }
    let post = send(&layer, &Upstream::new([Answer::status(500)]), request("POST", hello())).await;
    assert!(!post.headers().contains_key("x-should-retry"), "it may know that this can be done twice");
    let served = Upstream::new([Answer::status(503), Answer::status(200)]);
    let response = send(&layer, &served, request("GET", [])).await;
    assert_eq!(Attempts::of(&response), Attempts(2));
    assert!(!response.headers().contains_key("x-should-retry"));
}

/// A lost connection has no head on which anything could stand.
#[tokio::test(start_paused = true)]
async fn a_call_that_ends_in_an_error_is_reported_beside_it() {
    let report = RetryReport::new();
    let reported = |answers: Vec<Answer>| {
        let mut request = request("GET", []);
        request.extensions_mut().insert(report.clone());
        steady().attempts(2).layer(Upstream::new(answers)).oneshot(request)
    };
    let reset = || Answer::fails(ErrorKind::ConnectionReset);
    assert_eq!(report.attempts(), 0);
    reported(vec![reset(), reset()]).await.unwrap_err();
    assert_eq!((report.attempts(), report.is_final()), (2, true));
    reported(vec![reset(), Answer::status(200)]).await.unwrap();
    assert_eq!((report.attempts(), report.is_final()), (2, false));
    let call = reported(vec![reset(), Answer::never()]);
    assert!(tokio::time::timeout(secs(9), call).await.is_err());
    assert_eq!(report.attempts(), 2, "a call that was given up says how far it came");

    let timed_out = service_fn(|_: Request<_>| async {
        Err::<Response<Script>, _>(io::Error::other(ConnectElapsed::new(secs(5))))
    });
    let mut request = request("GET", []);
    request.extensions_mut().insert(report.clone());
    steady().layer(timed_out).oneshot(request).await.unwrap_err();
    assert_eq!((report.attempts(), report.is_final()), (1, true));
}

#[tokio::test(start_paused = true)]
async fn the_reason_for_no_retry_is_reported_where_another_upstream_is_needed() {
    for (answer, reason) in [
        (Answer::status(401), "not_retried: other-upstream-needed"),
        (
            Answer::status(504).with(Rejection::new(RejectionKind::FirstByteTimeout)),
            "not_retried: other-upstream-needed",
        ),
        (Answer::status(503).header("x-should-retry", "false"), "not_retried: forbidden"),
    ] {
        let log = Arc::new(Log::default());
        send(&steady().observer(log.clone()), &Upstream::new([answer]), request("GET", [])).await;
        assert_eq!(log.names(), [reason]);
    }
}

#[tokio::test(start_paused = true)]
async fn no_attempt_starts_after_the_time_for_all_of_them() {
    let log = Arc::new(Log::default());
    let upstream = Upstream::new([Answer::status(503).after(secs(2)), Answer::status(503).after(secs(3))]);
    let layer = steady().max_elapsed(secs(7)).observer(log.clone());
    // Attempts begin at 0 and 3 s; a third would at 8 s.
    assert!(is(&send(&layer, &upstream, request("GET", [])).await, 503));
    assert_eq!(upstream.times(), [0.0, 3.0]);
    assert_eq!(log.names()[1], "not_retried: max-elapsed");
}

#[tokio::test(start_paused = true)]
async fn a_date_with_a_wrong_weekday_is_obeyed() {
    let busy = Answer::status(503)
        .header("date", "Fri, 20 Nov 2026 12:00:50 GMT")
        .header("retry-after", "Mon, 20 Nov 2026 12:00:60 GMT");
    let upstream = Upstream::new([busy, Answer::status(200)]);
    send(&steady(), &upstream, request("GET", [])).await;
    assert!((10.0..=15.0).contains(&upstream.times()[1]));
}

#[tokio::test(start_paused = true)]
async fn a_service_can_be_reached_through_the_layer() {
    let mut service = steady().layer(Upstream::new([]));
    assert_eq!(service.get_ref().clones(), 1);
    assert_eq!(service.get_mut().clones(), 1);
    assert_eq!(service.into_inner().clones(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_inner_layer_counts_its_own_attempts() {
    let upstream = Upstream::new([Answer::status(503), Answer::status(503), Answer::status(503), Answer::status(200)]);
    let layer = steady().attempts(2);
    let service = ServiceBuilder::new().layer(layer.clone()).layer(layer).service(upstream.clone());
    service.oneshot(request("GET", [])).await.unwrap();
    let counted: Vec<_> = upstream.seen().into_iter().map(|seen| seen.attempt.0).collect();
    assert_eq!(counted, [1, 2, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_waits_for_a_service_that_is_ready() {
    // `Upstream` panics where it is called on a clone that was not polled ready.
    let upstream = Upstream::new([Answer::status(503), Answer::status(503), Answer::status(200)]).ready_after(secs(5));
    assert!(is(&send(&steady(), &upstream, request("GET", [])).await, 200));
    assert_eq!(upstream.times(), [5.0, 11.0, 18.0]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_breaks_before_the_next_attempt_ends_the_call() {
    let upstream = Upstream::new([Answer::status(503)]).ready_fails_after(1, ErrorKind::NotConnected);
    let err = steady().layer(upstream.clone()).oneshot(request("GET", [])).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotConnected);
}

#[tokio::test(start_paused = true)]
async fn a_service_can_be_used_for_many_calls() {
    let upstream = Upstream::new((0..6).map(|n| Answer::status(if n % 2 == 0 { 503 } else { 200 })));
    let mut service = steady().layer(upstream.clone());
    for _ in 0..3 {
        let response = ServiceExt::<Request<Script>>::ready(&mut service).await.unwrap();
        let response = response.call(request("GET", [])).await.unwrap();
        assert!(is(&response, 200));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_is_read_while_waiting_and_no_longer() {
    let busy = || Answer::status(503).header("retry-after", "30");
    // What comes in time is read to its end ..
    let in_time = || Script::new([Step::Wait(Duration::from_millis(900)), Step::Data("busy")]);
    // .. what does not is dropped when the next attempt starts, or after a second ..
    let late = || Script::new([Step::Data("busy"), Step::Hang]);
    // .. and what is too much at once.
    let large = || Script::new(vec![Step::Data(LARGE); 70]);
    for (answer, body, dropped_after) in [
        (Answer::status(503), in_time(), 950),
        (Answer::status(503), late(), 1_005),
        (Answer::status(503), large(), 1),
        (busy(), in_time(), 950),
        (busy(), late(), 1_005),
    ] {
        let dropped = body.dropped();
        let upstream = Upstream::new([answer.body(body), Answer::never()]);
        let call = tokio::spawn(steady().layer(upstream).oneshot(request("GET", [])));
        let start = Instant::now();
        while !dropped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(!call.is_finished(), "nothing answers");
        }
        call.abort();
        let after = start.elapsed().as_millis();
        assert!(after <= dropped_after, "{after} ms");
    }
}

const LARGE: &str = match std::str::from_utf8(&[b'x'; 1024]) {
    Ok(text) => text,
    Err(_) => panic!(),
};

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_leaves_nothing_behind() {
    // In the attempt, in the wait, while the failed answer is read, while the service gets ready, in the next attempt.
    let stages: [(Vec<Answer>, Duration, Duration); 5] = [
        (vec![Answer::never()], Duration::ZERO, secs(3)),
        (vec![Answer::status(503)], Duration::ZERO, Duration::from_millis(500)),
        (vec![Answer::status(503).body(Script::new([Step::Hang]))], Duration::ZERO, Duration::from_millis(500)),
        (vec![Answer::status(503)], secs(5), secs(8)),
        (vec![Answer::status(503), Answer::never()], Duration::ZERO, secs(3)),
    ];
    for (n, (mut answers, ready_after, leaves_after)) in stages.into_iter().enumerate() {
        let body = Script::new([Step::Data("busy")]);
        let mut gone = vec![body.dropped()];
        if n == 1 {
            answers[0] = Answer::status(503).body(body);
        }
        let request = request("PUT", hello());
        gone.truncate(usize::from(n == 1));
        gone.push(request.body().dropped());
        let upstream = Upstream::new(answers).ready_after(ready_after);
        let call = steady().layer(upstream.clone()).oneshot(request);
        assert!(tokio::time::timeout(leaves_after, call).await.is_err(), "stage {n} is over");
        assert!(gone.iter().all(|gone| gone()), "stage {n}");
        assert_eq!(upstream.clones(), 1, "stage {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_after_the_head_drops_the_inner_body() {
    let body = Script::new([Step::Data("a"), Step::Hang]);
    let dropped = body.dropped();
    let upstream = Upstream::new([Answer::status(200).body(body)]);
    let response = send(&steady(), &upstream, request("GET", [])).await;
    assert!(!dropped());
    drop(response);
    assert!(dropped());
}

#[tokio::test(start_paused = true)]
async fn once_the_call_is_answered_its_request_is_kept_no_longer() {
    let request = request("PUT", hello());
    let dropped = request.body().dropped();
    let upstream = Upstream::new([Answer::status(200)]);
    let response = send(&steady(), &upstream, request).await;
    assert!(dropped());
    assert_eq!(upstream.clones(), 1);
    drop(response);
}

#[test]
fn it_can_be_spawned_and_shared() {
    fn check<T: Send + Sync + 'static>(_: &T) {}
    fn future<F: Send + 'static>(_: &F) {}
    let mut service = steady().layer(Upstream::new([]));
    check(&service);
    check(&steady());
    let _ = format!("{service:?} {:?}", steady());
    if false {
        future(&Service::call(&mut service, request("GET", [])));
    }
}
