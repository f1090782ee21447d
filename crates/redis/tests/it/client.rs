//! What an outage costs, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower_buttress::store::Fingerprint;
use tower_buttress_redis::backend::{Backend, BackendError, ClaimArgs, Claimed, Process, Token};
use tower_buttress_redis::{OperationResult, Reachability, Redis, RedisOptions};

use crate::support::{Events, Server, until};

const MS: Duration = Duration::from_millis(1);

fn args(key: u8) -> ClaimArgs {
    ClaimArgs {
        key: Fingerprint::from_bytes([key; 32]),
        payload: Fingerprint::from_bytes([0; 32]),
        token: Token::random(),
        owner: Process::random(),
        lease: Duration::from_secs(10),
    }
}

async fn claim(redis: &Redis, key: u8) -> (Result<Claimed, BackendError>, Duration) {
    let begun = Instant::now();
    (redis.claim(args(key)).await, begun.elapsed())
}

fn is_reached(redis: &Redis) -> bool {
    redis.reachability().borrow().is_reached()
}

#[tokio::test]
async fn a_redis_that_is_not_there_costs_next_to_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let events = Events::default();
    let options = RedisOptions::from_url(&format!("redis://127.0.0.1:{port}")).unwrap();
    // Long, so that what was waited for is told from a busy machine.
    let options = options.patience(Duration::from_secs(20)).observer(Arc::new(events.clone()));
    let skipped = Arc::new(AtomicUsize::new(0));
    let count = skipped.clone();
    let options = options.on_operation(move |operation| {
        count.fetch_add(usize::from(operation.result == OperationResult::Skipped), SeqCst);
    });
    let redis = Redis::new(options).unwrap();
    assert!(is_reached(&redis), "nothing is known yet");
    let (first, took) = claim(&redis, 1).await;
    assert_eq!(first, Err(BackendError::Unreachable));
    // No retries: a refused connection is an answer.
    assert!(took < Duration::from_secs(1), "{took:?}");
    let begun = Instant::now();
    for _ in 0..1000 {
        assert_eq!(claim(&redis, 1).await.0, Err(BackendError::Unreachable));
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "a thousand took {:?}", begun.elapsed());
    // Nothing was sent, and nothing was waited for.
    assert_eq!(skipped.load(SeqCst), 1000);
    assert!(matches!(&*redis.reachability().borrow(), Reachability::Unreachable { .. }));
    assert_eq!(events.all(), ["redis: unreachable: Connection refused (os error 111)"]);
}

/// The events of a process that connects to this URL, claims some keys, and waits.
async fn events_at(url: &str) -> Vec<String> {
    let events = Events::default();
    let options = RedisOptions::from_url(url).unwrap().observer(Arc::new(events.clone()));
    let redis = Redis::new(options.patience(Duration::from_secs(20))).unwrap();
    let begun = Instant::now();
    for key in 0.. {
        let _ = claim(&redis, key).await;
        tokio::time::sleep(50 * MS).await;
        if begun.elapsed() > Duration::from_millis(2_500) {
            break;
        }
    }
    assert_eq!(events.all().is_empty(), is_reached(&redis));
    events.all()
}

#[tokio::test]
async fn a_redis_that_refuses_everything_is_an_outage_and_its_words_are_told_once() {
    let server = Server::start();
    let at = |user: &str, database: &str| format!("redis://{user}127.0.0.1:{}{database}", server.port());
    let right =
        "resetkeys ~buttress:* resetchannels &buttress:* +@read +@write +@scripting +@pubsub +@connection +time";
    for (user, wrong) in [("keys", "resetkeys ~other:*"), ("scripts", "-@scripting"), ("time", "-time")] {
        server.say(&format!("ACL SETUSER {user} on >secret {right} {wrong}")).await.unwrap();
        let told = events_at(&at(&format!("{user}:secret@"), "")).await;
        assert!(matches!(&told[..], [one] if one.starts_with("redis: unreachable: ")), "{user}: {told:?}");
        assert!(!told[0].contains("secret"), "{told:?}");
    }
    server.say(&format!("ACL SETUSER gateway on >secret {right}")).await.unwrap();
    assert_eq!(events_at(&at("gateway:secret@", "")).await, [""; 0]);
    assert_eq!(events_at(&at("", "/99")).await, ["redis: unreachable: ERR DB index is out of range"]);
    assert_eq!(events_at(&at("", "/9")).await, [""; 0]);
}

#[tokio::test]
async fn a_redis_without_memory_is_reached_and_its_refusals_are_told_once() {
    let server = Server::with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let events = Events::default();
    let redis = Redis::new(server.options().observer(Arc::new(events.clone()))).unwrap();
    for key in 0..10 {
        assert!(matches!(claim(&redis, key).await.0, Err(BackendError::Refused(_))));
    }
    assert!(is_reached(&redis) && redis.ping().await);
    let told = events.all();
    assert!(matches!(&told[..], [one] if one.starts_with("redis: refuses: OOM command not allowed")), "{told:?}");
}

#[tokio::test]
async fn a_redis_that_is_frozen_costs_its_patience_once() {
    let server = Server::start();
    let events = Events::default();
    let redis = Redis::new(server.options().observer(Arc::new(events.clone()))).unwrap();
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
    server.freeze();
    // All that are asked at once wait together.
    let begun = Instant::now();
    let asked: Vec<_> = (0..50)
        .map(|_| {
            tokio::spawn({
                let redis = redis.clone();
                async move { redis.claim(args(2)).await }
            })
        })
        .collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), Err(BackendError::Unreachable));
    }
    let took = begun.elapsed();
    assert!(took >= 100 * MS && took < 200 * MS, "{took:?}");
    for _ in 0..100 {
        let (answer, took) = claim(&redis, 2).await;
        assert_eq!(answer, Err(BackendError::Unreachable));
        assert!(took < 20 * MS, "{took:?}");
    }
    server.thaw();
    until("it is reached again", || is_reached(&redis)).await;
    assert_eq!(claim(&redis, 3).await.0, Ok(Claimed::Lead));
    assert_eq!(events.all(), ["redis: unreachable: no answer in time", "redis: reached again"]);
}

#[tokio::test]
async fn a_redis_that_comes_back_is_found_again() {
    let mut server = Server::start();
    let redis = server.redis();
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
    server.kill();
    assert_eq!(claim(&redis, 1).await.0, Err(BackendError::Unreachable));
    server.start_again();
    until("it is reached again", || is_reached(&redis)).await;
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead), "it was restarted empty");
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_answer() {
    let server = Server::start();
    let redis = server.redis();
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
    for key in 2..6 {
        server.say("CLIENT KILL TYPE normal SKIPME yes").await.unwrap();
        assert_eq!(claim(&redis, key).await.0, Ok(Claimed::Lead));
    }
    assert!(is_reached(&redis));
}

/// Hands on connections to a Redis, until it is told to swallow them: they stay open, and nothing passes.
async fn half_open(port: u16) -> (u16, watch::Sender<bool>) {
    let (swallow, swallowing) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut swallowing = swallowing.clone();
            swallowing.mark_unchanged();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = swallowing.changed() => std::future::pending().await,
                }
            });
        }
    });
    (at, swallow)
}

#[tokio::test]
async fn a_connection_that_is_half_open_is_replaced() {
    let server = Server::start();
    let (port, swallow) = half_open(server.port()).await;
    let redis = Redis::new(RedisOptions::from_url(&format!("redis://127.0.0.1:{port}")).unwrap()).unwrap();
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
    swallow.send_replace(true);
    let (answer, took) = claim(&redis, 2).await;
    assert_eq!(answer, Err(BackendError::Unreachable));
    assert!(took < 200 * MS, "{took:?}");
    until("a new connection is made", || is_reached(&redis)).await;
    assert_eq!(claim(&redis, 2).await.0, Ok(Claimed::Lead));
}

#[tokio::test]
async fn scripts_that_redis_has_forgotten_are_sent_again() {
    let server = Server::start();
    let redis = server.redis();
    for key in 1..4 {
        assert_eq!(claim(&redis, key).await.0, Ok(Claimed::Lead));
        server.say("SCRIPT FLUSH").await.unwrap();
    }
    assert!(is_reached(&redis));
}

#[tokio::test]
async fn a_user_needs_its_own_keys_and_channels_and_no_more() {
    let server = Server::start();
    let rights = "resetkeys ~mine:* resetchannels &mine:* +@read +@write +@scripting +@pubsub +@connection +time";
    server.say(&format!("ACL SETUSER gateway on >secret {rights}")).await.unwrap();
    let url = |password| format!("redis://gateway:{password}@127.0.0.1:{}", server.port());
    let redis = Redis::new(RedisOptions::from_url(&url("secret")).unwrap().prefix("mine")).unwrap();
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
    assert!(redis.inbox(Process::random()).await.is_ok());
    let elsewhere = Redis::new(RedisOptions::from_url(&url("secret")).unwrap().prefix("yours")).unwrap();
    assert_eq!(claim(&elsewhere, 1).await.0, Err(BackendError::Unreachable));
    assert!(!is_reached(&elsewhere));
    let stranger = Redis::new(RedisOptions::from_url(&url("wrong")).unwrap()).unwrap();
    assert_eq!(claim(&stranger, 1).await.0, Err(BackendError::Unreachable));
    let shown = format!("{stranger:?} {:?}", RedisOptions::from_url(&url("secret")).unwrap());
    assert!(!shown.contains("wrong") && !shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn a_redis_that_wants_a_password_is_not_reached_without_one() {
    let server = Server::with(&["--requirepass", "secret"]);
    let redis = server.redis();
    assert_eq!(claim(&redis, 1).await.0, Err(BackendError::Unreachable));
    assert!(!is_reached(&redis));
    let url = format!("redis://:secret@127.0.0.1:{}", server.port());
    let redis = Redis::new(RedisOptions::from_url(&url).unwrap()).unwrap();
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
}

#[tokio::test]
async fn the_words_of_a_redis_that_was_down_are_told_once_it_is_up() {
    let mut server = Server::start();
    let events = Events::default();
    let redis = Redis::new(server.options().observer(Arc::new(events.clone()))).unwrap();
    server.kill();
    assert_eq!(claim(&redis, 1).await.0, Err(BackendError::Unreachable));
    server.require("secret");
    server.start_again();
    until("its words are told", || events.all().len() > 1).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let told = events.all();
    let [first, second] = &told[..] else { panic!("{told:?}") };
    assert!(first.starts_with("redis: unreachable: Connection refused"), "{told:?}");
    assert!(second.starts_with("redis: unreachable: NOAUTH "), "{told:?}");
    let shown = redis.reachability().borrow().clone();
    assert!(matches!(&shown, Reachability::Unreachable { why, .. } if why.starts_with("NOAUTH")), "{shown:?}");
}

#[tokio::test]
async fn a_connection_of_the_application_is_used() {
    let server = Server::start();
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let redis = Redis::new(RedisOptions::from_client(&client).connection(connection)).unwrap();
    let before = server.info("total_connections_received").await;
    assert_eq!(claim(&redis, 1).await.0, Ok(Claimed::Lead));
    // The one that asks.
    assert_eq!(server.info("total_connections_received").await, before + 1);
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_needs_its_feature() {
    assert!(RedisOptions::from_url("rediss://127.0.0.1").is_err());
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_had_by_the_url() {
    assert!(Redis::new(RedisOptions::from_url("rediss://user:secret@127.0.0.1").unwrap()).is_ok());
}
