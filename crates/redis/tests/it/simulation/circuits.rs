//! Circuits that the processes share.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::{Instant, sleep};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitState};
use tower_buttress_redis::{FleetBreaker, RedisModel};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::{PATIENCE, SLACK, Way};
use super::{MS, time};

const PROCESSES: usize = 4;
/// In which things fail.
const TIME: Duration = Duration::from_secs(40);
/// And in which they are well again.
const CALM: Duration = Duration::from_secs(25);
const CALM_OF_RARE: Duration = Duration::from_secs(90);
/// A fault may have made a process go on by itself, until its circuit is closed or open again.
const FELT_FOR: Duration = Duration::from_secs(15);

type Body = Empty<Bytes>;
type Service = BoxCloneSyncService<Request<Body>, StatusCode, Infallible>;

#[derive(Clone)]
struct Upstream {
    history: History,
    inner: Arc<Mutex<Inner>>,
    ways: Arc<Vec<Way>>,
}

#[derive(Default)]
struct Inner {
    is_down: bool,
    /// The process whose network is bad.
    cut_off: Option<usize>,
    /// Probes that are under way: of which process, and since when.
    probes: Vec<(usize, Instant)>,
}

/// Dropped, it is over.
struct Probe {
    upstream: Upstream,
    this: (usize, Instant),
}

// === impl Probe ===

impl Drop for Probe {
    fn drop(&mut self) {
        let mut inner = self.upstream.inner.lock().unwrap();
        let at = inner.probes.iter().position(|probe| *probe == self.this).unwrap();
        inner.probes.remove(at);
    }
}

// === impl Upstream ===

impl Upstream {
    fn process(&self, process: usize, rng: Rng) -> (Service, CircuitBreakerHandle, CircuitBreakerLayer) {
        let breaker = FleetBreaker::new(self.ways[process].clone(), "models");
        let config = CircuitBreakerConfig::new().open_duration(Duration::from_secs(2), Duration::from_secs(4));
        let layer = CircuitBreakerLayer::with_config(config).share(breaker);
        let (upstream, circuit) = (self.clone(), layer.handle());
        let (handle, rng) = (circuit.clone(), Arc::new(Mutex::new(rng)));
        let calls = service_fn(move |request: Request<Body>| {
            let (upstream, is_probe) = (upstream.clone(), handle.state() == CircuitState::HalfOpen);
            check_the_wait(&upstream.history, process, request.extensions().get());
            let takes = time(&mut rng.lock().unwrap(), 5.0, 400.0);
            async move {
                let probe = is_probe.then(|| upstream.probe(process));
                sleep(takes).await;
                drop(probe);
                let inner = upstream.inner.lock().unwrap();
                let well = !inner.is_down && inner.cut_off != Some(process);
                let status = if well { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
                Ok::<_, Infallible>(Response::builder().status(status).body(Body::new()).unwrap())
            }
        });
        let service = layer.layer(calls);
        let service = service.map_response(|response: Response<_>| response.status());
        (BoxCloneSyncService::new(service), circuit, layer)
    }

    fn probe(&self, process: usize) -> Probe {
        let now = Instant::now();
        let mut inner = self.inner.lock().unwrap();
        self.history.say(format!("process {process} tests the upstream"));
        for (other, since) in &inner.probes {
            let from = since.checked_sub(FELT_FOR).unwrap_or(*since);
            if !self.ways[*other].has_crashed() && self.history.is_calm(from, now) {
                self.history.broken(format!("(4) process {process} tests the upstream, and process {other} does"));
            }
        }
        inner.probes.push((process, now));
        Probe { upstream: self.clone(), this: (process, now) }
    }
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let upstream = Upstream { history: history.clone(), inner: Arc::default(), ways: Arc::new(ways.clone()) };
    // In some histories the upstream is always well, and the network of one process is not.
    let is_well = rng.u32(..3) == 0;
    // In some only one process has calls, or all have few.
    let (is_rare, is_alone) = (rng.u32(..3) == 0, rng.u32(..4) == 0);
    let (pause, calm) = if is_rare { ((2_000.0, 12_000.0), CALM_OF_RARE) } else { ((100.0, 900.0), CALM) };
    let fleet: Vec<_> = (0..PROCESSES).map(|process| upstream.process(process, rng.fork())).collect();
    Nemesis { model, ways: ways.clone(), history: history.clone() }.begin(rng.fork(), faults.events, TIME);
    tokio::spawn(weather(upstream.clone(), rng.fork(), is_well));
    let callers: Vec<_> = (0..PROCESSES)
        .map(|process| {
            let (service, way, history) = (fleet[process].0.clone(), ways[process].clone(), history.clone());
            let until = if is_alone && process > 0 { TIME / 2 } else { TIME + calm };
            tokio::spawn(calls(process, service, way, history, (pause, until), rng.fork()))
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    for (process, (_, circuit, _)) in fleet.iter().enumerate() {
        let snapshot = circuit.snapshot();
        if is_well && process != 0 && snapshot.opened > 0 {
            history
                .broken(format!("(4) the circuit of process {process} opened, and the upstream was well all the time"));
        }
        // Without calls nothing tests what a process has opened by itself.
        let has_calls = process == 0 || !is_alone;
        if faults.none() && has_calls && circuit.state() != CircuitState::Closed {
            history.broken(format!("the circuit of process {process} is {:?} at the end", circuit.state()));
        }
    }
    if !upstream.inner.lock().unwrap().probes.is_empty() {
        history.broken("(8) a probe is under way when all is over".into());
    }
}

/// What is the matter with the upstream, or with the network of the first process.
async fn weather(upstream: Upstream, mut rng: Rng, is_well: bool) {
    let begun = Instant::now();
    let mut is_bad = false;
    loop {
        sleep(time(&mut rng, 1_000.0, 12_000.0)).await;
        is_bad = !is_bad && begun.elapsed() < TIME;
        let mut inner = upstream.inner.lock().unwrap();
        if is_well {
            inner.cut_off = is_bad.then_some(0);
            upstream.history.say(format!("the network of process 0 is bad: {is_bad}"));
        } else {
            inner.is_down = is_bad;
            upstream.history.say(format!("the upstream is down: {is_bad}"));
        }
        if begun.elapsed() >= TIME {
            return;
        }
    }
}

async fn calls(
    process: usize,
    service: Service,
    way: Way,
    history: History,
    ((from, to), until): ((f64, f64), Duration),
    mut rng: Rng,
) {
    let begun = Instant::now();
    while begun.elapsed() < until && !way.has_crashed() {
        let came = Instant::now();
        let request = Request::builder().extension(came).body(Body::new()).unwrap();
        if service.clone().oneshot(request).await.unwrap() == StatusCode::SERVICE_UNAVAILABLE {
            check_the_wait(&history, process, Some(&came));
        }
        sleep(time(&mut rng, from, to)).await;
    }
    sleep(MS).await;
}

/// A call is sent, or refused, that came then.
fn check_the_wait(history: &History, process: usize, came: Option<&Instant>) {
    let waited = came.unwrap().elapsed();
    if waited > PATIENCE + SLACK {
        history.broken(format!("(3) a call of process {process} waited {waited:?} for Redis"));
    }
}

#[test]
fn one_process_at_a_time_tests_an_upstream_and_a_bad_network_opens_no_other_circuit() {
    super::run("circuits", history);
}
