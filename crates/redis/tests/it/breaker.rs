//! The circuits of a fleet.

mod orders;
mod probes;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitState};
use tower_buttress_redis::backend::{CircuitBackend, CircuitGroup, ProbeLease, Process as ProcessId, Token};
use tower_buttress_redis::{FleetBreaker, Redis, RedisModel};

use crate::support::slow::Slow;
use crate::support::{Server, until};

type Body = Empty<bytes::Bytes>;

/// An upstream that all processes call.
#[derive(Clone, Default)]
struct Upstream {
    is_down: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    /// For how many seconds it keeps each call waiting.
    hangs: Arc<AtomicUsize>,
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
        let hangs = Duration::from_secs(upstream.hangs.load(SeqCst) as u64);
        async move {
            tokio::time::sleep(Duration::from_millis(50) + hangs).await;
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

fn fleet(of: usize, model: &RedisModel, upstream: &Upstream) -> Vec<Process> {
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
    let (model, upstream) = (RedisModel::new(), down());
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
    let (model, upstream) = (RedisModel::new(), down());
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
    let (model, upstream) = (RedisModel::new(), Upstream::default());
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
async fn a_machine_whose_network_is_bad_opens_no_circuit_but_its_own_however_often_it_restarts() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let fleet = fleet(7, &model, &upstream);
    for _ in 0..10 {
        let bad = process(model.clone(), &upstream);
        bad.has_no_network.store(true, SeqCst);
        for second in 0..50 {
            bad.call().await;
            // So rare that their successes do not outweigh votes.
            if second % 15 == 0 {
                for process in &fleet {
                    process.call().await;
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(bad.state(), CircuitState::Open);
        assert!(fleet.iter().all(|process| process.circuit.snapshot().opened == 0));
    }
}

#[tokio::test]
async fn layers_of_one_process_have_one_vote() {
    let (server, upstream) = (Server::start(), down());
    let options = server.fresh();
    let (redis, other) = (Redis::new(options.clone()).unwrap(), Redis::new(options).unwrap());
    let layers = [process(redis.clone(), &upstream), process(redis, &upstream)];
    for layer in &layers {
        layer.calls(5).await;
        assert_eq!(layer.state(), CircuitState::Open);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let votes = other.look(circuit, ProcessId::random(), Duration::from_secs(60)).await.unwrap();
    assert_eq!((votes.votes, votes.active), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_learns_of_open_circuits_before_its_first_call() {
    let (model, upstream) = (RedisModel::new(), down());
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
async fn a_process_that_starts_learns_of_an_open_circuit_in_one_round_trip() {
    let (model, upstream) = (RedisModel::new(), down());
    let old = fleet(2, &model, &upstream);
    settle().await;
    old[0].calls(5).await;
    old[1].calls(1).await;
    settle().await;
    let takes = Duration::from_millis(40);
    let new = process(Slow::new(model, takes, takes), &upstream);
    tokio::time::sleep(takes + Duration::from_millis(2)).await;
    assert_eq!(new.state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_vote_does_not_wait_for_a_subscription() {
    let (model, upstream) = (RedisModel::new(), down());
    let slow = Slow::new(model.clone(), Duration::ZERO, Duration::from_secs(2));
    let process = process(slow, &upstream);
    process.calls(5).await;
    settle().await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let votes = model.look(circuit, ProcessId::random(), Duration::from_secs(1)).await.unwrap();
    assert_eq!((process.state(), votes.votes), (CircuitState::Open, 1));
}

#[tokio::test(start_paused = true)]
async fn without_the_backend_each_goes_on_by_itself() {
    let (model, upstream) = (RedisModel::new(), down());
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
    let (model, upstream) = (RedisModel::new(), down());
    let fleet = fleet(4, &model, &upstream);
    settle().await;
    // Two vote while nothing is received.
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
    let new = || with(short(), Redis::new(options.clone()).unwrap(), &upstream);
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

#[tokio::test(start_paused = true)]
async fn votes_for_many_circuits_do_not_wait_for_each_other() {
    let (model, takes) = (RedisModel::new(), Duration::from_millis(90));
    let breaker = FleetBreaker::new(Slow::new(model.clone(), takes, takes), "models");
    let config = CircuitBreakerConfig::new().consecutive_failures(1);
    let layer = CircuitBreakerLayer::with_config(config).key(|parts| Some(parts.uri.to_string().into())).share(breaker);
    let dead = layer.layer(service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(Response::builder().status(502).body(Body::new()).unwrap())
    }));
    let keys: Vec<String> = (0..100).map(|key| format!("http://upstream/{key}")).collect();
    for key in &keys {
        let _ = dead.clone().oneshot(Request::get(key).body(Body::new()).unwrap()).await.unwrap();
    }
    // Two operations for 64 of them at the same time, and two for the others: what they are, and that they are open.
    tokio::time::sleep(takes * 9).await;
    let mut votes = 0;
    for key in &keys {
        let circuit = CircuitGroup::new("models").circuit(Some(key));
        votes += model.look(circuit, ProcessId::random(), Duration::from_secs(1)).await.unwrap().votes;
    }
    assert_eq!(votes, 100);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_keeps_no_circuit_open() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (model, upstream) = (RedisModel::new(), down());
    let fleet = fleet(4, &model, &upstream);
    settle().await;
    for process in &fleet {
        process.calls(5).await;
    }
    settle().await;
    assert!(fleet.iter().all(|process| process.state() == CircuitState::Open));
    model.jump_back(HOUR);
    upstream.is_down.store(false, SeqCst);
    let begun = Instant::now();
    while fleet.iter().any(|process| process.state() != CircuitState::Closed) {
        assert!(begun.elapsed() < 4 * OPEN, "{:?}", fleet.iter().map(Process::state).collect::<Vec<_>>());
        for process in &fleet {
            process.call().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Nor does a process hold the lease of a probe for longer that it has left with it.
    let (group, [one, two]) = (CircuitGroup::new("models"), [Token::random(), Token::random()]);
    let lease = |token| model.probe(group.circuit(Some("other")), token, Duration::from_secs(60));
    assert_eq!(lease(one).await.unwrap(), ProbeLease::Granted { unanswered: 0, is_wanted: false });
    model.jump_back(HOUR);
    assert_eq!(lease(two).await.unwrap(), ProbeLease::Wait(Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lease(two).await.unwrap(), ProbeLease::Granted { unanswered: 0, is_wanted: false });
}
