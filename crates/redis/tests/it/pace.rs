//! A 429 that one process met.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::PaceLayer;
use tower_buttress_redis::backend::PauseBackend;
use tower_buttress_redis::{FleetPauses, Model};

use crate::support::Server;

type Body = Empty<bytes::Bytes>;

/// An upstream that all processes call, and that refuses all until an instant.
#[derive(Clone, Default)]
struct Upstream {
    refuses_until: Arc<Mutex<Option<Instant>>>,
    refused: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
}

type Process = BoxCloneSyncService<Request<Body>, StatusCode, Infallible>;

fn process<B: PauseBackend>(backend: B, upstream: &Upstream) -> Process {
    let layer = PaceLayer::new().share(Arc::new(FleetPauses::new(backend)));
    let upstream = upstream.clone();
    let calls = service_fn(move |_: Request<_>| {
        let upstream = upstream.clone();
        async move {
            let until = *upstream.refuses_until.lock().await;
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            let response = Response::builder();
            let response = if left.is_zero() {
                upstream.served.fetch_add(1, SeqCst);
                response
            } else {
                upstream.refused.fetch_add(1, SeqCst);
                response.status(429).header("retry-after", left.as_secs_f64().ceil().to_string())
            };
            Ok::<_, Infallible>(response.body(Body::new()).unwrap())
        }
    });
    BoxCloneSyncService::new(layer.layer(calls).map_response(|response: Response<_>| response.status()))
}

async fn call(process: &Process, credential: &str) -> StatusCode {
    let request = Request::post("http://upstream/v1/responses").header("authorization", credential);
    process.clone().oneshot(request.body(Body::new()).unwrap()).await.unwrap()
}

async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn one_429_pauses_the_whole_fleet_and_nothing_is_sent_before_its_end() {
    let (model, upstream) = (Model::new(), Upstream::default());
    let fleet: Vec<Process> = (0..4).map(|_| process(model.clone(), &upstream)).collect();
    for process in &fleet {
        assert_eq!(call(process, "a").await, StatusCode::OK);
    }
    settle().await;
    let begun = Instant::now();
    *upstream.refuses_until.lock().await = Some(begun + Duration::from_secs(10));
    assert_eq!(call(&fleet[0], "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    let waiting: Vec<_> = fleet
        .iter()
        .map(|process| {
            let process = process.clone();
            tokio::spawn(async move { call(&process, "a").await })
        })
        .collect();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(upstream.refused.load(SeqCst), 1);
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    // A process that starts during a pause learns of it with its first call.
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    assert_eq!(call(&fleet[1], "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    let late = process(model.clone(), &upstream);
    call(&late, "b").await;
    call(&late, "a").await;
    settle().await;
    let before = upstream.refused.load(SeqCst);
    assert_eq!(call(&late, "a").await, StatusCode::OK);
    assert_eq!(upstream.refused.load(SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn the_pause_of_a_credential_is_no_matter_of_another_one() {
    let (model, upstream) = (Model::new(), Upstream::default());
    let (here, there) = (process(model.clone(), &upstream), process(model, &upstream));
    assert_eq!(call(&there, "b").await, StatusCode::OK);
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    assert_eq!(call(&here, "a").await, StatusCode::TOO_MANY_REQUESTS);
    settle().await;
    *upstream.refuses_until.lock().await = None;
    let begun = Instant::now();
    assert_eq!(call(&there, "b").await, StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_the_backend_each_process_meets_its_own() {
    let (model, upstream) = (Model::new(), Upstream::default());
    model.set_reachable(false);
    let (here, there) = (process(model.clone(), &upstream), process(model, &upstream));
    *upstream.refuses_until.lock().await = Some(Instant::now() + Duration::from_secs(10));
    for process in [&here, &there] {
        assert_eq!(call(process, "a").await, StatusCode::TOO_MANY_REQUESTS);
    }
    for process in [&here, &there] {
        assert_eq!(call(process, "a").await, StatusCode::OK);
    }
}

#[tokio::test]
async fn it_is_the_same_on_a_real_redis() {
    let (server, upstream) = (Server::start(), Upstream::default());
    let options = server.fresh();
    let new = || process(tower_buttress_redis::Redis::new(options.clone()).unwrap(), &upstream);
    let (here, there) = (new(), new());
    assert_eq!((call(&here, "a").await, call(&there, "a").await), (StatusCode::OK, StatusCode::OK));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    *upstream.refuses_until.lock().await = Some(begun + Duration::from_millis(1900));
    assert_eq!(call(&here, "a").await, StatusCode::TOO_MANY_REQUESTS);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(call(&there, "a").await, StatusCode::OK);
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
    assert_eq!(upstream.refused.load(SeqCst), 1);
}
