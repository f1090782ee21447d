//! What a 429 does to the calls that come after it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures_util::future::join_all;
use tower::Layer;
use tower_buttress::verdict::{Classify, Health, NextStep, Outcome, Standard, Verdict};
use tower_buttress::{Deadline, Rate};

use super::*;
use crate::support::upstream::{Answer as Scripted, Upstream, request};
use crate::support::{Log, secs};

fn fails_at_first(headers: &'static [(&'static str, &'static str)]) -> impl Fn(usize) -> Answer + Clone {
    move |call| if call == 1 { answer(429, headers) } else { answer(200, &[]) }
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_all_callers_and_they_start_again_one_after_the_other() {
    let log = Arc::new(Log::default());
    let layer = PaceLayer::new().observer(log.clone());
    let calls = Calls::new();
    let service = layer.layer(upstream(&calls, fails_at_first(&[("retry-after", "20")])));
    assert_eq!(service.clone().oneshot(ask("a")).await.unwrap().status(), 429);
    assert_eq!(layer.stats().paused, Some(secs(20)));
    let waiting = join_all(["a", "b", "c"].map(|tenant| service.clone().oneshot(ask(tenant))));
    for answer in waiting.await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    // What was served before is not known: a second apart, and then somewhat faster.
    assert_eq!((calls.times(), calls.tenants()), (vec![0.0, 20.0, 21.0, 21.938], "aabc".to_owned()));
    // With no call before it, a call waits for nothing.
    tokio::time::sleep(secs(5)).await;
    let at_once = join_all(["a", "b", "c"].map(|tenant| service.clone().oneshot(ask(tenant))));
    at_once.await;
    assert_eq!(calls.times()[4..], [26.938; 3]);
    assert_eq!(log.names(), ["paused: pace"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_wait_is_refused_at_once_with_the_true_wait() {
    let log = Arc::new(Log::default());
    let layer = PaceLayer::new().observer(log.clone());
    let calls = Calls::new();
    let service = layer.layer(upstream(&calls, fails_at_first(&[("retry-after", "45")])));
    service.clone().oneshot(ask("a")).await.unwrap();
    let start = Instant::now();
    let refused = service.clone().oneshot(ask("b")).await.unwrap();
    assert_eq!((refused.status().as_u16(), kind(&refused)), (429, Some(RejectionKind::Paced)));
    assert_eq!((start.elapsed(), retry_after(&refused)), (secs(0), 45));

    tokio::time::sleep(secs(20)).await;
    let mut hurried = ask("b");
    hurried.extensions_mut().insert(Deadline::after(secs(24)).unwrap());
    assert_eq!(retry_after(&service.clone().oneshot(hurried).await.unwrap()), 25);
    assert_eq!(service.clone().oneshot(ask("b")).await.unwrap().status(), 200);
    assert_eq!(calls.times(), [0.0, 45.0]);
    assert_eq!(log.names(), ["paused: pace", "refused: paced", "refused: paced"]);

    let mut grpc = ask("a");
    grpc.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let layer = PaceLayer::new();
    let service = layer.layer(upstream(&calls, |_| answer(429, &[("retry-after", "50")])));
    service.clone().oneshot(ask("a")).await.unwrap();
    let refused = service.clone().oneshot(grpc).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "50000");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_begins_while_a_call_waits_is_its_wait_too() {
    let layer = PaceLayer::new().requests(Rate::per_minute(60)).max_wait(secs(15));
    let calls = Calls::new();
    let service = layer.layer(upstream(&calls, fails_at_first(&[("retry-after", "20")])));
    let (first, second) = tokio::join!(service.clone().oneshot(ask("a")), service.clone().oneshot(ask("b")));
    assert_eq!(first.unwrap().status(), 429);
    let second = second.unwrap();
    assert_eq!((kind(&second), retry_after(&second), calls.times().len()), (Some(RejectionKind::Paced), 20, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hint_of_a_day_pauses_for_a_minute_and_then_one_call_finds_out() {
    let layer = PaceLayer::new().max_wait(secs(300));
    let calls = Calls::new();
    let day = |call| if call <= 2 { answer(429, &[("retry-after", "86400")]) } else { answer(200, &[]) };
    let service = layer.layer(upstream(&calls, day));
    service.clone().oneshot(ask("a")).await.unwrap();
    let answers = join_all((0..4).map(|_| service.clone().oneshot(ask("b")))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.as_ref().unwrap().status().as_u16()).collect();
    // The first of them is the probe, and is refused.
    assert_eq!(statuses, [429, 200, 200, 200]);
    assert_eq!(calls.times(), [0.0, 60.0, 120.0, 121.0, 121.938]);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_meets_429s_without_a_hint_stops_no_other() {
    let layer = PaceLayer::new();
    let calls = Calls::new();
    let counted = calls.clone();
    let service = layer.layer(service_fn(move |request: Ask| {
        counted.begin(&request);
        let status = if Tenant::of(&request) == Some("bad") { 429 } else { 200 };
        async move { Ok::<_, Infallible>(answer(status, &[])) }
    }));
    for _ in 0..5 {
        assert_eq!(service.clone().oneshot(ask("bad")).await.unwrap().status(), 429);
        let start = Instant::now();
        assert_eq!(service.clone().oneshot(ask("good")).await.unwrap().status(), 200);
        assert_eq!(start.elapsed(), secs(0));
    }
    // It waits longer each time.
    let bad: Vec<f64> = calls.times().into_iter().step_by(2).collect();
    assert_eq!(bad, [0.0, 1.0, 3.0, 7.0, 15.0]);
}

#[tokio::test(start_paused = true)]
async fn two_tenants_that_meet_429s_without_a_hint_stop_all() {
    let layer = PaceLayer::new();
    let calls = Calls::new();
    let service = layer.layer(upstream(&calls, |call| answer(if call <= 2 { 429 } else { 200 }, &[])));
    service.clone().oneshot(ask("a")).await.unwrap();
    service.clone().oneshot(ask("b")).await.unwrap();
    assert_eq!(service.clone().oneshot(ask("c")).await.unwrap().status(), 200);
    assert_eq!(calls.times(), [0.0, 0.0, 1.0]);
}

#[tokio::test(start_paused = true)]
async fn the_reset_of_a_limit_of_which_nothing_is_left_is_a_hint() {
    let calls = Calls::new();
    let headers = &[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "7.66s")];
    let service = PaceLayer::new().layer(upstream(&calls, fails_at_first(headers)));
    service.clone().oneshot(ask("a")).await.unwrap();
    service.clone().oneshot(ask("b")).await.unwrap();
    assert_eq!(calls.times(), [0.0, 7.66]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_429_or_the_requests_own_matter_pauses_nothing() {
    // As for a request that is larger than the limit itself.
    let classifier = |outcome: &Outcome<'_>| {
        let verdict = Standard::new().classify(outcome);
        match outcome.headers().is_some_and(|headers| headers.contains_key("x-too-large")) {
            true => Verdict::new(NextStep::TryAnother, Health::Success),
            false => verdict,
        }
    };
    let calls = Calls::new();
    let service = PaceLayer::new().classifier(classifier).layer(upstream(&calls, |call| match call {
        1 => answer(429, &[("x-too-large", "1"), ("retry-after", "9")]),
        2 => answer(503, &[("retry-after", "9")]),
        3 => answer(402, &[("retry-after", "9")]),
        _ => answer(200, &[]),
    }));
    for _ in 0..4 {
        service.clone().oneshot(ask("a")).await.unwrap();
    }
    assert_eq!(calls.times(), [0.0; 4]);
}

/// As OpenAI says so: no wait helps a request that asks for more than the limit itself, nor an account that has nothing left.
#[cfg(feature = "llm")]
#[tokio::test(start_paused = true)]
async fn a_429_that_no_wait_helps_pauses_nothing() {
    const TOO_LARGE: &str = r#"{"error":{"message":"Request too large for gpt-5 on tokens per min (TPM): Limit 10, Requested 12. Try again in 9s.","code":"rate_limit_exceeded"}}"#;
    const SPENT: &str = r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
    const LIMITED: &str =
        r#"{"error":{"message":"Rate limit reached. Try again in 9s.","code":"rate_limit_exceeded"}}"#;
    let calls = Calls::new();
    let says = [TOO_LARGE, SPENT, LIMITED, "{}"];
    let upstream = upstream(&calls, move |call| {
        let mut answer = answer(if call < 4 { 429 } else { 200 }, &[("content-type", "application/json")]);
        *answer.body_mut() = Full::from(says[call - 1]);
        answer
    });
    let service = PaceLayer::new().layer(tower_buttress::StreamGuardLayer::new().layer(upstream));
    for _ in says {
        let mut request = ask("a");
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = "http://provider/v1/chat/completions".parse().unwrap();
        service.clone().oneshot(request).await.unwrap();
    }
    assert_eq!(calls.times(), [0.0, 0.0, 0.0, 9.0]);
}

#[tokio::test(start_paused = true)]
async fn keys_do_not_wait_for_each_other() {
    let layer = PaceLayer::new();
    let calls = Calls::new();
    let service = layer.layer(upstream(&calls, fails_at_first(&[("retry-after", "20")])));
    let with = |credential: &str| {
        let mut request = ask("a");
        request.headers_mut().insert("authorization", credential.parse().unwrap());
        request
    };
    service.clone().oneshot(with("Bearer one")).await.unwrap();
    service.clone().oneshot(with("Bearer two")).await.unwrap();
    service.clone().oneshot(with("Bearer one")).await.unwrap();
    assert_eq!(calls.times(), [0.0, 0.0, 20.0]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_off_pauses_nothing() {
    let calls = Calls::new();
    let service = PaceLayer::disabled().layer(upstream(&calls, |_| answer(429, &[("retry-after", "20")])));
    for _ in 0..3 {
        assert_eq!(service.clone().oneshot(ask("a")).await.unwrap().status(), 429);
    }
    let service =
        PaceLayer::new().max_pause(secs(0)).layer(upstream(&calls, |_| answer(429, &[("retry-after", "20")])));
    for _ in 0..3 {
        assert_eq!(service.clone().oneshot(ask("a")).await.unwrap().status(), 429);
    }
    assert_eq!(calls.times(), [0.0; 6]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_follows_a_classifier_that_reads_requests() {
    let of_batch = |outcome: &Outcome<'_>| match outcome.request() {
        Some(request) if request.uri.path() == "/batch" => {
            Verdict::new(NextStep::retry(Some(secs(20).into())), Health::Throttled)
        }
        _ => Verdict::new(NextStep::Done, Health::Success),
    };
    // With a rate and without.
    for layer in [PaceLayer::new(), PaceLayer::new().requests(Rate::per_minute(600))] {
        let calls = Calls::new();
        let answers = upstream(&calls, |_| answer(200, &[]));
        let service = layer.classifier(of_batch).layer(answers);
        for path in ["/chat", "/batch", "/chat"] {
            let mut request = ask("a");
            *request.uri_mut() = format!("http://upstream{path}").parse().unwrap();
            tokio::time::sleep(secs(1)).await;
            assert_eq!(service.clone().oneshot(request).await.unwrap().status(), 200);
        }
        assert_eq!(calls.times(), [1.0, 2.0, 22.0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_callers_follows_a_classifier_that_reads_requests() {
    // What failed before its batch began was not executed.
    let of_batch = |outcome: &Outcome<'_>| {
        let verdict = Verdict::new(NextStep::GiveUp, Health::Failure);
        let is_batch = outcome.request().is_some_and(|request| request.uri.path() == "/batch");
        if is_batch { verdict.not_executed() } else { verdict }
    };
    for (path, second) in [("/batch", None), ("/chat", Some(RejectionKind::Paced))] {
        let layer = PaceLayer::per_caller().requests(Rate::per_minute(1)).classifier(of_batch);
        let call = || {
            let service = layer.layer(Upstream::new([Scripted::fails(io::ErrorKind::Other)]));
            let mut request = request("POST", []);
            *request.uri_mut() = path.parse().unwrap();
            service.oneshot(request)
        };
        call().await.unwrap_err();
        assert_eq!(call().await.ok().and_then(|answer| kind(&answer)), second, "{path}");
    }
}

/// Else its 429 would pause all that have no limit of their own.
#[tokio::test(start_paused = true)]
async fn a_limit_is_not_forgotten_while_one_of_its_calls_is_under_way() {
    let layer = PaceLayer::new().max_keys(2).key(|parts| Some(Cow::Borrowed(parts.uri.path())));
    let service = layer.layer(service_fn(|request: Ask| async move {
        match request.uri().path() {
            "/slow" => tokio::time::sleep(Duration::from_secs(60)).await,
            "/throttled" => tokio::time::sleep(Duration::from_secs(1)).await,
            _ => {}
        }
        let is_throttled = request.uri().query() == Some("429");
        Ok::<_, Infallible>(if is_throttled { answer(429, &[("retry-after", "30")]) } else { answer(200, &[]) })
    }));
    let call = |uri: &'static str| {
        let request = Request::get(format!("http://upstream{uri}")).body(String::new()).unwrap();
        tokio::spawn(service.clone().oneshot(request))
    };
    call("/throttled").await.unwrap().unwrap();
    let _slow = call("/slow");
    let throttled = call("/throttled?429");
    tokio::task::yield_now().await;
    // There is no room for another.
    call("/new").await.unwrap().unwrap();
    assert_eq!(throttled.await.unwrap().unwrap().status(), 429);
    let (before, paused) = (Instant::now(), call("/throttled"));
    call("/other").await.unwrap().unwrap();
    assert_eq!(before.elapsed(), Duration::ZERO, "another limit is paused");
    paused.await.unwrap().unwrap();
    assert!(before.elapsed() >= Duration::from_secs(30), "the limit is not paused");
}

/// Else each of them would pass for a sample of many, and the callers would start again a hundred times as fast.
#[tokio::test(start_paused = true)]
async fn answers_that_come_after_a_429_are_counted_one_by_one() {
    let calls = Calls::new();
    let seen = calls.clone();
    let service = PaceLayer::new().layer(service_fn(move |request: Ask| {
        seen.begin(&request);
        let call = u32::try_from(seen.0.lock().unwrap().len()).unwrap();
        async move {
            if (2..22).contains(&call) {
                tokio::time::sleep(Duration::from_millis(50) * call).await;
            }
            let is_throttled = matches!(call, 2 | 23);
            Ok::<_, Infallible>(if is_throttled { answer(429, &[("retry-after", "1")]) } else { answer(200, &[]) })
        }
    }));
    service.clone().oneshot(ask("a")).await.unwrap();
    join_all((0..20).map(|_| service.clone().oneshot(ask("a")))).await;
    tokio::time::sleep(secs(5)).await;
    service.clone().oneshot(ask("a")).await.unwrap();
    tokio::time::sleep(secs(20)).await;
    assert_eq!(service.clone().oneshot(ask("a")).await.unwrap().status(), 429);
    join_all((0..3).map(|_| service.clone().oneshot(ask("a")))).await;
    let times = calls.times();
    assert_eq!(times.len(), 26);
    assert!(times[24] - times[23] >= 0.9, "{:?}", &times[22..]);
}

/// What the upstream answers to one call after the other, and after how many seconds; then 200 at once.
fn answers<const N: usize>(
    calls: &Calls,
    script: [(f64, Answer); N],
) -> impl Service<Ask, Response = Answer, Error = Infallible, Future: Future + Send> + Clone + Send + 'static {
    let (calls, script) = (calls.clone(), Arc::new(Mutex::new(VecDeque::from(script))));
    service_fn(move |request: Ask| {
        calls.begin(&request);
        let next = script.lock().unwrap().pop_front();
        async move {
            let (after, answer) = next.unwrap_or_else(|| (0.0, answer(200, &[])));
            tokio::time::sleep(Duration::from_secs_f64(after)).await;
            Ok(answer)
        }
    })
}

async fn sleep_ms(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_being_served_holds_the_others_for_two_seconds() {
    let calls = Calls::new();
    let day = (0.0, answer(429, &[("retry-after", "86400")]));
    let service = PaceLayer::new().layer(answers(&calls, [day, (40.0, answer(200, &[]))]));
    service.clone().oneshot(ask("a")).await.unwrap();
    tokio::time::sleep(secs(40)).await;
    let waiting = join_all((0..4).map(|_| service.clone().oneshot(ask("a"))));
    for answer in waiting.await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    // And then they start again one after the other.
    assert_eq!(calls.times(), [0.0, 60.0, 62.0, 63.0, 63.938]);
}

#[tokio::test(start_paused = true)]
async fn the_probe_of_one_tenant_holds_its_others_for_two_seconds() {
    let calls = Calls::new();
    let service = PaceLayer::new().layer(answers(&calls, [(0.0, answer(429, &[])), (40.0, answer(200, &[]))]));
    service.clone().oneshot(ask("a")).await.unwrap();
    let waiting = join_all((0..2).map(|_| service.clone().oneshot(ask("a"))));
    for answer in waiting.await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(calls.times(), [0.0, 1.0, 3.0]);
}

/// What a probe will say is not known: it may well say it before a caller's time is up.
#[tokio::test(start_paused = true)]
async fn a_call_that_can_wait_less_than_two_seconds_waits_for_a_probe() {
    let calls = Calls::new();
    let service = PaceLayer::new().layer(answers(&calls, [(0.0, answer(429, &[])), (0.1, answer(200, &[]))]));
    service.clone().oneshot(ask("a")).await.unwrap();
    sleep_ms(5_000).await;
    let hurried = || {
        let mut hurried = ask("a");
        hurried.extensions_mut().insert(Deadline::after(Duration::from_millis(1_500)).unwrap());
        service.clone().oneshot(hurried)
    };
    let (probe, behind) = tokio::join!(hurried(), hurried());
    assert_eq!((probe.unwrap().status(), behind.unwrap().status()), (http::StatusCode::OK, http::StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn when_the_first_of_a_paused_tenant_leaves_the_next_goes_in_time_and_holds_up_no_other() {
    let calls = Calls::new();
    let service = PaceLayer::new().layer(answers(&calls, [(0.0, answer(429, &[]))]));
    service.clone().oneshot(ask("a")).await.unwrap();
    let first = tokio::spawn(service.clone().oneshot(ask("a")));
    let second = tokio::spawn(service.clone().oneshot(ask("a")));
    sleep_ms(500).await;
    first.abort();
    sleep_ms(1_000).await;
    assert_eq!(service.clone().oneshot(ask("b")).await.unwrap().status(), 200);
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    assert_eq!((calls.times(), calls.tenants()), (vec![0.0, 1.0, 1.5], "aab".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn when_the_first_of_a_paused_tenant_cannot_wait_that_long_the_next_goes_in_time() {
    let calls = Calls::new();
    let service = PaceLayer::new().layer(answers(&calls, [(0.0, answer(429, &[])), (0.5, answer(429, &[]))]));
    service.clone().oneshot(ask("a")).await.unwrap();
    let probe = tokio::spawn(service.clone().oneshot(ask("a")));
    let mut hurried = ask("a");
    hurried.extensions_mut().insert(Deadline::after(secs(2)).unwrap());
    let hurried = tokio::spawn(service.clone().oneshot(hurried));
    let patient = tokio::spawn(service.clone().oneshot(ask("a")));
    // The probe is refused, too, and the pause becomes longer than the deadline is.
    assert_eq!(probe.await.unwrap().unwrap().status(), 429);
    assert_eq!(kind(&hurried.await.unwrap().unwrap()), Some(RejectionKind::Paced));
    assert_eq!(patient.await.unwrap().unwrap().status(), 200);
    assert_eq!(calls.times(), [0.0, 1.0, 3.5]);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_paused_while_it_waits_goes_when_its_pause_is_over() {
    let calls = Calls::new();
    let layer = PaceLayer::new().requests(Rate::per_second(1));
    let service = layer.layer(answers(&calls, [(0.5, answer(429, &[]))]));
    let waiting = ["a", "b", "a"].map(|tenant| tokio::spawn(service.clone().oneshot(ask(tenant))));
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    assert_eq!((calls.times(), calls.tenants()), (vec![0.0, 1.0, 2.0], "aba".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn all_that_cannot_wait_for_the_end_of_a_pause_are_refused_at_once_with_the_true_wait() {
    let start = Instant::now();
    let slow = service_fn(async |_: Ask| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok::<_, Infallible>(answer(429, &[("retry-after", "30")]))
    });
    let service = PaceLayer::new().requests(Rate::per_minute(60)).max_wait(secs(10)).layer(slow);
    let calls = (0..5).map(|_| service.clone().oneshot(ask("a")));
    for refused in join_all(calls).await.into_iter().skip(1) {
        let refused = refused.unwrap();
        assert_eq!((kind(&refused), start.elapsed().as_millis()), (Some(RejectionKind::Paced), 500));
        assert!((30..=34).contains(&retry_after(&refused)), "{}", retry_after(&refused));
    }
}

/// The others came later, and their turns came first.
#[tokio::test(start_paused = true)]
async fn one_that_is_not_the_first_in_line_when_its_time_is_over_is_told_the_true_wait() {
    let calls = Calls::new();
    let layer = PaceLayer::new().requests(Rate::new(1, secs(10))).max_wait(secs(25));
    let service = layer.layer(upstream(&calls, |_| answer(200, &[])));
    let call = |tenant: &str| tokio::spawn(service.clone().oneshot(ask(tenant)));
    let mut first: Vec<_> = (0..3).map(|_| call("a")).collect();
    tokio::time::sleep(secs(1)).await;
    let others = [call("b"), call("c")];
    let refused = first.pop().unwrap().await.unwrap().unwrap();
    assert_eq!(kind(&refused), Some(RejectionKind::Paced));
    assert!(retry_after(&refused) > 4, "{}", retry_after(&refused));
    drop(others);
}
