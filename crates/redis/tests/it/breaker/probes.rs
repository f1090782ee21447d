//! Which process tests the upstream, and what the others learn of it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;
use tower_buttress::CircuitState;
use tower_buttress_redis::RedisModel;
use tower_buttress_redis::backend::{
    CircuitBackend, CircuitGroup, ProbeLease, ProbeVerdict, Process as ProcessId, Token,
};

use super::{OPEN, Process, Upstream, down, fleet, process, settle};
use crate::support::Server;
use crate::support::slow::Slow;

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
