//! The cost of sharing: its operations, the lag of a stream read in another process, and Redis's CPU.
//!
//! ```sh
//! cargo bench -p tower-buttress-benches --features redis --bench fleet
//! ```
//!
//! Starts its own `redis-server`. Both processes of the fleet are in this one, with two connections each.

#[path = "../../crates/gateway/tests/it/fleet/server.rs"]
#[allow(dead_code, reason = "nothing is hurt here")]
mod server;

use std::convert::Infallible;
use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt, service_fn};
use tower_buttress::store::Fingerprint;
use tower_buttress::{CallBody, DedupLayer};
use tower_buttress_redis::backend::{Backend, CircuitBackend, CircuitGroup, ClaimArgs, Delivery, Process, Token};
use tower_buttress_redis::{Redis, RedisOptions, RedisStore};

use self::server::Server;

const OPERATIONS: u32 = 10_000;
/// The number of concurrent operations or streams.
const AT_ONCE: u32 = 64;

const STREAMS: u32 = 100;
const FRAMES: u32 = 100;
const FRAME_BYTES: usize = 200;
const EVERY: Duration = Duration::from_millis(40);

const VOTES: u32 = 500;
const LEASE: Duration = Duration::from_secs(10);

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Fallible<()> {
    tokio::runtime::Runtime::new()?.block_on(measure())
}

async fn measure() -> Fallible<()> {
    let server = Server::start(&[])?;
    // A busy machine does not end the measurement.
    let options = RedisOptions::from_url(&server.url())?.patience(Duration::from_secs(2));
    let (one, other) = (Redis::new(options.clone())?, Redis::new(options)?);
    let cpu = Cpu(server.port());

    println!("{:<52} {:>10} {:>10} {:>14}", "", "p50", "p99", "Redis's CPU");
    let mut ping = Vec::new();
    let before = cpu.spent()?;
    for _ in 0..OPERATIONS {
        let begun = Instant::now();
        one.ping().await;
        ping.push(begun.elapsed());
    }
    row("ping (a script of four commands), one after the other", &mut ping, cpu.spent()? - before, OPERATIONS);

    let mut claims = Vec::new();
    let before = cpu.spent()?;
    for _ in 0..OPERATIONS {
        claims.push(claim(&one).await?);
    }
    row("claim, one after the other", &mut claims, cpu.spent()? - before, OPERATIONS);

    let (before, begun) = (cpu.spent()?, Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let redis = one.clone();
        tasks.spawn(async move {
            let mut took = Vec::new();
            for _ in 0..OPERATIONS / AT_ONCE {
                took.push(claim(&redis).await?);
            }
            Fallible::Ok(took)
        });
    }
    let mut claims = Vec::new();
    while let Some(took) = tasks.join_next().await {
        claims.extend(took??);
    }
    let rate = claims.len() as f64 / begun.elapsed().as_secs_f64();
    let count = u32::try_from(claims.len())?;
    row(&format!("claim, {AT_ONCE} at a time: {rate:.0} a second"), &mut claims, cpu.spent()? - before, count);

    let before = cpu.spent()?;
    let mut lags = votes(&one, &other).await?;
    row("vote, until another process hears of it", &mut lags, cpu.spent()? - before, VOTES);

    let before = cpu.spent()?;
    let mut lags = relay(&one, &other).await?;
    let frames = u32::try_from(lags.len())?;
    let name = format!("a frame, to a caller of another process ({STREAMS} streams)");
    row(&name, &mut lags, cpu.spent()? - before, frames);
    Ok(())
}

async fn claim(redis: &Redis) -> Fallible<Duration> {
    let token = Token::random();
    // A key of its own.
    let mut key = [0; 32];
    key[..16].copy_from_slice(token.as_bytes());
    let key = Fingerprint::from_bytes(key);
    let begun = Instant::now();
    let claim = ClaimArgs { key, payload: key, token, owner: Process::random(), lease: LEASE };
    redis.claim(claim).await?;
    Ok(begun.elapsed())
}

/// From the vote of one process to its arrival in another.
async fn votes(one: &Redis, other: &Redis) -> Fallible<Vec<Duration>> {
    let group = CircuitGroup::new("bench");
    let mut news = other.news(group).await?;
    let mut lags = Vec::new();
    for _ in 0..VOTES {
        let begun = Instant::now();
        one.vote(group.circuit(None), Process::random(), Duration::from_millis(1), LEASE).await?;
        while !matches!(news.next().await, Some(Delivery::Message(_)) | None) {}
        lags.push(begun.elapsed());
    }
    Ok(lags)
}

/// Streams led by one process, each read by a caller in the other. Each frame contains its time.
async fn relay(one: &Redis, other: &Redis) -> Fallible<Vec<Duration>> {
    let epoch = Instant::now();
    let upstream = service_fn(move |_: Request<CallBody>| async move {
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        tokio::spawn(async move {
            for _ in 0..FRAMES {
                let mut frame = epoch.elapsed().as_nanos().to_be_bytes().to_vec();
                frame.resize(FRAME_BYTES, b'.');
                if sender.send_data(frame.into()).await.is_err() {
                    return;
                }
                tokio::time::sleep(EVERY).await;
            }
        });
        Ok::<_, Infallible>(Response::new(body))
    });
    let layer = |redis: &Redis| DedupLayer::new().store(RedisStore::new(redis.clone())).layer(upstream);
    let (leads, follows) = (layer(one), layer(other));
    let request = |stream: u32| {
        Request::post("http://upstream/v1/chat/completions")
            .header("authorization", "Bearer caller")
            .body(Full::from(format!("stream {stream}")))
    };
    let mut readers = JoinSet::new();
    for stream in 0..STREAMS {
        let leader = leads.clone().oneshot(request(stream)?).await?;
        readers.spawn(async move {
            let _ = leader.into_body().collect().await;
            Vec::new()
        });
        let mut follower = follows.clone().oneshot(request(stream)?).await?.into_body();
        readers.spawn(async move {
            let mut lags = Vec::new();
            while let Some(Ok(frame)) = follower.frame().await {
                let data = frame.into_data().unwrap_or_default();
                // Several may arrive at once.
                for frame in data.chunks_exact(FRAME_BYTES) {
                    let sent = frame.first_chunk().map(|sent| u128::from_be_bytes(*sent)).unwrap_or_default();
                    let sent = Duration::from_nanos(u64::try_from(sent).unwrap_or_default());
                    lags.push(epoch.elapsed().saturating_sub(sent));
                }
            }
            lags
        });
    }
    let mut lags = Vec::new();
    while let Some(heard) = readers.join_next().await {
        lags.extend(heard?);
    }
    Ok(lags)
}

fn row(name: &str, took: &mut [Duration], cpu: Duration, count: u32) {
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).map_or(0.0, |took| took.as_secs_f64() * 1e6);
    let cpu = cpu.as_secs_f64() * 1e6 / f64::from(count.max(1));
    println!("{name:<52} {:>7.0} us {:>7.0} us {cpu:>11.1} us", at(50), at(99));
}

/// The CPU time of Redis.
struct Cpu(u16);

// === impl Cpu ===

impl Cpu {
    fn spent(&self) -> Fallible<Duration> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.0))?;
        connection.write_all(b"INFO cpu\r\nQUIT\r\n")?;
        let mut info = String::new();
        connection.read_to_string(&mut info)?;
        let seconds = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<f64>().ok()).ok_or("no such line in INFO cpu")
        };
        Ok(Duration::from_secs_f64(seconds("used_cpu_sys")? + seconds("used_cpu_user")?))
    }
}
