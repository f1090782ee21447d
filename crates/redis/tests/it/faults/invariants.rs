//! A fleet on a real Redis, and a fault: what holds in the simulated histories holds here. (Their numbers are those of
//! the invariants.) Answers, rates, conversations and circuits of three processes are busy while it fails, and after.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Empty, Full};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::error::BoxError;
use tower_buttress::{
    CallBody, CircuitBreakerConfig, CircuitBreakerLayer, CircuitState, DedupLayer, PaceLayer, Rate, SupersedeLayer,
};
use tower_buttress_redis::{FleetBreaker, FleetPace, FleetSupersede, Redis, RedisOptions, RedisStore};

use crate::support::Server;
use crate::support::replicated::Replicated;

const MS: Duration = Duration::from_millis(1);
const PROCESSES: usize = 3;
const FAULT: Duration = Duration::from_millis(1_200);
/// All of it is felt no more.
const OVER: Duration = Duration::from_millis(4_000);
const END: Duration = Duration::from_millis(5_500);
/// What an operation may cost, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_millis(300);

/// What all processes and the test see.
struct Seen {
    begun: Instant,
    in_flight: AtomicUsize,
    /// What the upstream was asked for, when, and what it answers.
    calls: Mutex<Vec<(String, Instant, String)>>,
    sent: Mutex<Vec<Instant>>,
    probes: AtomicUsize,
    probes_at_once: AtomicUsize,
    is_down: AtomicBool,
    waits: Mutex<Vec<Duration>>,
}

/// Counts while it lives.
struct Counted(Arc<Seen>);

type Shared = Arc<Seen>;

// === impl Counted ===

impl Counted {
    fn new(seen: &Shared) -> Self {
        seen.in_flight.fetch_add(1, SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}

// === impl Seen ===

impl Seen {
    fn at(&self, after: Duration) -> Instant {
        self.begun + after
    }

    /// How long a request waited that was made then.
    fn waited(&self, came: Instant) {
        self.waits.lock().unwrap().push(came.elapsed());
    }

    /// Whether it is far from the fault.
    fn is_calm(&self, from: Instant, to: Instant) -> bool {
        to < self.at(FAULT) || from > self.at(OVER)
    }
}

/// Callers of three processes ask for the same, 22 answers of half a second one after the other.
fn answers(redis: &[Redis], seen: &Shared) -> Vec<JoinHandle<()>> {
    let seen_by_calls = seen.clone();
    let upstream = service_fn(move |request: Request<CallBody>| {
        let (seen, path) = (seen_by_calls.clone(), request.uri().path().to_owned());
        async move {
            let in_flight = Counted::new(&seen);
            let number = seen.calls.lock().unwrap().len();
            let parts: Vec<String> = (0..8).map(|part| format!("{path} #{number} {part};")).collect();
            let text = parts.concat();
            let length = text.len();
            seen.calls.lock().unwrap().push((path, Instant::now(), text));
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
            tokio::spawn(async move {
                let _in_flight = in_flight;
                for part in parts {
                    sleep(50 * MS).await;
                    if sender.send_data(part.into()).await.is_err() {
                        return;
                    }
                }
            });
            Ok::<_, Infallible>(Response::builder().header("content-length", length).body(body).unwrap())
        }
    });
    let layer = |redis: &Redis| DedupLayer::new().store(RedisStore::new(redis.clone())).grace(Duration::ZERO);
    let service = |redis| BoxCloneSyncService::new(layer(redis).layer(upstream.clone()));
    let fleet: Vec<_> = redis.iter().map(service).collect();
    (0..66)
        .map(|number| {
            let (seen, service) = (seen.clone(), fleet[number % PROCESSES].clone());
            let at = seen.at(75 * MS * u32::try_from(number).unwrap());
            tokio::spawn(async move {
                sleep_until(at).await;
                let path = format!("/{}", number / PROCESSES);
                let request = Request::post(format!("http://upstream{path}"))
                    .header("authorization", "Bearer a")
                    .header("idempotency-key", &path);
                let (came, before) = (Instant::now(), seen.calls.lock().unwrap().len());
                let response = service.oneshot(request.body(Full::<Bytes>::from("hello")).unwrap()).await.unwrap();
                let (status, mut body, mut text, mut is_whole) =
                    (response.status(), response.into_body(), vec![], true);
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
                        Err(_) => {
                            is_whole = false;
                            break;
                        }
                    }
                }
                let calls = seen.calls.lock().unwrap();
                let own = calls.iter().filter(|(asked, ..)| *asked == path);
                if status.is_success() {
                    let is_right = own.clone().any(|(_, _, all)| {
                        let all = all.as_bytes();
                        if is_whole { all == text } else { all.starts_with(&text) }
                    });
                    assert!(is_right, "(1) {path} was answered {:?}", String::from_utf8_lossy(&text));
                }
                // The first who asks waits for one claim.
                let is_first = number % PROCESSES == 0;
                if let Some((_, sent, _)) = calls[before..].iter().find(|(asked, ..)| is_first && *asked == path) {
                    assert!(*sent - came < PATIENCE, "(3) {path} waited {:?}", *sent - came);
                }
            })
        })
        .collect()
}

/// Thirty calls a second in each process; the rate allows 20 of them. At 700 ms the upstream says to wait for 2 s.
fn rates(redis: &[Redis], seen: &Shared) -> (Vec<JoinHandle<()>>, Vec<PaceLayer>) {
    let (seen_by_calls, was_told) = (seen.clone(), Arc::new(AtomicBool::new(false)));
    let upstream = service_fn(move |_: Request<Empty<Bytes>>| {
        let now = Instant::now();
        seen_by_calls.sent.lock().unwrap().push(now);
        let is_limited = now > seen_by_calls.at(700 * MS) && !was_told.swap(true, SeqCst);
        let response = Response::builder();
        let response = if is_limited { response.status(429).header("retry-after", "2") } else { response };
        async move { Ok::<_, Infallible>(response.body(Empty::<Bytes>::new()).unwrap()) }
    });
    let fleet = redis.iter().map(|redis| FleetPace::new(redis.clone()).processes(3));
    let rate = || PaceLayer::new().requests(Rate::per_second(20)).max_wait(Duration::from_secs(1));
    let layers: Vec<PaceLayer> = fleet.map(|fleet| rate().share(Arc::new(fleet))).collect();
    let calls = (0..160)
        .map(|number| {
            let service = layers[number % PROCESSES].layer(upstream.clone());
            let at = seen.at(33 * MS * u32::try_from(number).unwrap());
            tokio::spawn(async move {
                sleep_until(at).await;
                let request = Request::post("http://upstream/").header("authorization", "Bearer a");
                let _ = service.oneshot(request.body(Empty::new()).unwrap()).await.unwrap();
            })
        })
        .collect();
    (calls, layers)
}

fn check_rates(seen: &Seen) {
    let mut sent = seen.sent.lock().unwrap().clone();
    sent.sort();
    let (first, ends) = (seen.at(700 * MS), seen.at(2_700 * MS));
    let told = *sent.iter().find(|at| **at > first).unwrap();
    // The others hear of it meanwhile.
    let in_pause = sent.iter().filter(|at| **at > told + 200 * MS && **at < ends);
    assert_eq!(in_pause.count(), 0, "(6) calls were sent before the end of a pause");
    for (at, from) in sent.iter().enumerate() {
        for (count, to) in (1_u32..).zip(&sent[at..]) {
            // A busy machine sends late.
            let allowed = (*to - *from + PATIENCE).as_secs_f64() * 20.0 + 2.0;
            let allowed = if seen.is_calm(*from, *to) { allowed } else { 2.0 * allowed + 3.0 };
            assert!(f64::from(count) <= allowed, "(5) {count} calls in {:?}, {allowed} are allowed", *to - *from);
        }
    }
}

/// A message each 400 ms, to one process after the other. The upstream takes 700 ms. Returns which were answered.
fn conversation(redis: &[Redis], seen: &Shared) -> Vec<JoinHandle<(Instant, bool)>> {
    let seen_by_calls = seen.clone();
    let upstream = service_fn(move |request: Request<CallBody>| {
        let seen = seen_by_calls.clone();
        seen.waited(*request.extensions().get().unwrap());
        async move {
            let _in_flight = Counted::new(&seen);
            sleep(700 * MS).await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("answer")))
        }
    });
    let header = || SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id"));
    let layer = |redis: &Redis| header().share(Arc::new(FleetSupersede::new(redis.clone())));
    let fleet: Vec<_> = redis.iter().map(|redis| layer(redis).layer(upstream.clone())).collect();
    (0..12)
        .map(|number| {
            let (at, service) = (seen.at(400 * MS * u32::try_from(number).unwrap()), fleet[number % PROCESSES].clone());
            tokio::spawn(async move {
                sleep_until(at).await;
                let came = Instant::now();
                let request = Request::post("http://upstream/").extension(came).header("authorization", "Bearer a");
                let request = request.header("x-conversation-id", "c").body(Full::<Bytes>::from(number.to_string()));
                let response = service.oneshot(request.unwrap()).await.unwrap();
                let is_answered = response.status().is_success();
                (came, is_answered && response.into_body().collect().await.is_ok())
            })
        })
        .collect()
}

/// Twenty calls a second in each process to an upstream that is down from 200 ms to 4 s.
fn circuits(redis: &[Redis], seen: &Shared) -> Vec<JoinHandle<CircuitState>> {
    (0..PROCESSES)
        .map(|process| {
            let config = CircuitBreakerConfig::new().open_duration(200 * MS, 400 * MS);
            let breaker = FleetBreaker::new(redis[process].clone(), "models");
            let layer = CircuitBreakerLayer::with_config(config).share(breaker);
            let (circuit, seen_by_calls) = (layer.handle(), seen.clone());
            let upstream = service_fn(move |request: Request<Empty<Bytes>>| {
                let (seen, is_probe) = (seen_by_calls.clone(), circuit.state() == CircuitState::HalfOpen);
                seen.waited(*request.extensions().get().unwrap());
                async move {
                    let _in_flight = Counted::new(&seen);
                    let now = Instant::now();
                    let others = seen.probes.fetch_add(usize::from(is_probe), SeqCst);
                    if is_probe && seen.is_calm(now, now) {
                        seen.probes_at_once.fetch_max(others + 1, SeqCst);
                    }
                    sleep(50 * MS).await;
                    seen.probes.fetch_sub(usize::from(is_probe), SeqCst);
                    let is_down = seen.is_down.load(SeqCst);
                    let status = if is_down { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
                    Ok::<_, Infallible>(Response::builder().status(status).body(Empty::<Bytes>::new()).unwrap())
                }
            });
            let (service, seen, circuit) = (layer.layer(upstream), seen.clone(), layer.handle());
            tokio::spawn(async move {
                let _layer = layer;
                while seen.begun.elapsed() < END {
                    seen.is_down.store((200 * MS..4_000 * MS).contains(&seen.begun.elapsed()), SeqCst);
                    let request = Request::builder().extension(Instant::now()).body(Empty::new()).unwrap();
                    let _ = service.clone().oneshot(request).await.unwrap();
                    sleep(50 * MS).await;
                }
                circuit.state()
            })
        })
        .collect()
}

/// Runs a fleet, and lets something fail in the middle.
async fn under(options: RedisOptions, fault: impl Future<Output = ()>) {
    let redis: Vec<Redis> = (0..PROCESSES).map(|_| Redis::new(options.clone()).unwrap()).collect();
    for redis in &redis {
        redis.ping().await;
    }
    let seen = Arc::new(Seen {
        begun: Instant::now(),
        in_flight: AtomicUsize::new(0),
        calls: Mutex::default(),
        sent: Mutex::default(),
        probes: AtomicUsize::new(0),
        probes_at_once: AtomicUsize::new(0),
        is_down: AtomicBool::new(false),
        waits: Mutex::default(),
    });
    let (answers, (rates, pace)) = (answers(&redis, &seen), rates(&redis, &seen));
    let (messages, circuits) = (conversation(&redis, &seen), circuits(&redis, &seen));
    sleep_until(seen.at(FAULT)).await;
    fault.await;
    for caller in answers.into_iter().chain(rates) {
        caller.await.unwrap();
    }
    let calls = seen.calls.lock().unwrap().clone();
    for (path, ..) in &calls {
        let made: Vec<Instant> = calls.iter().filter(|(asked, ..)| asked == path).map(|(_, sent, _)| *sent).collect();
        // In an outage each process is alone.
        let most = if seen.is_calm(made[0], made[0] + 650 * MS) { 1 } else { PROCESSES };
        let made: Vec<Duration> = made.into_iter().map(|sent| sent - seen.begun).collect();
        assert!(made.len() <= most, "(2) calls for {path} at {made:?}");
    }
    check_rates(&seen);
    let mut said = Vec::new();
    for message in messages {
        said.push(message.await.unwrap());
    }
    let (newest, older) = said.split_last().unwrap();
    assert!(newest.1, "(7) the newest message was superseded");
    for (came, is_answered) in older {
        assert!(!is_answered || !seen.is_calm(*came, *came + 700 * MS), "(7) an older message was answered");
    }
    for circuit in circuits {
        assert_eq!(circuit.await.unwrap(), CircuitState::Closed, "(4)");
    }
    assert!(seen.probes_at_once.load(SeqCst) <= 1, "(4) {} probes at once", seen.probes_at_once.load(SeqCst));
    let longest = seen.waits.lock().unwrap().iter().max().copied().unwrap();
    assert!(longest < PATIENCE, "(3) a call waited {longest:?}");
    for _ in 0..100 {
        if seen.in_flight.load(SeqCst) == 0 {
            break;
        }
        sleep(10 * MS).await;
    }
    assert_eq!(seen.in_flight.load(SeqCst), 0, "(8) calls are under way when all is over");
    assert_eq!(pace.iter().map(|layer| layer.stats().waiting).sum::<usize>(), 0, "(8) calls wait when all is over");
}

#[tokio::test]
async fn redis_is_frozen() {
    let server = Server::start();
    under(server.options(), async {
        server.freeze();
        sleep(400 * MS).await;
        server.thaw();
    })
    .await;
}

#[tokio::test]
async fn redis_is_killed_and_restarted_empty() {
    let mut server = Server::start();
    under(server.options(), async {
        server.kill();
        sleep(200 * MS).await;
        server.start_again();
    })
    .await;
}

#[tokio::test]
async fn a_replica_takes_over() {
    let mut redis = Replicated::start().await;
    under(redis.options(), async {
        redis.lag();
        sleep(300 * MS).await;
        redis.fail_over().await;
    })
    .await;
}

/// These commands, one each 100 ms.
async fn say(commands: &[&str]) {
    let server = Server::start();
    under(server.options(), async {
        for command in commands {
            server.say(command).await.unwrap();
            sleep(100 * MS).await;
        }
    })
    .await;
}

#[tokio::test]
async fn all_subscriptions_are_cut() {
    say(&["CLIENT KILL TYPE pubsub", "CLIENT KILL TYPE pubsub"]).await;
}

#[tokio::test]
async fn all_scripts_are_forgotten() {
    say(&["SCRIPT FLUSH", "SCRIPT FLUSH", "SCRIPT FLUSH"]).await;
}

#[tokio::test]
async fn no_memory_is_left() {
    say(&["CONFIG SET maxmemory 1", "PING", "PING", "CONFIG SET maxmemory 0"]).await;
}

#[tokio::test]
async fn writes_are_paused() {
    say(&["CLIENT PAUSE 400 WRITE"]).await;
}
