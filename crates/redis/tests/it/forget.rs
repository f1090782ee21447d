//! What is kept of callers is forgotten in the whole fleet.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full};
use redis::Value;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::dedup::DedupBody;
use tower_buttress::store::{Fingerprint, LastGoodKeys, MemoryStore, TenantHash};
use tower_buttress::{CallBody, DedupLayer, DedupRole, Resumable, Tenant};
use tower_buttress_redis::backend::{
    Backend, ClaimArgs, Claimed, Flight, FlightEnd, ForgetBackend, KeptAnswer, LastGoodBackend, LogShare,
    Process as ProcessId, Settled, Token,
};
use tower_buttress_redis::{ForgetListener, Redis, RedisModel, RedisOptions, RedisStore};

use crate::support::Server;
use crate::support::proxy::Proxy;

type Answer = Response<DedupBody<Either<Full<Bytes>, Silent>>>;

/// Longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(10);

struct Silent;

impl Body for Silent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// One process, which forgets what another is told to.
struct Process {
    redis: Redis,
    service: BoxCloneSyncService<Request<Full<Bytes>>, Answer, Infallible>,
    _listener: ForgetListener,
}

impl Process {
    fn new(redis: Redis) -> Self {
        let memory = MemoryStore::default();
        let layer = DedupLayer::new().resumable(Resumable::at("/answers")).store(memory.clone());
        let own = layer.clone();
        let listener = redis.on_forget(move |tenant| {
            tenant.map_or_else(|| own.forget_all(), |tenant| own.forget(tenant));
        });
        let upstream = service_fn(async |request: Request<CallBody>| {
            let answer = Response::builder();
            Ok(match request.uri().path() {
                "/" => answer.header("content-length", 5).body(Either::Left(Full::from("hello"))),
                "/stream" => {
                    answer.header("content-type", "text/event-stream").body(Either::Left(Full::from("data: one\n\n")))
                }
                // It never ends.
                _ => answer.header("content-type", "text/event-stream").body(Either::Right(Silent)),
            }
            .unwrap())
        });
        let service = layer.store(RedisStore::new(redis.clone()).memory(memory)).layer(upstream);
        Self { redis, service: BoxCloneSyncService::new(service), _listener: listener }
    }

    async fn ask(&self, path: &str, tenant: &str, key: &str) -> Answer {
        let request = Request::post(path).header("idempotency-key", key).extension(Tenant::new(tenant));
        self.service.clone().oneshot(request.body(Full::default()).unwrap()).await.unwrap()
    }

    async fn role(&self, tenant: &str) -> DedupRole {
        let answer = self.ask("/", tenant, "k").await;
        let role = *answer.extensions().get::<DedupRole>().unwrap();
        answer.into_body().collect().await.unwrap();
        role
    }

    async fn until(&self, tenant: &str, role: DedupRole) {
        let begun = Instant::now();
        while self.role(tenant).await != role {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is not {role:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn status(&self, location: &str) -> u16 {
        let request = Request::get(location).body(Full::default()).unwrap();
        self.service.clone().oneshot(request).await.unwrap().status().as_u16()
    }
}

async fn count(server: &Server, pattern: &str) -> usize {
    match server.say(&format!("KEYS {pattern}")).await.unwrap() {
        Value::Array(keys) => keys.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_kept_of_a_tenant_is_forgotten_by_all_processes() {
    let server = Server::start();
    // Letters that a pattern would take for others.
    let process = || Process::new(Redis::new(server.options().prefix("a[b]*c").patience(PATIENCE)).unwrap());
    let (one, two) = (process(), process());
    // A space whose names are matched by that pattern, read as one.
    let stranger = Process::new(Redis::new(server.options().prefix("abc")).unwrap());
    stranger.role("acme").await;
    for tenant in ["acme", "other"] {
        assert_eq!(one.role(tenant).await, DedupRole::Leader);
        two.until(tenant, DedupRole::Replayed).await;
    }
    // An empty name is not the name of all.
    assert_eq!(two.redis.forget(Some(&Tenant::new(""))).await.unwrap(), 0);
    assert_eq!(two.redis.forget(Some(&Tenant::new("acme"))).await.unwrap(), 1);
    assert_eq!(count(&server, "a*:r:*").await, 2, "its own is gone, and no other");
    for process in [&one, &two] {
        // In memory, too.
        process.until("acme", DedupRole::Leader).await;
        assert_eq!(process.role("other").await, DedupRole::Replayed);
        process.redis.forget(Some(&Tenant::new("acme"))).await.unwrap();
    }
    assert_eq!(one.redis.forget(None).await.unwrap(), 1);
    two.until("other", DedupRole::Leader).await;
    stranger.until("acme", DedupRole::Replayed).await;
}

#[tokio::test]
async fn answers_to_come_back_to_are_forgotten_by_all_processes() {
    let server = Server::start();
    let options = server.fresh().patience(PATIENCE);
    let process = || Process::new(Redis::new(options.clone()).unwrap());
    let (one, two) = (process(), process());
    let answer = one.ask("/stream", "acme", "a").await;
    let ended = answer.headers()["content-location"].to_str().unwrap().to_owned();
    answer.into_body().collect().await.unwrap();
    let under_way = one.ask("/silence", "acme", "b").await;
    let location = under_way.headers()["content-location"].to_str().unwrap().to_owned();
    let begun = Instant::now();
    while two.status(&ended).await != 200 || two.status(&location).await != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not notified");
    }
    two.redis.forget(Some(&Tenant::new("acme"))).await.unwrap();
    for process in [&one, &two] {
        let begun = Instant::now();
        while process.status(&ended).await != 410 {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is not forgotten");
        }
        assert_eq!(process.status(&location).await, 200, "a call under way goes on");
    }
    drop(under_way);
}

#[tokio::test]
async fn thousands_of_keys_are_looked_at() {
    let server = Server::start();
    let redis = Redis::new(server.options().patience(PATIENCE)).unwrap();
    let fill = "for n = 1, 3000 do redis.call('HSET', ARGV[1] .. ':1:{' .. n .. '}:m', 't', 'x', 's', n % 3 == 0 and 'f' or 'k', 'w', n) end";
    server.eval(fill, &["buttress"]).await;
    assert_eq!(redis.forget(None).await.unwrap(), 2000);
    assert_eq!(count(&server, "buttress:*").await, 1000);
}

/// Kept answers as they are in Redis, without the layer that wrote them.
const KEPT: &str = "for n = 1, 40 do
    local name = 'buttress:1:{' .. n .. '}:'
    redis.call('HSET', name .. 'm', 't', string.rep('t', 16), 's', 'k', 'w', n)
    redis.call('SET', name .. 'r:' .. string.rep('74', 16), 'answer')
end";

#[tokio::test]
async fn an_answer_that_was_lost_leaves_nothing() {
    let server = Server::start();
    let way = Proxy::to(server.port()).await;
    let options = RedisOptions::from_url(&format!("redis://127.0.0.1:{}", way.port())).unwrap();
    let redis = Redis::new(options.patience(PATIENCE)).unwrap();
    assert!(redis.ping().await);
    for lost in 0..6 {
        server.eval(KEPT, &[]).await;
        way.lose_an_answer_after(lost);
        redis.forget(None).await.unwrap();
        assert_eq!(count(&server, "buttress:*").await, 0, "answer {lost} was lost");
    }
}

#[tokio::test]
async fn what_is_to_be_forgotten_is_forgotten_when_redis_is_back() {
    let server = Server::start();
    let redis = server.redis();
    assert!(redis.ping().await);
    server.eval(KEPT, &[]).await;
    server.freeze();
    let forgetting = tokio::spawn({
        let redis = redis.clone();
        async move { redis.forget(None).await }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    server.thaw();
    assert!(forgetting.await.unwrap().is_ok());
    assert_eq!(count(&server, "buttress:*").await, 0);
}

/// A tenant with room for one answer.
async fn what_is_deleted_no_longer_counts<B: Backend + ForgetBackend + LastGoodBackend>(backend: B) {
    let (tenant, print) = (Tenant::new("acme"), |byte| Fingerprint::from_bytes([byte; 32]));
    let (owner, window) = (Some(TenantHash::of(&tenant)), Duration::from_secs(600));
    let keep = async |key| {
        let flight = Flight { key: print(key), token: Token::random() };
        let args = ClaimArgs {
            key: flight.key,
            payload: print(0),
            token: flight.token,
            owner: ProcessId::random(),
            lease: Duration::from_secs(10),
        };
        assert_eq!(backend.claim(args).await.unwrap(), Claimed::Lead);
        let share = LogShare { tenant: print(100), bytes: 100 };
        backend.append(flight, 0, Bytes::from_static(b"answer"), Duration::from_secs(30), share).await.unwrap();
        let end = FlightEnd::Keep { window, length: 6, tenant: print(100), tenant_bytes: 600, owner };
        (flight, backend.settle(flight, end).await.unwrap())
    };
    assert_eq!((keep(1).await.1, keep(2).await.1), (Settled::Done, Settled::NoRoom));
    assert_eq!(backend.forget_kept(Some(&tenant)).await.unwrap(), 1);
    let (damaged, kept) = keep(3).await;
    assert_eq!((kept, keep(4).await.1), (Settled::Done, Settled::NoRoom));
    assert!(backend.discard(damaged, print(100)).await.unwrap());
    assert_eq!(keep(5).await.1, Settled::Done);
    let remember = async |exact| {
        let keys = LastGoodKeys::new(print(100), owner, print(exact), None);
        let (bytes, age) = (Bytes::from_static(b"answer"), Duration::ZERO);
        backend.remember(KeptAnswer { keys, bytes, age, ttl: window, tenant_bytes: 600 }).await.unwrap()
    };
    assert_eq!((remember(6).await, remember(7).await), (true, false));
    assert_eq!(backend.forget_kept(Some(&tenant)).await.unwrap(), 2);
    assert!(remember(7).await);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_deleted_no_longer_counts_in_its_tenants_quota() {
    what_is_deleted_no_longer_counts(RedisModel::new()).await;
}

#[tokio::test]
async fn quotas_are_the_same_on_a_real_redis() {
    let server = Server::start();
    what_is_deleted_no_longer_counts(Redis::new(server.fresh().patience(PATIENCE)).unwrap()).await;
}

#[tokio::test]
async fn a_redis_without_memory_forgets() {
    let server = Server::start();
    let redis = Redis::new(server.fresh().patience(PATIENCE)).unwrap();
    let (tenant, print) = (Tenant::new("acme"), |byte| Fingerprint::from_bytes([byte; 32]));
    let ttl = Duration::from_secs(600);
    for exact in [1, 2] {
        let keys = LastGoodKeys::new(print(100), Some(TenantHash::of(&tenant)), print(exact), None);
        let bytes = Bytes::from_static(b"answer");
        let answer = KeptAnswer { keys, bytes, age: Duration::ZERO, ttl, tenant_bytes: 10_000 };
        assert!(redis.remember(answer).await.unwrap());
    }
    server.say("CONFIG SET maxmemory 1").await.unwrap();
    assert_eq!(redis.forget_kept(Some(&tenant)).await.unwrap(), 2);
}
