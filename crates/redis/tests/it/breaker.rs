//! The circuits of a fleet.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitState};
use tower_buttress_redis::backend::CircuitBackend;
use tower_buttress_redis::{FleetBreaker, Model};

use crate::support::{Server, until};

type Body = Empty<bytes::Bytes>;

/// An upstream that all processes call.
#[derive(Clone, Default)]
struct Upstream {
    is_down: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
}

/// One process of a fleet.
struct Process {
    service: BoxCloneSyncService<Request<Body>, StatusCode, Infallible>,
    circuit: CircuitBreakerHandle,
    has_no_network: Arc<AtomicBool>,
    _layer: CircuitBreakerLayer,
}

/// The default open time.
const OPEN: Duration = Duration::from_secs(5);

fn process<B: CircuitBackend>(backend: B, upstream: &Upstream) -> Process {
    with(CircuitBreakerConfig::new(), backend, upstream)
}

fn with<B: CircuitBackend>(config: CircuitBreakerConfig, backend: B, upstream: &Upstream) -> Process {
    let layer = CircuitBreakerLayer::with_config(config).share(FleetBreaker::new(backend, "models"));
    let (upstream, has_no_network) = (upstream.clone(), Arc::new(AtomicBool::new(false)));
    let is_cut_off = has_no_network.clone();
    let calls = service_fn(move |_: Request<_>| {
        let reached = !is_cut_off.load(SeqCst);
        let well = reached && !upstream.is_down.load(SeqCst);
        upstream.calls.fetch_add(usize::from(reached), SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let status = if well { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
            Ok::<_, Infallible>(Response::builder().status(status).body(Body::new()).unwrap())
        }
    });
    let service = layer.layer(calls).map_response(|response: Response<_>| response.status());
    Process { service: BoxCloneSyncService::new(service), circuit: layer.handle(), has_no_network, _layer: layer }
}

impl Process {
    async fn call(&self) -> StatusCode {
        self.service.clone().oneshot(Request::new(Body::new())).await.unwrap()
    }

    async fn calls(&self, times: usize) {
        for _ in 0..times {
            self.call().await;
        }
    }

    fn state(&self) -> CircuitState {
        self.circuit.state()
    }
}

fn fleet(of: usize, model: &Model, upstream: &Upstream) -> Vec<Process> {
    (0..of).map(|_| process(model.clone(), upstream)).collect()
}

/// Messages are on their way.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn down() -> Upstream {
    let upstream = Upstream::default();
    upstream.is_down.store(true, SeqCst);
    upstream
}

#[tokio::test(start_paused = true)]
async fn what_one_process_found_out_costs_another_one_call() {
    let (model, upstream) = (Model::new(), down());
    let fleet = fleet(2, &model, &upstream);
    settle().await;
    fleet[0].calls(5).await;
    settle().await;
    assert_eq!((fleet[0].state(), fleet[1].state()), (CircuitState::Open, CircuitState::Closed));
    fleet[1].calls(3).await;
    assert_eq!(fleet[1].state(), CircuitState::Open);
    assert_eq!(upstream.calls.load(SeqCst), 6);
}

#[tokio::test(start_paused = true)]
async fn half_of_the_fleet_opens_the_circuits_of_all() {
    let (model, upstream) = (Model::new(), down());
    let fleet = fleet(4, &model, &upstream);
    settle().await;
    fleet[0].calls(5).await;
    settle().await;
    fleet[1].calls(1).await;
    settle().await;
    assert!(fleet.iter().all(|process| process.state() == CircuitState::Open));
    assert_eq!(upstream.calls.load(SeqCst), 6);
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_network_is_bad_opens_no_circuit_but_its_own() {
    let (model, upstream) = (Model::new(), Upstream::default());
    let fleet = fleet(8, &model, &upstream);
    fleet[0].has_no_network.store(true, SeqCst);
    for _ in 0..60 {
        for process in &fleet {
            process.call().await;
        }
        assert!(fleet[1..].iter().all(|process| process.state() == CircuitState::Closed));
    }
    assert_eq!(fleet[0].state(), CircuitState::Open);
    assert!(fleet[1..].iter().all(|process| process.circuit.snapshot().opened == 0));
}

#[tokio::test(start_paused = true)]
async fn one_process_at_a_time_tests_the_upstream_and_all_close_with_it() {
    let (model, upstream) = (Model::new(), down());
    let fleet = fleet(8, &model, &upstream);
    settle().await;
    for process in &fleet {
        process.calls(5).await;
    }
    settle().await;
    let before = upstream.calls.load(SeqCst);
    // All have calls to make, all the time, for three open times and the jitter of the last.
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < OPEN * 4 {
        for process in &fleet {
            process.call().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let probes = upstream.calls.load(SeqCst) - before;
    assert!((2..=4).contains(&probes), "{probes} calls went to an upstream that is down");
    upstream.is_down.store(false, SeqCst);
    let before = upstream.calls.load(SeqCst);
    while upstream.calls.load(SeqCst) == before {
        for process in &fleet {
            process.call().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < OPEN * 8, "nobody tests it");
    }
    settle().await;
    assert!(fleet.iter().all(|process| process.state() == CircuitState::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_process_without_calls_lets_another_test_the_upstream() {
    let (model, upstream) = (Model::new(), down());
    let fleet = fleet(2, &model, &upstream);
    settle().await;
    fleet[0].calls(5).await;
    fleet[1].calls(1).await;
    upstream.is_down.store(false, SeqCst);
    // Only the second has calls to make.
    let begun = tokio::time::Instant::now();
    while fleet[1].state() != CircuitState::Closed {
        fleet[1].call().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < OPEN * 4, "it is not tested");
    }
    settle().await;
    assert_eq!(fleet[0].state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_learns_of_open_circuits_before_its_first_call() {
    let (model, upstream) = (Model::new(), down());
    let old = fleet(2, &model, &upstream);
    settle().await;
    old[0].calls(5).await;
    old[1].calls(1).await;
    settle().await;
    let new = process(model.clone(), &upstream);
    settle().await;
    assert_eq!(new.state(), CircuitState::Open);
    assert_eq!(new.call().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(upstream.calls.load(SeqCst), 6);
}

#[tokio::test(start_paused = true)]
async fn without_the_backend_each_goes_on_by_itself() {
    let (model, upstream) = (Model::new(), down());
    model.set_reachable(false);
    let fleet = fleet(2, &model, &upstream);
    fleet[0].calls(5).await;
    settle().await;
    fleet[1].calls(4).await;
    assert_eq!((fleet[0].state(), fleet[1].state()), (CircuitState::Open, CircuitState::Closed));
    upstream.is_down.store(false, SeqCst);
    tokio::time::sleep(OPEN * 2).await;
    assert_eq!(fleet[0].call().await, StatusCode::OK);
    assert_eq!(fleet[0].state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn votes_that_were_lost_in_an_outage_are_made_up_for() {
    let (model, upstream) = (Model::new(), down());
    let fleet = fleet(4, &model, &upstream);
    settle().await;
    // Two vote while nothing is heard.
    model.set_reachable(false);
    fleet[0].calls(5).await;
    fleet[1].calls(5).await;
    model.set_reachable(true);
    settle().await;
    // Their votes were lost, and are made up for.
    assert_eq!(fleet[2].state(), CircuitState::Open);
}

#[tokio::test]
async fn it_is_the_same_on_a_real_redis() {
    let (server, upstream) = (Server::start(), down());
    let options = server.fresh();
    let short = || CircuitBreakerConfig::new().open_duration(Duration::from_millis(500), Duration::from_secs(1));
    let new = || with(short(), tower_buttress_redis::Redis::new(options.clone()).unwrap(), &upstream);
    let fleet: Vec<Process> = (0..3).map(|_| new()).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet[0].calls(5).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet[1].calls(1).await;
    until("the circuits of all open", || fleet.iter().all(|process| process.state() != CircuitState::Closed)).await;
    assert_eq!(upstream.calls.load(SeqCst), 6);
    let late = new();
    until("a process that starts learns of it", || late.state() == CircuitState::Open).await;
    upstream.is_down.store(false, SeqCst);
    let begun = std::time::Instant::now();
    while !fleet.iter().chain([&late]).all(|process| process.state() == CircuitState::Closed) {
        fleet[2].call().await;
        assert!(begun.elapsed() < Duration::from_secs(20), "they do not close");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
