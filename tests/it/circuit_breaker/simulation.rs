//! The simulations of the policy (`src/policy/breaker/simulation.rs`) once more, through the layer: callers that read to the
//! end or leave, streams as bodies, and the layer of the first byte inside, in paused time.
//!
//! Each rule is tried with seeds 1 to 100, with fewer clients and for a shorter time than the policy is, whose simulation
//! takes no runtime; CONTRIBUTING.md says how to try other seeds, for ten minutes each, and how to see the figures.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_buttress::{
    CallBody, CallInfo, CircuitBreakerLayer, CircuitState, Event, FirstByteTimeoutLayer, Model, Observer, Rejection,
    RejectionKind, Tenant,
};

use crate::support::{Script, Step, secs};

/// What the upstream does with a call.
#[derive(Clone, Copy)]
enum Fate {
    /// It answers 503 at once.
    Unavailable,
    /// It never answers.
    Hung,
    /// Its head and first data come after this time; then so many pieces, one in two seconds.
    Stream(Duration, usize),
}

#[derive(Clone)]
struct Client {
    tenant: usize,
    /// It gives up a call that has brought no data by then.
    patience: Duration,
    /// From the end of a call to its next one.
    pause: Range<Duration>,
    first_call: Duration,
    model: &'static str,
}

/// Clients, an upstream, and the layer between them.
struct World {
    seed: u64,
    clients: Vec<Client>,
    first_byte: Duration,
    layer: CircuitBreakerLayer,
}

#[derive(Debug, Default)]
struct Seen(Mutex<Record>);

#[derive(Debug, Default)]
struct Record {
    /// Which clients called, when, and whether they were refused.
    calls: Vec<(usize, Duration, bool)>,
    opened: Vec<Duration>,
    /// When data came first, of calls that left the circuit closed.
    served: Vec<Duration>,
}

/// Remembers when a circuit opened.
struct Opened(Instant, Arc<Seen>);

const MS: Duration = Duration::from_millis(1);
const FOR_EVER: Duration = secs(86_400);

// === impl Opened ===

impl Observer for Opened {
    fn on_event(&self, event: &Event, _: Option<&CallInfo>) {
        if matches!(event, Event::CircuitChanged { change, .. } if change.to == CircuitState::Open) {
            self.1.0.lock().unwrap().opened.push(self.0.elapsed());
        }
    }
}

// === impl World ===

impl World {
    fn new(seed: u64, clients: Vec<Client>) -> Self {
        Self { seed, clients, first_byte: secs(20), layer: CircuitBreakerLayer::new() }
    }

    /// What is seen until `until`, of an upstream that does with each client's calls what `fate` says.
    fn run<F>(self, until: Duration, fate: F) -> Record
    where
        F: Fn(usize, Duration, &mut fastrand::Rng) -> Fate + Send + Sync + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        // Of the layer's own jitter.
        fastrand::seed(self.seed);
        runtime.block_on(self.play(until, Arc::new(fate)))
    }

    async fn play<F>(self, until: Duration, fate: Arc<F>) -> Record
    where
        F: Fn(usize, Duration, &mut fastrand::Rng) -> Fate + Send + Sync + 'static,
    {
        let (start, seen) = (Instant::now(), Arc::new(Seen::default()));
        let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(self.seed)));
        let layer = self.layer.observer(Arc::new(Opened(start, seen.clone())));
        let layer = layer.configure(|config| config.first_byte(self.first_byte));
        let upstream = {
            let rng = rng.clone();
            move |request: Request<CallBody>| {
                let client = *request.extensions().get::<usize>().unwrap();
                let mut rng = rng.lock().unwrap();
                answer(fate(client, start.elapsed(), &mut rng), between(&mut rng, 5 * MS..50 * MS))
            }
        };
        let service = ServiceBuilder::new()
            .layer(layer.clone())
            .layer(FirstByteTimeoutLayer::new(self.first_byte))
            .service(service_fn(upstream));
        let mut tasks = JoinSet::new();
        for (index, client) in self.clients.into_iter().enumerate() {
            let (mut service, layer, seen, rng) = (service.clone(), layer.clone(), seen.clone(), rng.clone());
            tasks.spawn(async move {
                sleep(client.first_call).await;
                loop {
                    let began = start.elapsed();
                    let key = if client.model.is_empty() { "api".to_owned() } else { format!("api {}", client.model) };
                    let mut request = Request::builder().uri("http://api/v1/chat").extension(index);
                    request = request.extension(Tenant::new(format!("tenant-{}", client.tenant)));
                    if !client.model.is_empty() {
                        request = request.extension(Model::new(client.model));
                    }
                    let request = request.body(Empty::<Bytes>::new()).unwrap();
                    let call = async {
                        let ready = ServiceExt::<Request<Empty<Bytes>>>::ready(&mut service).await.unwrap();
                        let response = ready.call(request).await.unwrap();
                        let rejection = Rejection::of(&response).map(Rejection::kind);
                        let served = response.status() == 200;
                        let mut body = response.into_body();
                        let first = body.frame().await;
                        (rejection == Some(RejectionKind::CircuitOpen), (served && first.is_some()).then_some(body))
                    };
                    let (refused, body) = timeout(client.patience, call).await.unwrap_or_default();
                    seen.0.lock().unwrap().calls.push((index, began, refused));
                    if let Some(mut body) = body {
                        if layer.handles().is_empty() || layer.handle_for(&key).state() == CircuitState::Closed {
                            seen.0.lock().unwrap().served.push(start.elapsed());
                        }
                        while let Some(Ok(_)) = body.frame().await {}
                    }
                    let pause = between(&mut rng.lock().unwrap(), client.pause.clone());
                    sleep(pause).await;
                }
            });
        }
        sleep(until).await;
        tasks.shutdown().await;
        std::mem::take(&mut seen.0.lock().unwrap())
    }
}

/// What the upstream answers, if at once, then after `quick`.
async fn answer(fate: Fate, quick: Duration) -> Result<Response<Script>, Infallible> {
    let (after, status, steps) = match fate {
        Fate::Hung => std::future::pending().await,
        Fate::Unavailable => (quick, 503, vec![]),
        Fate::Stream(first, pieces) => {
            let pieces = (0..pieces).flat_map(|_| [Step::Wait(secs(2)), Step::Data("piece")]);
            (first, 200, [Step::Data("piece")].into_iter().chain(pieces).collect())
        }
    };
    sleep(after).await;
    Ok(Response::builder().status(status).body(Script::new(steps).unsized_()).unwrap())
}

fn between(rng: &mut fastrand::Rng, range: Range<Duration>) -> Duration {
    range.start + (range.end - range.start).mul_f64(rng.f64())
}

/// A chat: the first data after 0.3 to 2 s, and then 4 to 12 s.
fn chat(rng: &mut fastrand::Rng) -> Fate {
    Fate::Stream(between(rng, 300 * MS..secs(2)), rng.usize(2..=6))
}

/// This ratio of calls is answered 503 at once.
fn chat_or_503(rng: &mut fastrand::Rng, ratio: f64) -> Fate {
    if rng.f64() < ratio { Fate::Unavailable } else { chat(rng) }
}

/// Clients that wait for ever, each of them a tenant, which begin within this time.
fn clients(count: usize, within: Duration, rng: &mut fastrand::Rng) -> Vec<Client> {
    let mut client = |tenant| {
        let first_call = between(rng, Duration::ZERO..within);
        Client { tenant, patience: FOR_EVER, pause: 500 * MS..1_500 * MS, first_call, model: "" }
    };
    (0..count).map(&mut client).collect()
}

/// Runs something for each seed, prints the least, the median and the greatest of a figure, and returns the greatest.
fn greatest(figure: &str, mut run: impl FnMut(u64, &mut fastrand::Rng) -> f64) -> f64 {
    let seeds = std::env::var("BREAKER_SEEDS").unwrap_or_else(|_| "1..101".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    let seeds = from.parse().unwrap()..to.parse().unwrap();
    let mut all: Vec<f64> = seeds.map(|seed| run(seed, &mut fastrand::Rng::with_seed(!seed))).collect();
    all.sort_by(f64::total_cmp);
    let (least, median, greatest) = (all[0], all[all.len() / 2], all[all.len() - 1]);
    println!("through the layer, {figure}: {least:.2} / {median:.2} / {greatest:.2} of {} seeds", all.len());
    greatest
}

/// Ten minutes with other seeds than 1 to 100, and otherwise less, to be quick.
fn minutes() -> Duration {
    if std::env::var_os("BREAKER_SEEDS").is_some() { secs(600) } else { secs(30) }
}

/// Seconds from `since` to the first of these times, or a day.
fn seconds(times: &[Duration], since: Duration) -> f64 {
    let first = times.iter().filter(|at| **at >= since).min().copied();
    (first.unwrap_or(since + FOR_EVER) - since).as_secs_f64()
}

#[test]
fn ten_percent_of_failures_refuse_at_most_one_percent() {
    let refused = greatest("10 % failing: percent refused", |seed, rng| {
        let seen = World::new(seed, clients(60, secs(10), rng)).run(minutes(), |_, _, rng| chat_or_503(rng, 0.1));
        let refused = seen.calls.iter().filter(|(_, _, refused)| *refused).count();
        100.0 * refused as f64 / seen.calls.len() as f64
    });
    assert!(refused <= 1.0);
}

#[test]
fn forty_percent_of_failures_open_nothing() {
    let opened = greatest("40 % failing from 10 s on: times opened", |seed, rng| {
        let upstream = |_, at, rng: &mut _| chat_or_503(rng, if at < secs(10) { 0.0 } else { 0.4 });
        World::new(seed, clients(60, secs(10), rng)).run(minutes(), upstream).opened.len() as f64
    });
    assert_eq!(opened, 0.0);
}

#[test]
fn a_dead_upstream_that_is_called_every_ten_seconds_opens_within_six_calls() {
    let calls = greatest("dead, one call in 10 s: calls until open", |seed, rng| {
        let mut clients = clients(1, secs(10), rng);
        clients[0].pause = secs(10)..secs(10) + MS;
        let upstream = |_, at, rng: &mut _| if at < secs(120) { chat(rng) } else { Fate::Unavailable };
        let seen = World::new(seed, clients).run(secs(240), upstream);
        let opened = secs(120) + Duration::from_secs_f64(seconds(&seen.opened, secs(120)));
        seen.calls.iter().filter(|(_, at, _)| (secs(120)..opened).contains(at)).count() as f64
    });
    assert!(calls <= 6.0);
}

#[test]
fn when_all_new_calls_fail_it_opens_beside_old_streams_that_flow() {
    let opened = greatest("100 % failing beside 20 old streams: seconds until open", |seed, rng| {
        let upstream = |client, at, rng: &mut _| match client {
            0..20 => Fate::Stream(secs(1), 300),
            _ if at < secs(25) => chat(rng),
            _ => Fate::Unavailable,
        };
        seconds(&World::new(seed, clients(40, secs(10), rng)).run(secs(41), upstream).opened, secs(25))
    });
    assert!(opened <= 15.0);
}

#[test]
fn a_hung_upstream_opens_though_its_callers_leave() {
    for (tenants, limit) in [(20, 25.0), (2, 40.0)] {
        let opened = greatest(&format!("hung, {tenants} tenants leave after 10 s: seconds until open"), |seed, rng| {
            let mut clients = clients(20, secs(10), rng);
            for client in &mut clients {
                client.patience = secs(10);
                client.tenant %= tenants;
            }
            let upstream = |_, at, rng: &mut _| if at < secs(20) { chat(rng) } else { Fate::Hung };
            seconds(&World::new(seed, clients).run(secs(61), upstream).opened, secs(20))
        });
        assert!(opened <= limit);
    }
}

#[test]
fn one_tenant_that_leaves_a_hundred_times_opens_nothing() {
    let opened = greatest("one tenant leaves, others are served: times opened", |seed, rng| {
        let mut clients = clients(12, secs(10), rng);
        // It asks ten at a time for what takes twelve seconds, and leaves after ten.
        for client in &mut clients[..10] {
            (client.tenant, client.patience, client.pause) = (0, secs(10), MS..2 * MS);
        }
        let upstream = |client, _, rng: &mut _| if client < 10 { Fate::Stream(secs(12), 1) } else { chat(rng) };
        let seen = World::new(seed, clients).run(secs(130), upstream);
        assert!(seen.calls.iter().filter(|(client, ..)| *client < 10).count() > 100);
        seen.opened.len() as f64
    });
    assert_eq!(opened, 0.0);
}

#[test]
fn a_model_that_thinks_for_longer_than_its_readers_wait_is_not_taken_for_dead() {
    let opened = greatest("a model thinks for 40 s, readers leave: times opened", |seed, rng| {
        let mut clients = clients(30, secs(40), rng);
        for client in &mut clients[2..] {
            client.patience = between(rng, secs(5)..secs(44));
        }
        let upstream = |_, _, rng: &mut _| Fate::Stream(between(rng, secs(35)..secs(45)), 5);
        let mut world = World::new(seed, clients);
        world.first_byte = secs(90);
        world.run(secs(150), upstream).opened.len() as f64
    });
    assert_eq!(opened, 0.0);
}

#[test]
fn one_of_three_models_that_is_dead_refuses_nothing_of_the_others() {
    let refused = greatest("one of three models dead: calls of the others refused", |seed, rng| {
        let mut clients = clients(15, secs(10), rng);
        for (index, client) in clients.iter_mut().enumerate() {
            client.model = ["dead", "well", "healthy"][index % 3];
        }
        let mut world = World::new(seed, clients);
        world.layer = world.layer.key_by_model();
        let seen = world.run(secs(60), |client, at, rng| match client % 3 {
            0 if at >= secs(20) => Fate::Unavailable,
            _ => chat(rng),
        });
        let refused = |dead: bool| seen.calls.iter().filter(|(client, _, no)| *no && (client % 3 == 0) == dead).count();
        assert!(refused(true) > 0, "the one that is dead is refused");
        refused(false) as f64
    });
    assert_eq!(refused, 0.0);
}

#[test]
fn after_an_outage_the_upstream_is_in_use_again_within_eighteen_seconds() {
    for (outage, fate) in [("503", Fate::Unavailable), ("hung, half of the callers leave after 10 s", Fate::Hung)] {
        for lasts in [20, 60, 90, 300] {
            let (from, to) = (secs(20), secs(20 + lasts));
            let served = greatest(&format!("outage of {lasts} s, {outage}: seconds until served"), |seed, rng| {
                let mut clients = clients(3, secs(10), rng);
                for (index, client) in clients.iter_mut().enumerate() {
                    client.patience = if index % 2 == 0 { FOR_EVER } else { secs(10) };
                    client.pause = secs(1)..secs(3);
                }
                let upstream = move |_, at, rng: &mut _| if (from..to).contains(&at) { fate } else { chat(rng) };
                // What began before the outage, or in it, does not count.
                seconds(&World::new(seed, clients).run(to + secs(20), upstream).served, to + 300 * MS)
            });
            assert!(served <= 18.0);
        }
    }
}
