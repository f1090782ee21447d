//! One circuit per key.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::circuit_breaker::CircuitBreaker;
use tower_buttress::{CircuitBreakerLayer, CircuitState, Event, Model};

use crate::support::upstream::{Answer, Upstream};
use crate::support::{Log, Script, secs};

fn by_host() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new().key(|parts| Some(parts.uri.host()?.into()))
}

async fn get(service: &CircuitBreaker<Upstream>, uri: &str) -> u16 {
    let request = Request::builder().uri(uri).body(Script::new([])).unwrap();
    let response = service.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

fn statuses(statuses: impl IntoIterator<Item = u16>) -> Upstream {
    Upstream::new(statuses.into_iter().map(Answer::status))
}

#[tokio::test(start_paused = true)]
async fn each_key_has_a_circuit_of_its_own() {
    let log = Arc::new(Log::default());
    let layer = by_host().observer(log.clone());
    let service = layer.layer(statuses([500, 500, 500, 500, 500, 200]));
    for _ in 0..5 {
        assert_eq!(get(&service, "http://a/").await, 500);
    }
    assert_eq!(get(&service, "http://a/").await, 503);
    assert_eq!(get(&service, "http://b/").await, 200);
    assert_eq!(layer.handle_for("a").state(), CircuitState::Open);
    assert_eq!(layer.handle_for("b").state(), CircuitState::Closed);
    let opened = log.events().into_iter().find_map(|event| match event {
        Event::CircuitChanged { key, .. } => key,
        _ => None,
    });
    assert_eq!(opened.as_deref(), Some("a"), "the event says which");
    let mut keys: Vec<_> = layer.handles().iter().map(|circuit| circuit.key().unwrap().to_owned()).collect();
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_key_share_one() {
    let layer = by_host();
    let service = layer.layer(statuses([500; 5]));
    for _ in 0..5 {
        get(&service, "/relative").await;
    }
    assert_eq!(get(&service, "/other").await, 503);
    assert_eq!(layer.handle().state(), CircuitState::Open);
    assert_eq!(layer.handle().key(), None);
    assert!(layer.handles().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_key_that_was_not_used_for_longest_goes() {
    let layer = by_host().configure(|config| config.max_keys(2));
    let service = layer.layer(statuses([200; 5]));
    for host in ["a", "b", "a", "c"] {
        get(&service, &format!("http://{host}/")).await;
    }
    let mut keys: Vec<_> = layer.handles().iter().map(|circuit| circuit.key().unwrap().to_owned()).collect();
    keys.sort();
    assert_eq!(keys, ["a", "c"]);
    assert_eq!(layer.handle_for("a").snapshot().stats.calls, 2, "it is the same as before");
}

/// An operator who isolates a circuit, or holds its handle, means the one that calls pass through.
#[tokio::test(start_paused = true)]
async fn a_circuit_that_was_set_by_hand_or_has_a_handle_stays() {
    let layer = by_host().configure(|config| config.max_keys(5));
    let service = layer.layer(statuses([200; 100]));
    layer.handle_for("isolated").isolate();
    layer.handle_for("open").open_for(secs(60));
    layer.handle_for("off").disable();
    let held = layer.handle_for("held");
    for host in 0..20 {
        assert_eq!(get(&service, &format!("http://host-{host}/")).await, 200);
    }
    assert_eq!(get(&service, "http://isolated/").await, 503);
    assert_eq!(get(&service, "http://open/").await, 503);
    assert_eq!(layer.handle_for("off").state(), CircuitState::Disabled);
    held.isolate();
    assert_eq!(get(&service, "http://held/").await, 503);
    assert_eq!(layer.handles().len(), 5);

    // When it is no longer open by hand, or closed, it is like the others.
    tokio::time::advance(secs(60)).await;
    assert_eq!(get(&service, "http://open/").await, 200);
    layer.handle_for("isolated").close();
    for host in 0..3 {
        get(&service, &format!("http://host-{host}/")).await;
    }
    let mut keys: Vec<_> = layer.handles().iter().map(|circuit| circuit.key().unwrap().to_owned()).collect();
    keys.sort();
    assert_eq!(keys, ["held", "host-0", "host-1", "host-2", "off"]);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_with_a_probe_in_flight_stays() {
    let layer = by_host().configure(|config| config.max_keys(2));
    let answers = [Answer::status(500).after(secs(1)), Answer::status(200), Answer::status(200)];
    let service = layer.layer(Upstream::new(answers));
    layer.handle_for("a").open_for(Duration::ZERO);
    let probe = tokio::spawn({
        let service = service.clone();
        async move { get(&service, "http://a/").await }
    });
    tokio::task::yield_now().await;
    get(&service, "http://b/").await;
    get(&service, "http://c/").await;
    assert_eq!(get(&service, "http://a/").await, 503, "there is a probe already");
    assert_eq!(probe.await.unwrap(), 500);
    assert_eq!(layer.handle_for("a").state(), CircuitState::Open);
}

#[tokio::test(start_paused = true)]
async fn where_no_circuit_can_go_new_keys_share_the_one_of_calls_without_a_key() {
    let layer = by_host().configure(|config| config.max_keys(2));
    let service = layer.layer(statuses([200; 3]));
    layer.handle_for("a").isolate();
    layer.handle_for("b").isolate();
    for host in ["c", "d", "c"] {
        assert_eq!(get(&service, &format!("http://{host}/")).await, 200);
    }
    assert_eq!(layer.handles().len(), 2);
    assert_eq!(layer.handle().snapshot().stats.calls, 3);
    // A handle that is asked for is made all the same.
    layer.handle_for("c").isolate();
    assert_eq!(get(&service, "http://c/").await, 503);
}

/// Whatever new keys come: a circuit that is open has something to remember.
#[tokio::test(start_paused = true)]
async fn an_open_circuit_is_not_dropped_for_a_new_key() {
    let layer = by_host().configure(|config| config.max_keys(2));
    let service = layer.layer(statuses([500; 5].into_iter().chain([200; 100])));
    for _ in 0..5 {
        assert_eq!(get(&service, "http://down/").await, 500);
    }
    for host in 0..100 {
        assert_eq!(get(&service, &format!("http://host-{host}/")).await, 200);
    }
    assert_eq!(get(&service, "http://down/").await, 503);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_circuits_is_bounded() {
    let layer = by_host().configure(|config| config.max_keys(10));
    let service = layer.layer(statuses([200; 1000]));
    for host in 0..1000 {
        get(&service, &format!("http://host-{host}/")).await;
    }
    assert_eq!(layer.handles().len(), 10);
    assert!(layer.handles().iter().all(|circuit| circuit.key().unwrap().starts_with("host-99")));
}

async fn ask(service: &CircuitBreaker<Upstream>, model: &str) -> u16 {
    let request = Request::builder().uri("http://user:secret@api/v1/chat").extension(Model::new(model));
    let response = service.clone().oneshot(request.body(Script::new([])).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test(start_paused = true)]
async fn one_of_three_models_that_is_down_does_not_take_the_others_with_it() {
    let layer = CircuitBreakerLayer::new().key_by_model();
    let rounds = (0..20).flat_map(|round| if round < 5 { vec![500, 200, 200] } else { vec![200, 200] });
    let service = layer.layer(statuses([200; 3].into_iter().chain(rounds)));
    for model in ["a", "b", "c"] {
        assert_eq!(ask(&service, model).await, 200);
    }
    tokio::time::advance(secs(5)).await;
    for round in 0..20 {
        assert_eq!(ask(&service, "a").await, if round < 5 { 500 } else { 503 });
        assert_eq!((ask(&service, "b").await, ask(&service, "c").await), (200, 200));
    }
    let mut keys: Vec<_> = layer.handles().iter().map(|circuit| circuit.key().unwrap().to_owned()).collect();
    keys.sort();
    assert_eq!(keys, ["api a", "api b", "api c", "api other"], "and no password");
    assert_eq!(layer.handle_for("api a").state(), CircuitState::Open);
}

/// A name is a key once the upstream has served it.
#[tokio::test(start_paused = true)]
async fn invented_model_names_change_nothing() {
    let layer = CircuitBreakerLayer::new().key_by_model();
    let answers = [200, 500, 500, 500, 500, 500].into_iter().chain([404; 5_000]);
    let service = layer.layer(statuses(answers));
    assert_eq!(ask(&service, "real").await, 200);
    tokio::time::advance(secs(5)).await;
    for _ in 0..5 {
        assert_eq!(ask(&service, "real").await, 500);
    }
    for n in 0..5_000 {
        assert_eq!(ask(&service, &format!("invented-{n}")).await, 404);
    }
    assert_eq!(layer.handles().len(), 2);
    assert_eq!(ask(&service, "real").await, 503, "it is still open");
}

/// Twenty thousand of them, all of which the upstream serves: the policy's own test has a million.
#[tokio::test(start_paused = true)]
async fn names_that_are_served_take_a_bounded_number_of_circuits_and_nothing_from_the_others() {
    let layer = CircuitBreakerLayer::new().key_by_model();
    let upstream =
        service_fn(|_: Request<Empty<Bytes>>| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
    let mut service = layer.layer(upstream);
    let mut ask = async |model: &str| {
        let request = Request::builder().uri("http://api/v1/chat").extension(Model::new(model)).body(Empty::new());
        let ready = ServiceExt::<Request<Empty<Bytes>>>::ready(&mut service).await.unwrap();
        ready.call(request.unwrap()).await.unwrap().status().as_u16()
    };
    // A name is known from its first answer on, and has a circuit of its own from its next call on.
    for _ in 0..2 {
        assert_eq!((ask("well").await, ask("down").await), (200, 200));
    }
    layer.handle_for("api down").isolate();
    for n in 0..20_000 {
        let name = format!("invented-{n}");
        assert_eq!((ask(&name).await, ask(&name).await), (200, 200));
    }
    // 256 of the host, and the one of all others.
    assert_eq!(layer.handles().len(), 257);
    assert_eq!((ask("well").await, ask("down").await), (200, 503));
    assert_eq!(layer.handle_for("api down").state(), CircuitState::Isolated);
    assert_eq!(layer.handle_for("api well").snapshot().stats.failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_may_outlive_its_key() {
    let layer = by_host().configure(|config| config.max_keys(1));
    let service = layer.layer(Upstream::new([Answer::status(500).after(secs(1)), Answer::status(200)]));
    let slow = tokio::spawn({
        let service = service.clone();
        async move { get(&service, "http://a/").await }
    });
    tokio::task::yield_now().await;
    get(&service, "http://b/").await;
    assert_eq!(slow.await.unwrap(), 500);
    assert_eq!(layer.handle_for("a").snapshot().stats.calls, 0);
}

#[tokio::test(start_paused = true)]
async fn a_keyed_call_waits_for_readiness_under_its_permit() {
    let layer = by_host();
    let service = layer.layer(statuses([200]).ready_after(secs(1)));
    assert_eq!(get(&service, "http://a/").await, 200);
}

#[test]
fn many_threads_may_use_and_lose_keys_at_once() {
    let layer = by_host().configure(|config| config.max_keys(4));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let layer = &layer;
            scope.spawn(move || {
                for n in 0..2_000 {
                    let circuit = layer.handle_for(&format!("{}", (n * (thread + 1)) % 9));
                    assert_eq!(circuit.state(), CircuitState::Closed);
                }
            });
        }
    });
    assert_eq!(layer.handles().len(), 4);
}
