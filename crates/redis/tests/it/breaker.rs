//! The circuits of a fleet.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitOrder, CircuitState};
use tower_buttress_redis::backend::{
    CircuitBackend, CircuitGroup, GivenOrder, HeldOrder, NumberedOrder, ProbeLease, ProbeVerdict, Process as ProcessId,
    Token,
};
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
async fn one_process_at_a_time_tests_the_upstream_and_all_close_with_it() {
    let (model, upstream) = (RedisModel::new(), down());
    let fleet = fleet(8, &model, &upstream);
    settle().await;
    for process in &fleet {
        process.calls(5).await;
    }
    settle().await;
    let before = upstream.calls.load(SeqCst);
    // All have calls to make, all the time, for three open times and the jitter of the last.
    let begun = Instant::now();
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
        assert!(begun.elapsed() < OPEN * 8, "no process probes it");
    }
    settle().await;
    assert!(fleet.iter().all(|process| process.state() == CircuitState::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_process_without_calls_lets_another_test_the_upstream() {
    let (model, upstream) = (RedisModel::new(), down());
    let fleet = fleet(2, &model, &upstream);
    settle().await;
    fleet[0].calls(5).await;
    fleet[1].calls(1).await;
    upstream.is_down.store(false, SeqCst);
    // Only the second has calls to make.
    let begun = Instant::now();
    while fleet[1].state() != CircuitState::Closed {
        fleet[1].call().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < OPEN * 4, "it is not tested");
    }
    settle().await;
    assert_eq!(fleet[0].state(), CircuitState::Closed);
}

/// How many calls, this far apart, find the upstream healthy again after the open time.
async fn calls_until_closed(caller: &Process, upstream: &Upstream, apart: Duration) -> usize {
    upstream.is_down.store(false, SeqCst);
    // The longest, with jitter and the time to ask for the lease.
    tokio::time::sleep(OPEN + Duration::from_secs(1)).await;
    for calls in 1..=20 {
        if caller.call().await == StatusCode::OK {
            assert_eq!(caller.state(), CircuitState::Closed);
            return calls;
        }
        tokio::time::sleep(apart).await;
    }
    panic!("calls {apart:?} apart never close it");
}

#[tokio::test(start_paused = true)]
async fn the_first_call_after_the_open_time_tests_the_upstream_however_rare_calls_are() {
    for apart in [1, 4, 10, 70, 600].map(Duration::from_secs) {
        let (model, upstream) = (RedisModel::new(), down());
        let one = process(model, &upstream);
        settle().await;
        one.calls(5).await;
        tokio::time::sleep(apart).await;
        assert_eq!(calls_until_closed(&one, &upstream, apart).await, 1, "{apart:?} apart");
    }
}

#[tokio::test(start_paused = true)]
async fn rare_calls_to_one_of_many_processes_close_the_circuits_of_all() {
    for apart in [4, 10, 70].map(Duration::from_secs) {
        let (model, upstream) = (RedisModel::new(), down());
        let fleet = fleet(4, &model, &upstream);
        settle().await;
        for process in &fleet {
            process.calls(5).await;
        }
        let calls = calls_until_closed(&fleet[3], &upstream, apart).await;
        assert!(calls <= 3, "{apart:?} apart: {calls} calls");
        settle().await;
        assert!(fleet.iter().all(|process| process.state() == CircuitState::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn processes_that_all_have_rare_calls_do_not_take_the_test_from_each_other_for_ever() {
    const APART: Duration = Duration::from_secs(10);
    for seed in 0..20 {
        fastrand::seed(seed);
        let (model, upstream) = (RedisModel::new(), down());
        let fleet = fleet(4, &model, &upstream);
        settle().await;
        for process in &fleet {
            process.calls(5).await;
        }
        upstream.is_down.store(false, SeqCst);
        let begun = Instant::now();
        while fleet.iter().any(|process| process.state() != CircuitState::Closed) {
            for process in &fleet {
                process.call().await;
                tokio::time::sleep(APART / 4).await;
            }
            assert!(begun.elapsed() < APART * 6, "it is not tested");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stops_with_the_lease_keeps_it_for_seconds() {
    let (model, upstream) = (RedisModel::new(), down());
    let way = model.connection();
    let one = process(way.clone(), &upstream);
    settle().await;
    one.calls(5).await;
    // It has the lease for as long as it has no call, and is then cut off.
    tokio::time::sleep(OPEN * 20).await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let asks = async || model.probe(circuit, Token::random(), Duration::from_secs(1)).await.unwrap();
    way.set_connected(false);
    assert!(matches!(asks().await, ProbeLease::Wait(_)));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let lease = asks().await;
    assert!(matches!(lease, ProbeLease::Granted { .. }), "{lease:?}");
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

/// Two processes whose circuits are open, and of which the first is cut off while its probe is under way. It is back 200 ms
/// after that.
async fn cut_off_while_it_probes(upstream: &Upstream, is_well: bool) -> [Process; 2] {
    let model = RedisModel::new();
    let cut_off = model.connection();
    let fleet = [process(cut_off.clone(), upstream), process(model, upstream)];
    settle().await;
    fleet[0].calls(5).await;
    fleet[1].calls(1).await;
    upstream.is_down.store(!is_well, SeqCst);
    let begun = Instant::now();
    loop {
        let before = upstream.calls.load(SeqCst);
        let probes = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let probes = upstream.calls.load(SeqCst) > before;
            cut_off.set_connected(!probes);
            probes
        };
        if tokio::join!(fleet[0].call(), probes).1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < OPEN * 4, "it is not tested");
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    cut_off.set_connected(true);
    fleet
}

#[tokio::test(start_paused = true)]
async fn a_success_that_could_not_be_reported_closes_all_circuits_once_it_is() {
    let upstream = down();
    let fleet = cut_off_while_it_probes(&upstream, true).await;
    assert_eq!((fleet[0].state(), fleet[1].state()), (CircuitState::Closed, CircuitState::Open));
    let begun = Instant::now();
    while fleet[1].state() != CircuitState::Closed {
        settle().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "it is not notified");
    }
    assert_eq!(fleet[0].state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_could_not_be_reported_leaves_the_next_test_to_another() {
    let upstream = down();
    let fleet = cut_off_while_it_probes(&upstream, false).await;
    assert_eq!((fleet[0].state(), fleet[1].state()), (CircuitState::Open, CircuitState::Open));
    upstream.is_down.store(false, SeqCst);
    // Only the second has calls to make.
    let begun = Instant::now();
    while fleet[1].state() != CircuitState::Closed {
        fleet[1].call().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < OPEN * 5, "it may not be tested");
    }
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

async fn orders_reach_every_process<B: CircuitBackend>(new: impl Fn() -> B) {
    let upstream = Upstream::default();
    let process = || process(new(), &upstream);
    let fleet = [process(), process(), process()];
    let all_are = async |state: CircuitState| {
        let begun = std::time::Instant::now();
        while fleet.iter().any(|process| process.state() != state) {
            assert!(begun.elapsed() < Duration::from_secs(10), "not all are {state}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    all_are(CircuitState::Isolated).await;
    assert_eq!(fleet[2].call().await, 503);
    // One that starts obeys, too.
    let new = process();
    let begun = std::time::Instant::now();
    while new.state() != CircuitState::Isolated {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not notified");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Any process can end it.
    fleet[1].circuit.order_everywhere(CircuitOrder::Close);
    all_are(CircuitState::Closed).await;
    assert_eq!(fleet[0].call().await, 200);
    fleet[2].circuit.order_everywhere(CircuitOrder::Disable);
    all_are(CircuitState::Disabled).await;
    // What is set otherwise is one process's, and the order is not carried out again.
    fleet[0].circuit.close();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((fleet[0].state(), fleet[1].state()), (CircuitState::Closed, CircuitState::Disabled));
}

#[tokio::test(start_paused = true)]
async fn an_operators_order_reaches_every_process() {
    let model = RedisModel::new();
    orders_reach_every_process(|| model.clone()).await;
}

#[tokio::test]
async fn an_operators_order_reaches_every_process_over_a_real_redis() {
    let server = Server::start();
    let options = server.fresh();
    orders_reach_every_process(|| Redis::new(options.clone()).unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn an_order_outlives_outages_and_restarts_of_the_backend() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let fleet = fleet(3, &model, &upstream);
    settle().await;
    // Given while the backend is away, it is told later.
    model.set_reachable(false);
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    settle().await;
    assert_eq!((fleet[0].state(), fleet[1].state()), (CircuitState::Isolated, CircuitState::Closed));
    model.set_reachable(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(fleet.iter().all(|process| process.state() == CircuitState::Isolated));
    // The backend has forgotten it: those who obey it do not, and tell it to one that starts.
    model.restart();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let new = process(model.clone(), &upstream);
    settle().await;
    assert!(fleet.iter().chain([&new]).all(|process| process.state() == CircuitState::Isolated));
    // The latest order counts, whichever is told first.
    fleet[1].circuit.order_everywhere(CircuitOrder::MetricsOnly);
    fleet[2].circuit.order_everywhere(CircuitOrder::Close);
    settle().await;
    let states: Vec<_> = fleet.iter().chain([&new]).map(Process::state).collect();
    assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    // It holds for days.
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert!(fleet.iter().all(|process| process.state() == CircuitState::Isolated));
    let late = process(model, &upstream);
    settle().await;
    assert_eq!(late.state(), CircuitState::Isolated);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_could_not_be_published_does_not_undo_a_later_one() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let cut_off = model.connection();
    let fleet = [process(cut_off.clone(), &upstream), process(model.clone(), &upstream), process(model, &upstream)];
    settle().await;
    cut_off.set_connected(false);
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet[1].circuit.order_everywhere(CircuitOrder::Disable);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cut_off.set_connected(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let states = fleet.each_ref().map(Process::state);
    assert_eq!(states, [CircuitState::Disabled; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_opened_after_it_was_to_close_stays_open() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let cut_off = model.connection();
    let fleet = [process(model.clone(), &upstream), process(cut_off.clone(), &upstream)];
    settle().await;
    cut_off.set_connected(false);
    fleet[0].circuit.order_everywhere(CircuitOrder::Close);
    tokio::time::sleep(Duration::from_secs(60)).await;
    upstream.is_down.store(true, SeqCst);
    fleet[1].calls(5).await;
    assert_eq!(fleet[1].state(), CircuitState::Open);
    // It hears of the order now.
    cut_off.set_connected(true);
    settle().await;
    assert_eq!(fleet[1].state(), CircuitState::Open);
    // What was isolated before is closed, however late it arrives.
    fleet[1].circuit.order_everywhere(CircuitOrder::Isolate);
    settle().await;
    cut_off.set_connected(false);
    fleet[0].circuit.order_everywhere(CircuitOrder::Close);
    tokio::time::sleep(Duration::from_secs(60)).await;
    cut_off.set_connected(true);
    settle().await;
    assert_eq!(fleet[1].state(), CircuitState::Closed);
}

async fn later_orders_count<B: CircuitBackend>(backend: B) {
    let (circuit, process) = (CircuitGroup::new("models").circuit(None), ProcessId::random());
    let give = async |order, seconds, known| {
        let given = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let order = GivenOrder { order, given, id: Token::random(), known };
        backend.order(circuit, process, order).await.unwrap().order
    };
    let age = Duration::from_secs(1);
    let again = async |order| backend.order_again(circuit, process, HeldOrder { order, age }).await.unwrap().order;
    let held = async || backend.ordered(circuit).await.unwrap().map(|held| held.order);
    assert_eq!(held().await, None);
    let first = give(CircuitOrder::Isolate, 0, 0).await;
    let second = give(CircuitOrder::Close, 0, 0).await;
    assert!(second.number > first.number && second.order == CircuitOrder::Close);
    assert_eq!(held().await, Some(second));
    // One that is told again does not undo a later one, and one with a higher number is not known yet.
    assert_eq!((again(first).await, again(second).await), (second, second));
    let third = NumberedOrder { number: second.number + 5_000, order: CircuitOrder::Disable };
    assert_eq!(again(third).await, third);
    assert_eq!(held().await, Some(third));
    let fourth = give(CircuitOrder::Close, 0, 0).await;
    assert!(fourth.number > third.number);
    // One that was given before that, and is told only now, does not undo it; one that was given later does.
    assert_eq!(give(CircuitOrder::Isolate, 20, 0).await, fourth);
    assert_eq!(give(CircuitOrder::Isolate, 20, fourth.number).await.order, CircuitOrder::Isolate);
    // Where it is told first, it holds, and is as old as it is.
    let circuit = CircuitGroup::new("models").circuit(Some("other"));
    let given = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
    let order = GivenOrder { order: CircuitOrder::Close, given, id: Token::random(), known: 0 };
    let late = backend.order(circuit, process, order).await.unwrap();
    assert_eq!((late.order.order, late.age.as_secs()), (CircuitOrder::Close, 20));
    assert_eq!(backend.ordered(circuit).await.unwrap().unwrap().age.as_secs(), 20);
    // The clock of the engine is behind, and it has forgotten all: the order comes behind that which is obeyed.
    let known = late.order.number + 1_000_000;
    let order = GivenOrder { order: CircuitOrder::Isolate, given: Instant::now(), id: Token::random(), known };
    assert_eq!(backend.order(circuit, process, order).await.unwrap().order.number, known + 1);
}

/// Told again, an order changes nothing that was ordered since, also where the clock of the engine has jumped.
async fn orders_that_are_published_again_change_nothing<B: CircuitBackend>(backend: B) {
    let (circuit, process) = (CircuitGroup::new("models").circuit(None), ProcessId::random());
    let order = |order| GivenOrder { order, given: Instant::now(), id: Token::random(), known: 0 };
    let give = async |order| backend.order(circuit, process, order).await.unwrap().order;
    let (first, second) = (order(CircuitOrder::Isolate), order(CircuitOrder::Disable));
    let taken = give(first).await;
    assert_eq!(give(first).await, taken, "its reply was lost");
    let holds = give(second).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // It seems to have been given after the second one.
    assert_eq!(give(GivenOrder { given: Instant::now(), ..first }).await, holds);
    assert_eq!(backend.ordered(circuit).await.unwrap().unwrap().order, holds);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_published_again_changes_nothing_in_the_model_as_in_redis() {
    orders_that_are_published_again_change_nothing(RedisModel::new()).await;
    tokio::time::resume();
    let server = Server::start();
    orders_that_are_published_again_change_nothing(server.redis()).await;
}

#[tokio::test(start_paused = true)]
async fn an_order_that_is_published_late_does_not_undo_a_later_one_when_the_clock_has_jumped() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let cut_off = model.connection();
    let fleet =
        [process(cut_off.clone(), &upstream), process(model.clone(), &upstream), process(model.clone(), &upstream)];
    settle().await;
    let states = || fleet.each_ref().map(Process::state);
    cut_off.set_connected(false);
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet[1].circuit.order_everywhere(CircuitOrder::Disable);
    tokio::time::sleep(Duration::from_secs(1)).await;
    model.jump(Duration::from_secs(60));
    cut_off.set_connected(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(states(), [CircuitState::Disabled; 3]);
    // Where the clock had jumped before, it is the later one all the same.
    cut_off.set_connected(false);
    model.jump(Duration::from_secs(60));
    fleet[1].circuit.order_everywhere(CircuitOrder::MetricsOnly);
    tokio::time::sleep(Duration::from_secs(3)).await;
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    tokio::time::sleep(Duration::from_secs(3)).await;
    cut_off.set_connected(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(states(), [CircuitState::Isolated; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_learns_of_orders_late_does_not_bring_the_older_one_back() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let cut_off = model.connection();
    // Each operation takes it 5 s, and news come at once. When it has subscribed, after 5 s, it looks for what it has missed.
    let slow = Slow::new(model.clone(), Duration::from_secs(5), Duration::ZERO);
    let fleet = [process(model.clone(), &upstream), process(cut_off.clone(), &upstream), process(slow, &upstream)];
    tokio::time::sleep(Duration::from_secs(6)).await;
    // It is busy for four more seconds.
    fleet[0].circuit.order_everywhere(CircuitOrder::Isolate);
    settle().await;
    cut_off.set_connected(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet[1].circuit.order_everywhere(CircuitOrder::Disable);
    // The later order can be told when the busy process has received the first one.
    tokio::time::sleep(Duration::from_secs(3)).await;
    cut_off.set_connected(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(fleet.each_ref().map(Process::state), [CircuitState::Disabled; 3]);
}

#[tokio::test(start_paused = true)]
async fn orders_to_many_circuits_do_not_wait_for_each_other() {
    let (model, takes) = (RedisModel::new(), Duration::from_millis(90));
    let layer = |takes| {
        let breaker = FleetBreaker::new(Slow::new(model.clone(), takes, takes), "models");
        CircuitBreakerLayer::new().share(breaker)
    };
    let (ordering, obeying) = (layer(takes), layer(Duration::ZERO));
    let keys: Vec<String> = (0..100).map(|key| format!("model {key}")).collect();
    let circuits: Vec<_> = keys.iter().map(|key| (ordering.handle_for(key), obeying.handle_for(key))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    circuits.iter().for_each(|(circuit, _)| circuit.order_everywhere(CircuitOrder::Isolate));
    // One operation for 64 of them, and one for the others.
    tokio::time::sleep(takes * 3).await;
    assert!(circuits.iter().all(|(_, circuit)| circuit.state() == CircuitState::Isolated));
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
async fn an_order_behind_thousands_of_others_is_not_lost() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let fleet = fleet(2, &model, &upstream);
    settle().await;
    // Nothing is carried out meanwhile.
    for _ in 0..3_000 {
        fleet[0].circuit.isolate();
        fleet[0].circuit.close();
    }
    fleet[0].circuit.order_everywhere(CircuitOrder::Disable);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet[1].state(), CircuitState::Disabled);
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_reply_was_lost_ends_soon() {
    let (model, upstream) = (RedisModel::new(), down());
    let deaf = Slow::new(model.clone(), Duration::ZERO, Duration::ZERO);
    let one = process(deaf.clone(), &upstream);
    settle().await;
    one.calls(5).await;
    // It is granted the lease, and does not hear of it: it goes on by itself, and has no call to make.
    deaf.loses_leases.store(true, SeqCst);
    tokio::time::sleep(OPEN + Duration::from_millis(700)).await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let asks = async || model.probe(circuit, Token::random(), Duration::from_millis(1)).await.unwrap();
    assert!(matches!(asks().await, ProbeLease::Wait(_)));
    // Another may test the upstream soon.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let lease = asks().await;
    assert!(matches!(lease, ProbeLease::Granted { .. }), "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_under_a_lease_whose_reply_was_lost_closes_all_circuits() {
    let (model, upstream) = (RedisModel::new(), down());
    let deaf = Slow::new(model.clone(), Duration::ZERO, Duration::ZERO);
    let fleet = [process(deaf.clone(), &upstream), process(model, &upstream)];
    settle().await;
    fleet[0].calls(5).await;
    fleet[1].calls(1).await;
    // One of them has the lease by then. The other asks for it when it is called.
    tokio::time::sleep(OPEN * 4).await;
    deaf.loses_leases.store(true, SeqCst);
    upstream.is_down.store(false, SeqCst);
    let begun = Instant::now();
    while fleet[0].state() != CircuitState::Closed {
        fleet[0].call().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(begun.elapsed() < OPEN * 4, "it is not tested");
    }
    settle().await;
    assert_eq!(fleet[1].state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_that_is_set_by_hand_gives_its_lease_back() {
    let (model, upstream) = (RedisModel::new(), down());
    let one = process(model.clone(), &upstream);
    settle().await;
    one.calls(5).await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let asks = async || model.probe(circuit, Token::random(), Duration::from_millis(1)).await.unwrap();
    // It asks a moment after its open time, and has the lease then.
    tokio::time::sleep(OPEN + Duration::from_millis(700)).await;
    assert!(matches!(asks().await, ProbeLease::Wait(_)));
    one.circuit.isolate();
    settle().await;
    let lease = asks().await;
    assert!(matches!(lease, ProbeLease::Granted { .. }), "{lease:?}");
}

#[tokio::test(start_paused = true)]
async fn orders_are_numbered_in_the_model_as_in_redis() {
    later_orders_count(RedisModel::new()).await;
    tokio::time::resume();
    let server = Server::start();
    later_orders_count(server.redis()).await;
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

#[tokio::test(start_paused = true)]
async fn however_long_a_probe_takes_no_other_process_joins_it() {
    let (model, upstream) = (RedisModel::new(), down());
    let process = process(model.clone(), &upstream);
    settle().await;
    process.calls(5).await;
    upstream.is_down.store(false, SeqCst);
    upstream.hangs.store(150, SeqCst);
    // It has the lease a moment after its open time, for two seconds without a call.
    tokio::time::sleep(OPEN + Duration::from_millis(1_200)).await;
    let begun = Instant::now();
    let ours = process.call();
    let others = async {
        let circuit = CircuitGroup::new("models").circuit(None);
        tokio::time::sleep(Duration::from_secs(1)).await;
        while begun.elapsed() < Duration::from_secs(149) {
            let lease = model.probe(circuit, Token::random(), Duration::from_secs(1)).await.unwrap();
            assert!(matches!(lease, ProbeLease::Wait(_)), "{:?}: {lease:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    assert_eq!(tokio::join!(ours, others).0, StatusCode::OK);
    assert_eq!(process.state(), CircuitState::Closed);
}

/// What another process does that has calls: it asks every second, and has the lease soon.
async fn take_the_lease(model: &RedisModel, token: Token, lease: Duration) {
    let (circuit, begun) = (CircuitGroup::new("models").circuit(None), Instant::now());
    while !matches!(model.probe(circuit, token, lease).await.unwrap(), ProbeLease::Granted { .. }) {
        assert!(begun.elapsed() < Duration::from_secs(12), "it is not returned");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_leaves_lets_another_process_test_the_upstream() {
    let (model, upstream) = (RedisModel::new(), down());
    let process = process(model.clone(), &upstream);
    settle().await;
    process.calls(5).await;
    upstream.hangs.store(150, SeqCst);
    tokio::time::sleep(OPEN + Duration::from_millis(1_200)).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), process.call()).await.is_err());
    // It is found out with the next look, and no call comes for two seconds.
    take_the_lease(&model, Token::random(), Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_keeps_its_lease_when_another_process_opens_the_circuit() {
    let (model, upstream) = (RedisModel::new(), down());
    let process = process(model.clone(), &upstream);
    settle().await;
    process.calls(5).await;
    upstream.is_down.store(false, SeqCst);
    upstream.hangs.store(150, SeqCst);
    tokio::time::sleep(OPEN + Duration::from_millis(1_200)).await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let others = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let open_for = Duration::from_secs(60);
        model.vote(circuit, ProcessId::random(), open_for, open_for).await.unwrap();
        for second in 0..120 {
            let lease = model.probe(circuit, Token::random(), Duration::from_secs(1)).await.unwrap();
            let is_granted = matches!(lease, ProbeLease::Granted { .. });
            assert!(!is_granted, "{second} s after that: {lease:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    assert_eq!(tokio::join!(process.call(), others).0, StatusCode::OK);
    // Its answer counts.
    settle().await;
    let votes = model.look(circuit, ProcessId::random(), Duration::from_secs(1)).await.unwrap();
    assert_eq!((process.state(), votes.votes), (CircuitState::Closed, 0));
}

/// A lease is renewed while another process has the circuit open, and a new one is not granted.
async fn a_lease_is_renewed_while_the_circuit_is_open<B: CircuitBackend>(backend: B) {
    const LEASE: Duration = Duration::from_secs(30);
    let (circuit, [ours, other]) = (CircuitGroup::new("models").circuit(None), [Token::random(), Token::random()]);
    let ask = async |token, lease| backend.probe(circuit, token, lease).await.unwrap();
    let granted = ProbeLease::Granted { unanswered: 0, is_wanted: false };
    assert_eq!(ask(ours, LEASE).await, granted);
    let open_for = Duration::from_secs(1);
    backend.vote(circuit, ProcessId::random(), open_for, open_for).await.unwrap();
    assert_eq!(ask(ours, LEASE * 20).await, granted);
    let begun = std::time::Instant::now();
    loop {
        match ask(other, LEASE).await {
            ProbeLease::Wait(wait) if wait > open_for => break assert!(wait > LEASE, "{wait:?}"),
            ProbeLease::Wait(_) | ProbeLease::Early(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            granted => panic!("another process has it: {granted:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it stays open");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_the_circuit_is_open_in_the_model_as_in_redis() {
    a_lease_is_renewed_while_the_circuit_is_open(RedisModel::new()).await;
    tokio::time::resume();
    let server = Server::start();
    a_lease_is_renewed_while_the_circuit_is_open(server.redis()).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_lease_is_anothers_makes_no_further_probe() {
    let (model, upstream) = (RedisModel::new(), down());
    let process = process(model.clone(), &upstream);
    settle().await;
    process.calls(5).await;
    upstream.hangs.store(150, SeqCst);
    tokio::time::sleep(OPEN + Duration::from_millis(1_200)).await;
    let circuit = CircuitGroup::new("models").circuit(None);
    let others = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = upstream.calls.load(SeqCst);
        // The backend has forgotten the lease, and another process is faster.
        model.restart();
        let lease = model.probe(circuit, Token::random(), Duration::from_secs(100)).await.unwrap();
        assert!(matches!(lease, ProbeLease::Granted { .. }), "{lease:?}");
        // Without the other process one would be due after each open time.
        for _ in 0..90 {
            assert_eq!(process.call().await, StatusCode::SERVICE_UNAVAILABLE);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(upstream.calls.load(SeqCst), before);
    };
    tokio::join!(process.call(), others);
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_probe_was_left_waits_while_another_tests_the_upstream() {
    let (model, upstream) = (RedisModel::new(), down());
    let process = process(model.clone(), &upstream);
    settle().await;
    process.calls(5).await;
    upstream.hangs.store(150, SeqCst);
    tokio::time::sleep(OPEN + Duration::from_millis(1_200)).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), process.call()).await.is_err());
    let (circuit, before) = (CircuitGroup::new("models").circuit(None), upstream.calls.load(SeqCst));
    let (token, lease) = (Token::random(), Duration::from_secs(30));
    take_the_lease(&model, token, lease).await;
    for _ in 0..25 {
        assert_eq!(process.call().await, StatusCode::SERVICE_UNAVAILABLE);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(upstream.calls.load(SeqCst), before);
    // The other gives up, and this process has calls to test it with. However long that takes, it has the lease.
    model.verdict(circuit, token, ProcessId::random(), ProbeVerdict::GivenBack, lease).await.unwrap();
    upstream.is_down.store(false, SeqCst);
    let begun = Instant::now();
    let ours = async {
        while process.call().await != StatusCode::OK {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(begun.elapsed() < OPEN * 4, "it is not tested");
        }
    };
    let others = async {
        tokio::time::sleep(OPEN * 4).await;
        let lease = model.probe(circuit, token, lease).await.unwrap();
        assert!(matches!(lease, ProbeLease::Wait(_)), "{lease:?}");
    };
    tokio::join!(ours, others);
    assert_eq!(process.state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_later_order_holds_when_the_backend_has_forgotten_the_one_before_and_its_clock_is_behind() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let (one, two) = (model.connection(), model.connection());
    let fleet = [process(one.clone(), &upstream), process(two.clone(), &upstream), process(two.clone(), &upstream)];
    settle().await;
    one.set_connected(false);
    fleet[1].circuit.order_everywhere(CircuitOrder::Isolate);
    tokio::time::sleep(Duration::from_secs(5)).await;
    two.set_connected(false);
    model.jump_back(Duration::from_secs(60));
    model.restart();
    // The first process does not know what the others obey.
    one.set_connected(true);
    fleet[0].circuit.order_everywhere(CircuitOrder::Disable);
    settle().await;
    // They tell that again, with a higher number.
    two.set_connected(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(fleet.each_ref().map(Process::state), [CircuitState::Disabled; 3]);
}

#[tokio::test(start_paused = true)]
async fn two_orders_that_are_published_late_do_not_undo_a_later_one_when_the_clock_is_set_back() {
    let (model, upstream) = (RedisModel::new(), Upstream::default());
    let (one, two) = (model.connection(), model.connection());
    let fleet = [process(one.clone(), &upstream), process(two.clone(), &upstream), process(model.clone(), &upstream)];
    settle().await;
    for (process, way) in fleet.iter().zip([&one, &two]) {
        way.set_connected(false);
        process.circuit.order_everywhere(CircuitOrder::Isolate);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    fleet[2].circuit.order_everywhere(CircuitOrder::Disable);
    tokio::time::sleep(Duration::from_secs(2)).await;
    model.jump_back(Duration::from_secs(60));
    one.set_connected(true);
    two.set_connected(true);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(fleet.each_ref().map(Process::state), [CircuitState::Disabled; 3]);
}
