//! Orders of an operator, which reach every process.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::time::Instant;
use tower_buttress::{CircuitBreakerLayer, CircuitOrder, CircuitState};
use tower_buttress_redis::backend::{
    CircuitBackend, CircuitGroup, GivenOrder, HeldOrder, NumberedOrder, Process as ProcessId, Token,
};
use tower_buttress_redis::{FleetBreaker, Redis, RedisModel};

use super::{Process, Upstream, fleet, process, settle};
use crate::support::Server;
use crate::support::slow::Slow;

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
async fn orders_are_numbered_in_the_model_as_in_redis() {
    later_orders_count(RedisModel::new()).await;
    tokio::time::resume();
    let server = Server::start();
    later_orders_count(server.redis()).await;
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
