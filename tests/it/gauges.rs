//! What the gauges of the feature `metrics` show of calls that wait.

use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinHandle;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_buttress::{CallBody, Memory, PaceLayer, QueueLayer, SupersedeLayer, SupersedeMode, Tenant};

use crate::support::secs;

type Ask = Request<CallBody>;

/// What is shown at the moment.
struct Gauges(PrometheusHandle);

impl Gauges {
    fn of(&self, layer: &str, name: &str) -> f64 {
        self.value(&format!("{name}{{layer=\"{layer}\"}}"))
    }

    fn value(&self, name: &str) -> f64 {
        let told = self.0.render();
        let line = format!("tower_buttress_{name} ");
        let value = told.lines().find_map(|shown| shown.strip_prefix(&line));
        value.unwrap_or_else(|| panic!("{line} is not in {told}")).parse().unwrap()
    }
}

/// Does this on one thread, whose gauges are its own.
fn watched<F: Future<Output = ()>>(act: impl FnOnce(Gauges) -> F) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let gauges = Gauges(recorder.handle());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(act(gauges)));
}

/// Answers after ten seconds.
async fn slow(_: Ask) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(secs(10)).await;
    Ok(Response::new(Full::from("done")))
}

fn ask(text: &'static str) -> Ask {
    let request = Request::post("/").header("x-conversation-id", "7").extension(Tenant::new("acme"));
    request.body(CallBody::new(Full::<Bytes>::from(text))).unwrap()
}

/// A call that is read to its end, in a task that has begun.
async fn begin<S, B>(service: &S, text: &'static str) -> JoinHandle<()>
where
    S: Service<Ask, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug> + Send,
{
    let call = service.clone().oneshot(ask(text));
    let task = tokio::spawn(async move {
        call.await.unwrap().into_body().collect().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    task
}

#[test]
fn a_queue_shows_its_limit_and_how_many_are_served_and_wait() {
    watched(|gauges| async move {
        let service = QueueLayer::new(2).name("models").layer(service_fn(slow));
        begin(&service, "first").await.await.unwrap();
        assert_eq!(gauges.of("models", "queue_waiting"), 0.0, "it is shown though none waits");
        let calls = [begin(&service, "a").await, begin(&service, "b").await, begin(&service, "c").await];
        let shown = || ["limit", "in_flight", "waiting"].map(|name| gauges.of("models", &format!("queue_{name}")));
        assert_eq!(shown(), [2.0, 2.0, 1.0]);
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(shown(), [2.0, 0.0, 0.0]);
        // Two queues of one name are shown together, until one is gone.
        let another = QueueLayer::new(4).name("models").layer(service_fn(slow));
        let calls = [begin(&service, "a").await, begin(&another, "b").await, begin(&service, "c").await];
        assert_eq!(shown(), [6.0, 3.0, 0.0]);
        for call in calls {
            call.await.unwrap();
        }
        drop(another);
        assert_eq!(shown(), [2.0, 0.0, 0.0]);
    });
}

#[test]
fn a_pause_shows_until_when_it_lasts_and_how_many_wait_for_its_end() {
    watched(|gauges| async move {
        let service = PaceLayer::new().layer(service_fn(async |request: Ask| {
            let text = request.into_body().collect().await.unwrap().to_bytes();
            let status = if text == "first" { 429 } else { 200 };
            let answer = Response::builder().status(status).header("retry-after", "20").body(Full::<Bytes>::default());
            Ok::<_, Infallible>(answer.unwrap())
        }));
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let before = now();
        begin(&service, "first").await.await.unwrap();
        let until = gauges.of("pace", "pace_paused_until_seconds");
        assert!((before + 20.0..=now() + 20.0).contains(&until), "{until}");
        let waits = begin(&service, "second").await;
        assert_eq!(gauges.of("pace", "pace_waiting"), 1.0);
        waits.await.unwrap();
        assert_eq!(gauges.of("pace", "pace_waiting"), 0.0);
    });
}

#[test]
fn limits_of_callers_show_the_calls_at_a_time() {
    watched(|gauges| async move {
        let service = PaceLayer::per_caller().concurrency(2).layer(service_fn(slow));
        let call = begin(&service, "a").await;
        assert_eq!(gauges.of("pace-per-caller", "pace_in_flight"), 1.0);
        call.await.unwrap();
        assert_eq!(gauges.of("pace-per-caller", "pace_in_flight"), 0.0);
    });
}

#[test]
fn conversations_show_the_messages_under_way_and_those_that_wait() {
    watched(|gauges| async move {
        let layer = SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id"));
        let service = layer.mode(SupersedeMode::enqueue(8)).layer(service_fn(slow));
        let calls = [begin(&service, "a").await, begin(&service, "b").await];
        let shown = || ["in_flight", "waiting"].map(|name| gauges.of("supersede", &format!("supersede_{name}")));
        assert_eq!(shown(), [2.0, 1.0]);
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(shown(), [0.0, 0.0]);
    });
}

#[test]
fn a_memory_shows_what_is_held() {
    watched(|gauges| async move {
        let (one, other) = (Memory::new(100_000), Memory::new(20_000));
        let (mut held, mut more) = (one.reserve(None), other.reserve(Some(&Tenant::new("acme"))));
        assert!(held.grow(60_000) && more.grow(5_000));
        assert!(!held.grow(60_000) && !more.grow(1_000), "no room, and beyond its share");
        assert_eq!(gauges.value("memory_used_bytes"), 65_000.0);
        drop(held);
        assert_eq!(gauges.value("memory_used_bytes"), 5_000.0);
        drop(more);
        assert_eq!(gauges.value("memory_used_bytes"), 0.0);
    });
}
