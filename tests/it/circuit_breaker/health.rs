//! Health probes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};
use tower_buttress::{CircuitBreakerLayer, CircuitReason, CircuitState, Event};

use crate::support::{Log, Script, Step, secs};

/// Down until the test brings it up; remembers which requests came, and when.
#[derive(Clone)]
struct Flaky {
    start: Instant,
    up: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<(u64, String)>>>,
}

const DOWN: usize = 0;
const UP: usize = 1;
const SILENT: usize = 2;
const THROTTLED: usize = 3;

impl Flaky {
    fn new() -> Self {
        Self { start: Instant::now(), up: Arc::new(AtomicUsize::new(DOWN)), asked: Arc::default() }
    }

    fn is(&self, what: usize) {
        self.up.store(what, SeqCst);
    }

    /// Who asked since this was last called: seconds and path.
    fn asked(&self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Service<Request<Script>> for Flaky {
    type Response = Response<Script>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Script>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Script>) -> Self::Future {
        self.asked.lock().unwrap().push((self.start.elapsed().as_secs(), request.uri().path().to_owned()));
        let state = self.up.load(SeqCst);
        Box::pin(async move {
            let status = match state {
                UP => StatusCode::OK,
                THROTTLED => StatusCode::TOO_MANY_REQUESTS,
                SILENT => std::future::pending().await,
                _ => StatusCode::BAD_GATEWAY,
            };
            Ok(Response::builder().status(status).body(Script::new([Step::Data("said")])).unwrap())
        })
    }
}

fn get(path: &str) -> Request<Script> {
    Request::builder().uri(path).body(Script::new([])).unwrap()
}

fn health(key: Option<&str>) -> Request<Script> {
    get(&format!("/health/{}", key.unwrap_or_default()))
}

async fn status<S>(service: &S, path: &str) -> u16
where
    S: Service<Request<Script>, Error = Infallible> + Clone,
    S::Response: Into<StatusOf>,
{
    let Ok(response) = service.clone().oneshot(get(path)).await;
    response.into().0
}

struct StatusOf(u16);

impl<B> From<Response<B>> for StatusOf {
    fn from(response: Response<B>) -> Self {
        Self(response.status().as_u16())
    }
}

fn layer() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new().configure(|config| config.jitter(0.0))
}

async fn open<S>(service: &S)
where
    S: Service<Request<Script>, Error = Infallible> + Clone,
    S::Response: Into<StatusOf>,
{
    for _ in 0..5 {
        assert_eq!(status(service, "/call").await, 502);
    }
}

#[tokio::test(start_paused = true)]
async fn a_health_probe_closes_the_circuit_and_no_caller_is_a_victim() {
    let (upstream, log) = (Flaky::new(), Arc::new(Log::default()));
    let layer = layer().observer(log.clone()).health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    open(&service).await;
    upstream.asked();
    for _ in 0..20 {
        sleep(secs(1)).await;
        assert_eq!(status(&service, "/call").await, 503, "the open time has long been over");
    }
    sleep(secs(1) / 2).await;
    let expected: Vec<_> = (1..=10).map(|n| (2 * n, "/health/".to_owned())).collect();
    assert_eq!(upstream.asked(), expected);

    upstream.is(UP);
    sleep(secs(2)).await;
    assert_eq!(layer.breaker().handle().state(), CircuitState::Closed);
    assert_eq!(status(&service, "/call").await, 200);
    let reasons: Vec<_> = log.events().iter().filter_map(reason).collect();
    assert_eq!(
        reasons,
        [CircuitReason::ConsecutiveFailures, CircuitReason::HealthProbeSucceeded],
        "and nothing between"
    );
}

fn reason(event: &Event) -> Option<CircuitReason> {
    match event {
        Event::CircuitChanged { change, .. } => Some(change.reason),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn it_sends_nothing_while_the_circuit_is_closed() {
    let upstream = Flaky::new();
    upstream.is(UP);
    let service = layer().health_probe(secs(2), health).layer(upstream.clone());
    status(&service, "/call").await;
    sleep(secs(60)).await;
    assert_eq!(upstream.asked().len(), 1);
    upstream.is(DOWN);
    open(&service).await;
    upstream.is(UP);
    sleep(secs(60)).await;
    assert_eq!(upstream.asked().len(), 5 + 1, "one was enough");
}

#[tokio::test(start_paused = true)]
async fn it_begins_again_when_the_circuit_opens_again() {
    let upstream = Flaky::new();
    let layer = layer().health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    for failures in [5, 1, 1] {
        upstream.is(DOWN);
        for _ in 0..failures {
            assert_eq!(status(&service, "/call").await, 502);
        }
        assert_eq!(layer.breaker().handle().state(), CircuitState::Open);
        upstream.is(UP);
        sleep(secs(3)).await;
        assert_eq!(layer.breaker().handle().state(), CircuitState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_succeeds_is_enough_and_one_that_is_throttled_is_not() {
    let upstream = Flaky::new();
    let layer = layer().configure(|config| config.probe_successes(3)).health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    open(&service).await;
    upstream.is(THROTTLED);
    sleep(secs(3)).await;
    assert_eq!(layer.breaker().handle().state(), CircuitState::Open);
    upstream.is(UP);
    sleep(secs(2)).await;
    assert_eq!(layer.breaker().handle().state(), CircuitState::Closed);
}

/// A task without a rest would keep its thread for ever, and a paused clock from going on.
#[test]
fn one_that_is_sent_without_a_pause_leaves_room_for_others() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let paused = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        paused.block_on(async {
            let upstream = Flaky::new();
            let service = layer().health_probe(Duration::ZERO, health).layer(upstream.clone());
            open(&service).await;
            upstream.asked();
            sleep(secs(1)).await;
            assert_eq!(upstream.asked().len(), 9, "every 100 ms");
        });
        done.send(()).unwrap();
    });
    wait.recv_timeout(secs(60)).expect("the task rests");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_clone_of_the_layer_and_its_services() {
    for silent in [DOWN, SILENT] {
        let upstream = Flaky::new();
        let layer = layer().health_probe(secs(2), health);
        let (circuit, clone) = (layer.breaker().handle(), layer.clone());
        let service = layer.layer(upstream.clone());
        open(&service).await;
        upstream.is(silent);
        drop((service, layer));
        sleep(secs(3)).await;
        assert_eq!(upstream.asked().len(), 5 + 1, "a clone is left");
        drop(clone);
        let clones = || Arc::strong_count(&upstream.up);
        tokio::task::yield_now().await;
        assert_eq!(clones(), 1, "the service that it was sent through is gone");
        sleep(secs(60)).await;
        assert!(upstream.asked().is_empty());
        assert_eq!(circuit.state(), CircuitState::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_answered_is_given_up() {
    let upstream = Flaky::new();
    let layer = layer().configure(|config| config.probe_timeout(secs(10))).health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    open(&service).await;
    upstream.is(SILENT);
    sleep(secs(3)).await;
    upstream.is(UP);
    upstream.asked();
    sleep(secs(12)).await;
    assert_eq!(upstream.asked(), [(14, "/health/".to_owned())]);
    assert_eq!(layer.breaker().handle().state(), CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn not_while_the_circuit_was_opened_by_hand() {
    let upstream = Flaky::new();
    let layer = layer().health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    let circuit = layer.breaker().handle();
    upstream.is(UP);
    circuit.open_for(secs(60));
    sleep(Duration::from_millis(59_900)).await;
    assert!(upstream.asked().is_empty());
    sleep(secs(2)).await;
    assert_eq!(circuit.state(), CircuitState::Closed);
    circuit.isolate();
    sleep(secs(60)).await;
    assert_eq!(upstream.asked().len(), 1);
    assert_eq!(status(&service, "/call").await, 503);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_closed_by_hand_is_no_longer_looked_after() {
    let upstream = Flaky::new();
    let layer = layer().health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    open(&service).await;
    layer.breaker().handle().close();
    upstream.asked();
    sleep(secs(60)).await;
    assert!(upstream.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_key_is_looked_after_by_itself() {
    let upstream = Flaky::new();
    let layer = layer().key(|parts| Some(parts.uri.query()?.into())).health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    for _ in 0..5 {
        assert_eq!(status(&service, "/call?a").await, 502);
    }
    upstream.asked();
    sleep(secs(3)).await;
    assert_eq!(upstream.asked(), [(2, "/health/a".to_owned())]);
}

#[test]
fn without_a_runtime_callers_probe() {
    let upstream = Flaky::new();
    let layer = layer().health_probe(secs(2), health);
    let service = layer.layer(upstream.clone());
    layer.breaker().handle().open_for(Duration::ZERO);
    upstream.is(UP);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(status(&service, "/call")), 200);
}
