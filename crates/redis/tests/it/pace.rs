//! A 429 that one process met.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::store::Fingerprint;
use tower_buttress::{PaceLayer, PeerPause, Rate, Tenant};
use tower_buttress_redis::backend::{
    PauseBackend, PauseNews, Process as ProcessId, RateBackend, RateTurn, TakenRate, Token,
};
use tower_buttress_redis::{FleetPace, FleetPauses, Redis, RedisModel, RedisOptions};

use crate::support::Server;
use crate::support::proxy::Proxy;
use crate::support::slow::Slow;

type Body = Empty<bytes::Bytes>;

/// An upstream that all processes call, and that refuses all until an instant.
#[derive(Clone, Default)]
struct Upstream {
    refuses_until: Arc<Mutex<Option<Instant>>>,
    refused: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
    /// How long it takes to refuse a call.
    refuses_in: Duration,
}

type Process = BoxCloneSyncService<Request<Body>, StatusCode, Infallible>;

fn process<B: PauseBackend>(backend: B, upstream: &Upstream) -> Process {
    let layer = PaceLayer::new().share(Arc::new(FleetPauses::new(backend)));
    let upstream = upstream.clone();
    let calls = service_fn(move |_: Request<_>| {
        let upstream = upstream.clone();
        async move {
            let until = *upstream.refuses_until.lock().await;
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            let response = Response::builder();
            let response = if left.is_zero() {
                upstream.served.fetch_add(1, SeqCst);
                response
            } else {
                upstream.refused.fetch_add(1, SeqCst);
                tokio::time::sleep(upstream.refuses_in).await;
                response.status(429).header("retry-after", left.as_secs_f64().ceil().to_string())
            };
            Ok::<_, Infallible>(response.body(Body::new()).unwrap())
        }
    });
    BoxCloneSyncService::new(layer.layer(calls).map_response(|response: Response<_>| response.status()))
}

/// A process that shares a rate of ten a second.
fn paced<B: PauseBackend + RateBackend>(backend: B, sent: &Sent) -> Process {
    paced_at(Rate::per_second(10), backend, sent)
}

fn paced_at<B: PauseBackend + RateBackend>(rate: Rate, backend: B, sent: &Sent) -> Process {
    let fleet = FleetPace::new(backend).processes(4);
    let layer = PaceLayer::new().requests(rate).share(Arc::new(fleet));
    let sent = sent.clone();
    let calls = service_fn(move |_: Request<_>| {
        let sent = sent.clone();
        async move {
            sent.lock().await.push(Instant::now());
            Ok::<_, Infallible>(Response::new(Body::new()))
        }
    });
    BoxCloneSyncService::new(layer.layer(calls).map_response(|response: Response<_>| response.status()))
}

/// A process that shares what each caller may ask for: three requests a minute.
fn per_caller<B: PauseBackend + RateBackend>(backend: B) -> Process {
    let layer = PaceLayer::per_caller().requests(Rate::per_minute(3)).share(Arc::new(FleetPace::new(backend)));
    let calls = service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(Body::new())));
    BoxCloneSyncService::new(layer.layer(calls).map_response(|response: Response<_>| response.status()))
}

async fn a_callers_requests_count_in_all_processes<B: PauseBackend + RateBackend>(new: impl Fn() -> B) {
    let fleet = [per_caller(new()), per_caller(new())];
    let mut statuses = Vec::new();
    for at in [0, 1, 0, 1, 0] {
        statuses.push(call(&fleet[at], "a").await.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(call(&fleet[0], "b").await, 200, "another caller has a rate of its own");
    // A caller that is known by its name is one caller, whatever its credentials and the host that it asks for.
    let mut statuses = Vec::new();
    for (at, host) in [(0, "a"), (1, "b"), (0, "c"), (1, "d")] {
        let request = Request::get(format!("http://{host}/")).header("authorization", host).extension(Tenant::new("t"));
        let call = fleet[at].clone().oneshot(request.body(Body::new()).unwrap());
        statuses.push(call.await.unwrap().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_a_caller_is_that_of_all_processes_together() {
    let model = RedisModel::new();
    a_callers_requests_count_in_all_processes(|| model.clone()).await;
}

#[tokio::test]
async fn the_rate_of_a_caller_is_the_same_on_a_real_redis() {
    let server = Server::start();
    let options = server.fresh();
    a_callers_requests_count_in_all_processes(|| Redis::new(options.clone()).unwrap()).await;
}

/// When calls reached the upstream.
type Sent = Arc<Mutex<Vec<Instant>>>;

/// Makes this number of calls at once in each process. Returns how many were answered.
async fn burst(fleet: &[Process], each: usize) -> usize {
    let calls: Vec<_> = fleet
        .iter()
        .flat_map(|process| std::iter::repeat_n(process, each))
        .map(|process| {
            let process = process.clone();
            tokio::spawn(async move { call(&process, "a").await })
        })
        .collect();
    let mut answered = 0;
    for call in calls {
        answered += usize::from(call.await.unwrap() == StatusCode::OK);
    }
    answered
}

/// How many calls there were in the second that had the most.
async fn most_in_a_second(sent: &Sent) -> usize {
    let mut sent = sent.lock().await.clone();
    sent.sort();
    let within = |from: &Instant| sent.iter().filter(|at| *at >= from && **at - *from < Duration::from_secs(1)).count();
    sent.iter().map(within).max().unwrap_or(0)
}

async fn call(process: &Process, credential: &str) -> StatusCode {
    let request = Request::post("http://upstream/v1/responses").header("authorization", credential);
    process.clone().oneshot(request.body(Body::new()).unwrap()).await.unwrap()
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn one_429_pauses_the_whole_fleet_and_nothing_is_sent_before_its_end() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let fleet: Vec<Process> = (0..4).map(|_| process(model.clone(), &upstream)).collect();
    for process in &fleet {
        assert_eq!(call(process, "a").await, StatusCode::OK);
    }
    settle().await;
    let begun = Instant::now();
    *upstream.refuses_until.lock().await = Some(begun + Duration::from_secs(10));
    assert_eq!(call(&fleet[0], "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    let waiting: Vec<_> = fleet
        .iter()
        .map(|process| {
            let process = process.clone();
            tokio::spawn(async move { call(&process, "a").await })
        })
        .collect();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(upstream.refused.load(SeqCst), 1);
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    // A process that starts during a pause learns of it with its first call.
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    assert_eq!(call(&fleet[1], "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    let late = process(model.clone(), &upstream);
    call(&late, "b").await;
    call(&late, "a").await;
    settle().await;
    let before = upstream.refused.load(SeqCst);
    assert_eq!(call(&late, "a").await, StatusCode::OK);
    assert_eq!(upstream.refused.load(SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn pauses_that_were_missed_are_known_soon_however_many_limits_there_are() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let way = model.connection();
    let here = process(Slow::new(way.clone(), Duration::from_millis(50), Duration::ZERO), &upstream);
    let there = process(model, &upstream);
    for credential in 0..1_000 {
        assert_eq!(call(&here, &credential.to_string()).await, StatusCode::OK);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    way.set_connected(false);
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    for credential in 0..10 {
        assert_eq!(call(&there, &credential.to_string()).await, StatusCode::TOO_MANY_REQUESTS);
    }
    settle().await;
    way.set_connected(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls: Vec<_> = (0..10)
        .map(|credential| {
            let here = here.clone();
            tokio::spawn(async move { call(&here, &credential.to_string()).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(upstream.refused.load(SeqCst), 10);
}

#[tokio::test(start_paused = true)]
async fn pauses_of_many_credentials_are_reported_together() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let here = process(Slow::new(model.clone(), Duration::from_millis(90), Duration::ZERO), &upstream);
    let there = process(model, &upstream);
    for credential in 0..50 {
        assert_eq!(call(&there, &credential.to_string()).await, StatusCode::OK);
    }
    settle().await;
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    for credential in 0..50 {
        assert_eq!(call(&here, &credential.to_string()).await, StatusCode::TOO_MANY_REQUESTS);
    }
    // They are read, and then reported.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let calls = (0..50).map(|credential| {
        let there = there.clone();
        tokio::spawn(async move {
            tokio::time::timeout(Duration::from_secs(1), call(&there, &credential.to_string())).await.is_err()
        })
    });
    for waits in calls.collect::<Vec<_>>() {
        assert!(waits.await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn the_pause_of_a_credential_is_no_matter_of_another_one() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let (here, there) = (process(model.clone(), &upstream), process(model, &upstream));
    assert_eq!(call(&there, "b").await, StatusCode::OK);
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    assert_eq!(call(&here, "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    *upstream.refuses_until.lock().await = None;
    let begun = Instant::now();
    assert_eq!(call(&there, "b").await, StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_the_backend_each_process_meets_its_own() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    model.set_reachable(false);
    let (here, there) = (process(model.clone(), &upstream), process(model, &upstream));
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    for process in [&here, &there] {
        assert_eq!(call(process, "a").await, StatusCode::TOO_MANY_REQUESTS);
    }
    for process in [&here, &there] {
        assert_eq!(call(process, "a").await, StatusCode::OK);
    }
}

#[tokio::test]
async fn it_is_the_same_on_a_real_redis() {
    let (server, upstream) = (Server::start(), Upstream::default());
    let options = server.fresh();
    let new = || process(Redis::new(options.clone()).unwrap(), &upstream);
    let (here, there) = (new(), new());
    assert_eq!((call(&here, "a").await, call(&there, "a").await), (StatusCode::OK, StatusCode::OK));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    *upstream.refuses_until.lock().await = Some(begun + Duration::from_millis(1900));
    assert_eq!(call(&here, "a").await, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(call(&there, "a").await, StatusCode::OK);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!(upstream.refused.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_that_of_all_processes_together() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let fleet: Vec<Process> = (0..4).map(|_| paced(model.clone(), &sent)).collect();
    let begun = Instant::now();
    assert_eq!(burst(&fleet, 10).await, 40);
    assert!(begun.elapsed() >= Duration::from_millis(3_900), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(4_200), "{:?}", begun.elapsed());
    assert!(most_in_a_second(&sent).await <= 11, "{}", most_in_a_second(&sent).await);
}

#[tokio::test(start_paused = true)]
async fn in_an_outage_a_rate_is_divided_and_not_multiplied() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let fleet: Vec<Process> = (0..4).map(|_| paced(model.clone(), &sent)).collect();
    assert_eq!(burst(&fleet, 1).await, 4);
    // Each has said that it is there, and will have learned of the others.
    tokio::time::sleep(Duration::from_secs(6)).await;
    model.set_reachable(false);
    sent.lock().await.clear();
    let begun = Instant::now();
    assert_eq!(burst(&fleet, 10).await, 40);
    // Each has a quarter: 2.5 a second.
    assert!(begun.elapsed() >= Duration::from_millis(3_600), "{:?}", begun.elapsed());
    assert!(most_in_a_second(&sent).await <= 12, "{}", most_in_a_second(&sent).await);
    // One that starts now takes what it was told for the number of processes.
    let late = [paced(model.clone(), &sent)];
    let begun = Instant::now();
    assert_eq!(burst(&late, 6).await, 6);
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_leaves_gives_back_what_it_took() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let fleet: Vec<Process> = (0..2).map(|_| paced(model.clone(), &sent)).collect();
    assert_eq!(call(&fleet[0], "a").await, StatusCode::OK);
    let begun = Instant::now();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let process = fleet[0].clone();
            tokio::spawn(async move { call(&process, "a").await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(call(&fleet[1], "a").await, StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_leaves_before_it_reads_its_turn_gives_back_what_it_took() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let fleet: Vec<Process> = (0..2).map(|_| paced(model.clone(), &sent)).collect();
    let mut leaving: Vec<_> = (0..8).map(|_| Box::pin(call(&fleet[0], "a"))).collect();
    for call in &mut leaving {
        assert!(tokio::time::timeout(Duration::ZERO, call).await.is_err());
    }
    // Redis has answered all of them, and none has looked.
    settle().await;
    drop(leaving);
    settle().await;
    let begun = Instant::now();
    assert_eq!(call(&fleet[1], "a").await, StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_the_fleet_starts_again_one_interval_apart() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let fleet: Vec<Process> = (0..4).map(|_| paced(model.clone(), &sent)).collect();
    assert_eq!(burst(&fleet, 1).await, 4);
    settle().await;
    // Another fleet's process with the same credential meets a 429.
    let upstream = Upstream::default();
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(5));
    assert_eq!(call(&process(model.clone(), &upstream), "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    sent.lock().await.clear();
    let begun = Instant::now();
    assert_eq!(burst(&fleet, 5).await, 20);
    let first = sent.lock().await.iter().min().copied().unwrap();
    assert!(first - begun >= Duration::from_millis(4_900), "{:?}", first - begun);
    assert!(most_in_a_second(&sent).await <= 11, "{}", most_in_a_second(&sent).await);
}

#[tokio::test(start_paused = true)]
async fn what_an_answer_says_is_left_of_a_rate_is_known_to_all() {
    let model = RedisModel::new();
    let (sent, used) = (Sent::default(), Arc::new(AtomicUsize::new(0)));
    // Others use the credential, too: of sixty a minute one is left when the first answer comes.
    let process = || {
        let layer = PaceLayer::new()
            .requests(Rate::per_minute(60).burst(60))
            .max_wait(Duration::from_secs(1))
            .share(Arc::new(FleetPace::new(model.clone())));
        let (sent, used) = (sent.clone(), used.clone());
        let calls = service_fn(move |_: Request<_>| {
            let (sent, used) = (sent.clone(), used.clone());
            async move {
                sent.lock().await.push(Instant::now());
                let left = 1_usize.saturating_sub(used.fetch_add(1, SeqCst));
                let response = Response::builder()
                    .header("x-ratelimit-limit-requests", "60")
                    .header("x-ratelimit-remaining-requests", left)
                    .header("x-ratelimit-reset-requests", "59s");
                Ok::<_, Infallible>(response.body(Body::new()).unwrap())
            }
        });
        BoxCloneSyncService::new(layer.layer(calls).map_response(|response: Response<_>| response.status()))
    };
    let (here, there): (Process, Process) = (process(), process());
    assert_eq!(call(&here, "a").await, StatusCode::OK);
    assert_eq!(call(&here, "a").await, StatusCode::OK);
    // It tells with its next call that nothing is left, and waits for it. The other process does so with its first.
    assert_eq!(call(&here, "a").await, StatusCode::OK);
    let begun = Instant::now();
    assert_eq!(call(&there, "a").await, StatusCode::OK);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

/// Calls that have their turns when another process meets a 429, which pauses all for 2 s.
async fn calls_wait_when_a_pause_begins<B: PauseBackend + RateBackend>(backend: B) {
    let (upstream, sent) = (Upstream::default(), Sent::default());
    let fleet: Vec<Process> = (0..3).map(|_| paced(backend.clone(), &sent)).collect();
    assert_eq!(burst(&fleet, 1).await, 3);
    // Their turns are in the next 1.2 s.
    let waiting = tokio::spawn(async move { burst(&fleet, 4).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    *upstream.refuses_until.lock().await = Some(begun + Duration::from_millis(1_999));
    assert_eq!(call(&process(backend, &upstream), "a").await, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = sent.lock().await.len();
    assert_eq!(waiting.await.unwrap(), 12);
    let after = sent.lock().await[before..].to_vec();
    assert!(after.len() >= 6, "{}", after.len());
    let first = after.iter().min().copied().unwrap() - begun;
    assert!(first >= Duration::from_millis(1_990), "{first:?}");
    let took = after.iter().max().copied().unwrap() - begun - first;
    // The rate allows ten a second.
    let least = Duration::from_millis(100) * u32::try_from(after.len() - 1).unwrap();
    assert!(took + Duration::from_millis(60) >= least, "{} in {took:?}", after.len());
    assert!(took <= 2 * least, "{} in {took:?}", after.len());
}

/// One tenant sends as many calls in each process as are sent in 20 s; then others send one each, in one process or another.
async fn tenants_take_turns<B: PauseBackend + RateBackend>(backend: B) {
    let sent = Sent::default();
    let fleet: Vec<Process> = (0..2).map(|_| paced(backend.clone(), &sent)).collect();
    let call = |process: usize, tenant: &str| {
        let request = Request::post("http://upstream/").header("authorization", "a").extension(Tenant::new(tenant));
        let call = fleet[process].clone().oneshot(request.body(Body::new()).unwrap());
        tokio::spawn(async move { call.await.unwrap() })
    };
    let burst: Vec<_> = (0..200).map(|number| call(number % 2, "many")).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    let others: Vec<_> = (0..6).map(|number| call(number % 2, &format!("other {number}"))).collect();
    for other in others {
        assert_eq!(other.await.unwrap(), StatusCode::OK);
    }
    // A second's turns are taken, and each of these is as much as one call of the burst in each process.
    assert!(begun.elapsed() <= Duration::from_millis(3_000), "{:?}", begun.elapsed());
    burst.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn no_tenant_waits_behind_the_burst_of_another_one() {
    tenants_take_turns(RedisModel::new()).await;
}

#[tokio::test]
async fn no_tenant_waits_behind_the_burst_of_another_one_on_a_real_redis() {
    let server = Server::start();
    tenants_take_turns(server.redis()).await;
}

/// Processes whose calls ask at the same time, and one of which is always the first.
#[tokio::test(start_paused = true)]
async fn no_process_is_passed_by_for_ever() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let busy: Vec<Process> = (0..3).map(|_| paced(model.clone(), &sent)).collect();
    let late = paced(Slow::new(model.clone(), Duration::from_millis(40), Duration::ZERO), &sent);
    let burst: Vec<_> = (0..240)
        .map(|number| {
            let process = busy[number % 3].clone();
            tokio::spawn(async move { call(&process, "a").await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(call(&late, "a").await, StatusCode::OK);
    }
    // One of four processes has a quarter of ten a second, and its call is up to a second and a turn away.
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
    burst.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Calls that wait behind a pause, in a process whose Redis takes 90 ms.
#[tokio::test(start_paused = true)]
async fn behind_a_pause_calls_use_up_the_rate_however_long_redis_takes() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let slow = Slow::new(model.clone(), Duration::from_millis(90), Duration::ZERO);
    let fleet = [paced_at(Rate::per_second(100), slow.clone(), &sent), paced_at(Rate::per_second(100), slow, &sent)];
    assert_eq!(burst(&fleet, 1).await, 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let upstream = Upstream::default();
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(5));
    assert_eq!(call(&process(model, &upstream), "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    sent.lock().await.clear();
    assert_eq!(burst(&fleet, 300).await, 600);
    let sent_at = sent.lock().await.clone();
    let took = *sent_at.iter().max().unwrap() - *sent_at.iter().min().unwrap();
    assert!(took <= Duration::from_millis(6_300), "{took:?}");
    assert!(most_in_a_second(&sent).await <= 101, "{}", most_in_a_second(&sent).await);
}

/// It is told how long it takes, and at once, whichever calls wait before it.
#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_wait_for_its_turn_is_refused_when_it_comes() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let process = paced(model, &sent);
    let waiting: Vec<_> = (0..400)
        .map(|_| {
            let process = process.clone();
            tokio::spawn(async move { call(&process, "a").await })
        })
        .collect();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = waiting.iter().filter(|call| call.is_finished()).count() - sent.lock().await.len();
    // Ten a second, of which each waits for 30 s at most.
    assert!((95..=101).contains(&refused), "{refused}");
    assert_eq!(call(&process, "a").await, StatusCode::OK, "places have become free");
    let mut answered = 0;
    for call in waiting {
        answered += usize::from(call.await.unwrap() == StatusCode::OK);
    }
    assert!((290..=305).contains(&answered), "{answered}");
    assert!(begun.elapsed() <= Duration::from_millis(31_500), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn calls_whose_turns_fall_into_a_pause_come_behind_it_at_the_rate_of_the_fleet() {
    calls_wait_when_a_pause_begins(RedisModel::new()).await;
}

#[tokio::test]
async fn turns_in_a_pause_are_the_same_on_a_real_redis() {
    let server = Server::start();
    calls_wait_when_a_pause_begins(server.redis()).await;
}

#[tokio::test]
async fn rates_are_the_same_on_a_real_redis() {
    let (server, sent) = (Server::start(), Sent::default());
    let options = server.fresh();
    let new = || paced(Redis::new(options.clone()).unwrap(), &sent);
    let fleet: Vec<Process> = (0..3).map(|_| new()).collect();
    let begun = Instant::now();
    assert_eq!(burst(&fleet, 5).await, 15);
    assert!(begun.elapsed() >= Duration::from_millis(1_350), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_was_lost_is_not_paid_for_twice() {
    let server = Server::start();
    let way = Proxy::to(server.port()).await;
    let options = RedisOptions::from_url(&format!("redis://127.0.0.1:{}", way.port())).unwrap();
    let redis = Redis::new(options.patience(Duration::from_secs(10))).unwrap();
    let (limit, seconds) = (Fingerprint::from_bytes([7; 32]), Duration::from_secs);
    let take = async || {
        let cost = TakenRate { name: "requests-60".into(), cost: seconds(50), burst: seconds(100), level: seconds(0) };
        redis.reserve(limit, Token::random(), vec![cost], Duration::ZERO, seconds(1_000)).await.unwrap()
    };
    assert_eq!(take().await, RateTurn::Taken(Duration::ZERO));
    way.lose_an_answer();
    assert_eq!(take().await, RateTurn::Taken(Duration::ZERO));
    let RateTurn::Taken(wait) = take().await else { panic!("it is taken") };
    assert_eq!((wait + Duration::from_millis(500)).as_secs(), 50, "{wait:?}");
    // What is given back is given back once.
    way.lose_an_answer();
    redis.refund(limit, Token::random(), vec![("requests-60".into(), -50_000_000)]).await.unwrap();
    let RateTurn::Taken(wait) = take().await else { panic!("it is taken") };
    assert_eq!((wait + Duration::from_millis(500)).as_secs(), 50, "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_makes_no_call_wait_for_longer() {
    let (model, sent) = (RedisModel::new(), Sent::default());
    let fleet: Vec<Process> = (0..2).map(|_| paced(model.clone(), &sent)).collect();
    assert_eq!(burst(&fleet, 1).await, 2);
    let back = || model.jump_back(Duration::from_secs(3600));
    back();
    let begun = Instant::now();
    assert_eq!(burst(&fleet, 2).await, 4);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // The same with a pause, of which these do not know by themselves.
    let limit = Fingerprint::from_bytes([7; 32]);
    let pause = Duration::from_secs(10);
    let told = PeerPause::new(pause, false);
    model.pause(PauseNews { limit, pause: told, process: ProcessId::random() }).await.unwrap();
    back();
    assert_eq!(model.paused(limit).await.unwrap(), told);
    let rate = TakenRate {
        name: "requests".into(),
        cost: Duration::from_millis(100),
        burst: Duration::from_millis(100),
        level: Duration::ZERO,
    };
    back();
    tokio::time::sleep(pause / 2).await;
    let reserve = |request| model.reserve(limit, request, vec![rate.clone()], Duration::ZERO, 2 * pause);
    let (first, again) = (Token::random(), Token::random());
    assert_eq!(reserve(first).await.unwrap(), RateTurn::Taken(pause));
    back();
    // Told again, since its reply was lost.
    assert_eq!(reserve(first).await.unwrap(), RateTurn::Taken(pause));
    assert_eq!(reserve(again).await.unwrap(), RateTurn::Taken(pause + rate.cost));
}

#[tokio::test(start_paused = true)]
async fn two_rates_of_one_unit_and_time_are_two_rates() {
    let model = RedisModel::new();
    let process = || {
        let rates = PaceLayer::new().requests(Rate::per_minute(1)).requests(Rate::per_minute(100).burst(5));
        let layer = rates.share(Arc::new(FleetPace::new(model.clone())));
        let calls = service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(Body::new())));
        BoxCloneSyncService::new(layer.layer(calls).map_response(|response: Response<_>| response.status()))
    };
    assert_eq!(call(&process(), "a").await, StatusCode::OK);
    assert_eq!(call(&process(), "a").await, StatusCode::TOO_MANY_REQUESTS, "one a minute");
}

#[tokio::test(start_paused = true)]
async fn after_a_pause_whose_end_is_a_guess_each_process_finds_out_with_one_call() {
    let upstream = Upstream { refuses_in: Duration::from_millis(500), ..Upstream::default() };
    let model = RedisModel::new();
    let fleet: Vec<Process> = (0..3).map(|_| process(model.clone(), &upstream)).collect();
    // So many that calls start again close to each other.
    for process in &fleet {
        for _ in 0..200 {
            assert_eq!(call(process, "a").await, StatusCode::OK);
        }
    }
    settle().await;
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(24 * 60 * 60));
    assert_eq!(call(&fleet[0], "a").await, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_secs(59)).await;
    let before = upstream.refused.load(SeqCst);
    let (fleet, met) = ([&fleet[1], &fleet[2]], Duration::from_secs(3));
    let waiting = fleet.into_iter().flat_map(|process| std::iter::repeat_n(process, 20)).map(|process| {
        let process = process.clone();
        tokio::spawn(async move { tokio::time::timeout(met, call(&process, "a")).await })
    });
    for call in waiting.collect::<Vec<_>>() {
        let _ = call.await.unwrap();
    }
    assert_eq!(upstream.refused.load(SeqCst) - before, 2, "one call of each process");
}

#[tokio::test(start_paused = true)]
async fn where_the_others_take_too_long_a_process_has_its_part_of_a_rate() {
    let sent = Sent::default();
    let process = paced(Slow::new(RedisModel::new(), Duration::from_millis(1_500), Duration::ZERO), &sent);
    let begun = Instant::now();
    assert_eq!(burst(std::slice::from_ref(&process), 6).await, 6);
    // A second for asking, and a quarter of ten a second.
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn all_that_share_rates_through_one_redis_are_one_process() {
    let server = Server::start();
    let options = server.fresh();
    let (here, there) = (Redis::new(options.clone()).unwrap(), Redis::new(options).unwrap());
    let ttl = Duration::from_secs(10);
    for (redis, count) in [(&here, 1), (&here.clone(), 1), (&there, 2)] {
        assert_eq!(redis.beat(RateBackend::process(redis), ttl).await.unwrap(), count);
    }
}
