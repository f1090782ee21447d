//! Orders of operators to the circuits of all processes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::sleep;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::{CircuitBreakerHandle, CircuitBreakerLayer, CircuitOrder, CircuitState};
use tower_buttress_redis::{FleetBreaker, RedisModel};

use super::history::History;
use super::nemesis::{Faults, Nemesis};
use super::network::Way;
use super::time;

const PROCESSES: usize = 4;
const ORDERS: usize = 6;
/// In which things fail.
const TIME: Duration = Duration::from_secs(30);
/// The last order is given when what is late is done.
const LAST_AFTER: Duration = Duration::from_secs(5);
/// Every process has learned of it by then: it looks each 20 s, and what it missed may be sent by one that looks.
const KNOWN_WITHIN: Duration = Duration::from_secs(70);
/// Where nothing fails.
const TOLD_WITHIN: Duration = Duration::from_millis(50);

const ALL: [CircuitOrder; 4] =
    [CircuitOrder::Isolate, CircuitOrder::Disable, CircuitOrder::MetricsOnly, CircuitOrder::Close];

type Service = BoxCloneSyncService<Request<Empty<Bytes>>, StatusCode, Infallible>;

fn process(way: &Way) -> (Service, CircuitBreakerHandle, CircuitBreakerLayer) {
    let layer = CircuitBreakerLayer::new().share(FleetBreaker::new(way.clone(), "models"));
    let calls = service_fn(async |_: Request<Empty<Bytes>>| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
    let service = layer.layer(calls).map_response(|response: Response<_>| response.status());
    (BoxCloneSyncService::new(service), layer.handle(), layer)
}

fn after(order: CircuitOrder) -> CircuitState {
    match order {
        CircuitOrder::Isolate => CircuitState::Isolated,
        CircuitOrder::Disable => CircuitState::Disabled,
        CircuitOrder::MetricsOnly => CircuitState::MetricsOnly,
        _ => CircuitState::Closed,
    }
}

pub(super) async fn history(history: History, mut rng: Rng, faults: Faults) {
    let model = RedisModel::new();
    let way = |process| Way::new(&model, process, history.clone(), rng.fork(), faults.operations);
    let ways: Vec<Way> = (0..PROCESSES).map(way).collect();
    let fleet: Vec<_> = ways.iter().map(process).collect();
    for (service, ..) in &fleet {
        let _ = service.clone().oneshot(Request::new(Empty::new())).await.unwrap();
    }
    Nemesis { model, ways: ways.clone(), history: history.clone() }.begin(rng.fork(), faults.events, TIME);
    let mut last = None;
    for number in 0..ORDERS {
        let is_last = number + 1 == ORDERS;
        // A message has its way before the next order is given.
        sleep(if is_last { LAST_AFTER } else { time(&mut rng, 200.0, 10_000.0) }).await;
        let living: Vec<usize> = (0..PROCESSES).filter(|process| !ways[*process].has_crashed()).collect();
        let Some(process) = rng.choice(&living).copied() else { return };
        let order = rng.choice(ALL).unwrap();
        history.say(format!("process {process}: an operator says {order}"));
        fleet[process].1.order_everywhere(order);
        last = Some((process, order));
        if faults.none() {
            sleep(TOLD_WITHIN).await;
            check(&fleet, &ways, Some(order), &history);
        }
    }
    sleep(KNOWN_WITHIN).await;
    // One that could not be told is lost with its process.
    let order = last.filter(|(process, _)| !ways[*process].has_crashed()).map(|(_, order)| order);
    check(&fleet, &ways, order, &history);
}

/// All processes that live obey the same order: this one, where it is known.
fn check(
    fleet: &[(Service, CircuitBreakerHandle, CircuitBreakerLayer)],
    ways: &[Way],
    order: Option<CircuitOrder>,
    history: &History,
) {
    let living = fleet.iter().zip(ways).filter(|(_, way)| !way.has_crashed());
    let states: Vec<CircuitState> = living.map(|((_, circuit, _), _)| circuit.state()).collect();
    let Some(expected) = order.map(after).or(states.first().copied()) else { return };
    if states.iter().any(|state| *state != expected) {
        history.broken(format!("the last order leads to {expected}, and the circuits are {states:?}"));
    }
}

#[test]
fn the_last_order_holds_in_every_process() {
    super::run("orders", history);
}
