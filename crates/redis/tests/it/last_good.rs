//! An answer that one process was given stands in for the upstream in all of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::last_good::LastGoodBody;
use tower_buttress::{CallBody, LastGoodLayer, Stale, StaleKind, Tenant};
use tower_buttress_redis::{FleetLastGood, Redis, RedisOptions};

use crate::support::Server;

type Answer = Response<LastGoodBody<Full<Bytes>>>;

/// Longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// One process, whose upstream is well or fails.
struct Process {
    service: BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>,
    fails: Arc<AtomicBool>,
    redis: Redis,
}

impl Process {
    fn new(options: &RedisOptions) -> Self {
        Self::with(options, |peers| peers)
    }

    fn with(options: &RedisOptions, set: impl FnOnce(FleetLastGood) -> FleetLastGood) -> Self {
        let redis = Redis::new(options.clone()).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        let is_down = fails.clone();
        let upstream = service_fn(move |request: Request<CallBody>| {
            let is_down = is_down.clone();
            async move {
                let length =
                    request.headers().get("x-length").map_or(5, |value| value.to_str().unwrap().parse().unwrap());
                let content = "x".repeat(length);
                let body = format!(
                    r#"{{"choices":[{{"index":0,"message":{{"content":"{content}"}},"finish_reason":"stop"}}]}}"#
                );
                let answer = Response::builder().header("content-type", "application/json").header("set-cookie", "a=b");
                let answer = match request.headers().get("x-age") {
                    Some(age) => answer.header("age", age),
                    None => answer,
                };
                let status = if is_down.load(SeqCst) { 503 } else { 200 };
                Ok::<_, Infallible>(answer.status(status).body(Full::from(body)).unwrap())
            }
        });
        let layer = LastGoodLayer::new().share(Arc::new(set(FleetLastGood::new(redis.clone()))));
        Self { service: BoxCloneSyncService::new(layer.layer(upstream)), fails, redis }
    }

    async fn ask(
        &self,
        tenant: &str,
        question: &str,
        length: usize,
    ) -> (StatusCode, Option<StaleKind>, HeaderMap, Bytes) {
        self.ask_with(tenant, question, &[("x-length", &length.to_string())]).await
    }

    async fn ask_with(
        &self,
        tenant: &str,
        question: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, Option<StaleKind>, HeaderMap, Bytes) {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{question}"}}]}}"#);
        let mut request = Request::post("/v1/chat/completions").extension(Tenant::new(tenant));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.service.clone().oneshot(request.body(Full::from(body)).unwrap()).await.unwrap();
        let stale = Stale::of(&answer).map(|stale| stale.kind);
        let (head, body) = answer.into_parts();
        (head.status, stale, head.headers, body.collect().await.unwrap().to_bytes())
    }

    /// What is kept is kept behind the call.
    async fn until_stale(&self, tenant: &str, question: &str) -> StaleKind {
        let begun = Instant::now();
        loop {
            if let (_, Some(kind), ..) = self.ask(tenant, question, 5).await {
                return kind;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "there is no answer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn fail(&self) {
        self.fails.store(true, SeqCst);
    }
}

#[tokio::test]
async fn an_answer_of_one_process_stands_in_at_another() {
    let server = Server::start();
    let options = server.fresh().patience(PATIENCE);
    let (one, two) = (Process::new(&options), Process::new(&options));
    assert_eq!(one.ask("acme", "Where is Paris?", 100_000).await.0, 200);
    two.fail();
    assert_eq!(two.until_stale("acme", "Where is Paris?").await, StaleKind::Exact);
    let (status, _, headers, body) = two.ask("acme", "Where is Paris?", 5).await;
    assert_eq!((status.as_u16(), headers.contains_key("set-cookie")), (200, false));
    assert!(headers.contains_key("age") && body.len() > 100_000);
    // In another spelling; and nothing for another question, or another tenant.
    assert_eq!(two.ask("acme", "where is Paris", 5).await.1, Some(StaleKind::Normalized));
    assert_eq!(two.ask("acme", "Where is Rome?", 5).await.0, 503);
    assert_eq!(two.ask("other", "Where is Paris?", 5).await.0, 503);
    // A process that starts has it, too; and none has it when it was forgotten.
    let new = Process::new(&options);
    new.fail();
    assert_eq!(new.ask("acme", "Where is Paris?", 5).await.1, Some(StaleKind::Exact));
    assert_eq!(new.redis.forget(Some(&Tenant::new("other"))).await.unwrap(), 0);
    assert_eq!(new.redis.forget(Some(&Tenant::new("acme"))).await.unwrap(), 1);
    for question in ["Where is Paris?", "where is Paris"] {
        assert_eq!(new.ask("acme", question, 5).await.0, 503);
    }
}

#[tokio::test]
async fn an_answer_that_is_too_old_hides_no_younger_one_in_another_spelling() {
    let server = Server::start();
    let options = server.fresh().patience(PATIENCE);
    let (one, two) = (Process::new(&options), Process::new(&options));
    two.fail();
    one.ask_with("acme", "Where is Paris?", &[("x-age", "100")]).await;
    two.until_stale("acme", "Where is Paris?").await;
    one.ask("acme", "where is Paris", 5).await;
    // Until the second one is there, the first stands in for it.
    while two.until_stale("acme", "where is Paris").await != StaleKind::Exact {}
    let ask = async |max_age| {
        let answer = two.ask_with("acme", "Where is Paris?", &[("cache-control", max_age)]).await;
        (answer.0.as_u16(), answer.1)
    };
    assert_eq!(ask("max-age=200").await, (200, Some(StaleKind::Exact)));
    assert_eq!(ask("max-age=50").await, (200, Some(StaleKind::Normalized)));
}

#[tokio::test]
async fn one_tenant_cannot_fill_redis() {
    let server = Server::start();
    let options = server.fresh().patience(PATIENCE);
    let process = || Process::with(&options, |peers| peers.tenant_bytes(11_000));
    let (one, two) = (process(), process());
    two.fail();
    one.ask("acme", "first", 6_000).await;
    two.until_stale("acme", "first").await;
    // It has no room; one that takes the place of an earlier one has.
    one.ask("acme", "second", 6_000).await;
    one.ask("acme", "first", 7_000).await;
    one.ask("other", "second", 6_000).await;
    two.until_stale("other", "second").await;
    assert_eq!(two.ask("acme", "second", 5).await.0, 503);
    assert!(two.ask("acme", "first", 5).await.3.len() > 7_000);
    one.ask("acme", "third", 2_000).await;
    two.until_stale("acme", "third").await;
}

#[tokio::test]
async fn without_redis_a_failure_is_a_failure_and_comes_as_fast() {
    let mut server = Server::start();
    let options = server.fresh();
    let process = Process::new(&options);
    process.ask("acme", "first", 5).await;
    server.kill();
    process.fail();
    assert_eq!(process.ask("acme", "first", 5).await.1, Some(StaleKind::Exact), "its own");
    process.ask("acme", "second", 5).await;
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(process.ask("acme", "second", 5).await.0, 503);
    }
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_damaged_in_redis_is_no_answer() {
    let server = Server::start();
    let options = server.fresh().patience(PATIENCE);
    let (one, two) = (Process::new(&options), Process::new(&options));
    one.ask("acme", "first", 500).await;
    two.fail();
    two.until_stale("acme", "first").await;
    let cut = "for _, key in ipairs(redis.call('KEYS', '*:g')) do
        redis.call('HSET', key, 'v', string.sub(redis.call('HGET', key, 'v'), 1, -10)) end";
    server.eval(cut, &[]).await;
    assert_eq!(two.ask("acme", "first", 5).await.0, 503);
}

#[tokio::test]
async fn an_answer_that_is_damaged_does_not_hide_one_to_another_spelling() {
    let server = Server::start();
    let options = server.fresh().patience(PATIENCE);
    let (one, two) = (Process::new(&options), Process::new(&options));
    one.ask("acme", "Where is Paris?", 500).await;
    two.fail();
    two.until_stale("acme", "Where is Paris?").await;
    let cut = "for _, key in ipairs(redis.call('KEYS', '*:g')) do redis.call('HSET', key, 'v', 'cut') end";
    server.eval(cut, &[]).await;
    assert_eq!(two.ask("acme", "Where is Paris?", 5).await.0, 503);
    one.ask("acme", "where is Paris", 500).await;
    assert_eq!(two.until_stale("acme", "where is Paris").await, StaleKind::Exact);
    assert_eq!(two.ask("acme", "Where is Paris?", 5).await.1, Some(StaleKind::Normalized));
}
