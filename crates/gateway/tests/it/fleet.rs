//! Two gateways that share a Redis, and their behaviour without it.

mod server;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use self::server::Server;
use super::client::{Outgoing, ask, chat, content, full, read};
use super::{Running, gateway, process, soon};
use crate::support::secs;
use tower_buttress_gateway::{Args, Gateway, Provider};

/// Twenty events in 1 s.
const SLOWLY: &str = "gap=50ms; chunks=20";

/// The time of a call beside the wait for Redis, on a busy machine.
const SLACK: Duration = Duration::from_millis(1_500);

/// A gateway of this fleet in front of `provider`.
async fn member(provider: &Provider, redis: &str, options: &[&str]) -> Running {
    let upstream = format!("http://{}", provider.addr());
    gateway(&[&["--upstream", &upstream, "--redis", redis], options].concat()).await
}

fn click(gateway: &Running, fault: &str) -> Request<Outgoing> {
    let mut request = chat(gateway.addr, true, fault);
    request.headers_mut().insert("authorization", HeaderValue::from_static("alice"));
    request
}

fn keyed(gateway: &Running, key: &str) -> Request<Outgoing> {
    let mut request = click(gateway, "");
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    request
}

fn role(answer: &Response<Incoming>) -> Option<&str> {
    answer.headers().get("x-gateway-dedup").map(|role| role.to_str().unwrap())
}

async fn page(gateway: &Running, path: &str) -> (StatusCode, String) {
    page_at(gateway.addr, path).await
}

async fn page_at(addr: SocketAddr, path: &str) -> (StatusCode, String) {
    let request = Request::get(format!("http://{addr}{path}")).body(full("")).unwrap();
    let answer = ask(request).await;
    (answer.status(), read(answer.into_body()).await.0)
}

/// Waits until the gateway's metrics contain this line.
async fn until_metric(gateway: &Running, line: &str) {
    until_metric_at(gateway.addr, line).await;
}

async fn until_metric_at(addr: SocketAddr, line: &str) {
    let begun = Instant::now();
    while !page_at(addr, "/-/metrics").await.1.lines().any(|shown| shown.starts_with(line)) {
        assert!(begun.elapsed() < secs(10), "no {line}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn circuit(gateway: &Running) -> Value {
    serde_json::from_str::<Value>(&page(gateway, "/-/breakers").await.1).unwrap()[0]["state"].take()
}

#[tokio::test]
async fn a_double_click_on_two_gateways_is_one_upstream_call() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let one = member(&provider, &redis.url(), &[]).await;
    let other = member(&provider, &redis.url(), &[]).await;
    let first = ask(click(&one, SLOWLY)).await;
    let second = ask(click(&other, SLOWLY)).await;
    assert_eq!((role(&first), role(&second)), (Some("leader"), Some("joined")));
    let ((first, first_whole), (second, second_whole)) =
        tokio::join!(read(first.into_body()), read(second.into_body()));
    assert!(first_whole && second_whole && content(&first).len() > 20);
    assert_eq!(first, second);
    assert_eq!(provider.counts().calls, 1);

    until_metric(&one, "gateway_redis_reached 1").await;
    until_metric(&one, r#"gateway_redis_operations_total{operation="claim",result="answered"} "#).await;
    until_metric(&one, r#"gateway_redis_operation_seconds_bucket{operation="claim",le="0.001"} "#).await;
}

#[tokio::test]
async fn a_key_that_one_gateway_answered_is_replayed_by_the_other() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let one = member(&provider, &redis.url(), &["--redis-prefix", "chat"]).await;
    let other = member(&provider, &redis.url(), &["--redis-prefix", "chat"]).await;
    let stranger = member(&provider, &redis.url(), &["--redis-prefix", "mail"]).await;
    let first = read(ask(keyed(&one, "k")).await.into_body()).await;
    assert!(first.1);
    // Decided once its end has been read.
    let begun = Instant::now();
    let second = loop {
        let second = ask(keyed(&other, "k")).await;
        if role(&second) == Some("replayed") {
            break second;
        }
        read(second.into_body()).await;
        assert!(begun.elapsed() < secs(5));
    };
    assert_eq!(read(second.into_body()).await, first);
    assert_eq!(provider.counts().calls, 1);

    assert_eq!(role(&ask(keyed(&stranger, "k")).await), Some("leader"));
}

#[tokio::test]
async fn a_caller_that_was_cut_off_at_one_gateway_comes_back_to_the_other() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let one = member(&provider, &redis.url(), &["--resumable", "on"]).await;
    let other = member(&provider, &redis.url(), &["--resumable", "on"]).await;
    let mut question = click(&one, SLOWLY);
    question.headers_mut().insert("idempotency-key", HeaderValue::from_static("k"));
    let mut answer = ask(question).await;
    let location = answer.headers()["content-location"].to_str().unwrap().to_owned();
    let mut first = String::new();
    while content(&first).is_empty() {
        let frame = answer.frame().await.unwrap().unwrap();
        first += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    drop(answer);
    let at = |gateway: &Running, method: &str, id: Option<&str>| {
        let request = Request::builder().method(method).uri(format!("http://{}{location}", gateway.addr));
        let request = id.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        request.body(full("")).unwrap()
    };
    let last_id =
        |text: &str| text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned();
    until_metric(&one, r#"gateway_redis_operations_total{operation="offer",result="answered"} "#).await;
    let again = ask(at(&other, "GET", Some(&last_id(&first)))).await;
    assert_eq!((again.status().as_u16(), role(&again)), (200, Some("resumed")));
    let (rest, whole) = read(again.into_body()).await;
    assert!(whole && rest.contains("[DONE]"));
    let (all, _) = read(ask(at(&other, "GET", None)).await.into_body()).await;
    assert_eq!(content(&first) + &content(&rest), content(&all));
    assert_eq!(ask(at(&other, "GET", Some(&last_id(&rest)))).await.status(), 204);
    assert_eq!(ask(at(&other, "GET", Some("0123456789abcdef.7"))).await.status(), 412);
    assert_eq!(provider.counts().calls, 1);
    assert_eq!(ask(at(&other, "DELETE", None)).await.status(), 204);
    assert_eq!(ask(at(&other, "GET", None)).await.status(), 410);
    let begun = Instant::now();
    while ask(at(&one, "GET", None)).await.status() != 410 {
        assert!(begun.elapsed() < secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_circuit_that_opened_on_one_gateway_is_known_to_the_other() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let options = ["--attempts", "1", "--breaker-consecutive", "3", "--breaker-open", "15s", "--dedup", "off"];
    let one = member(&provider, &redis.url(), &options).await;
    let other = member(&provider, &redis.url(), &options).await;
    for _ in 0..3 {
        assert_eq!(ask(chat(one.addr, true, "status=500")).await.status(), 500);
    }
    assert_eq!(circuit(&one).await, "open");
    until_metric(&one, r#"gateway_redis_operations_total{operation="vote",result="answered"} "#).await;
    // With one vote of two, one failure of its own opens it, instead of three.
    assert_eq!(ask(chat(other.addr, true, "status=500")).await.status(), 500);
    let begun = Instant::now();
    while circuit(&other).await != "open" {
        assert!(begun.elapsed() < secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(chat(other.addr, true, "")).await.status(), 503);
    assert_eq!(provider.counts().calls, 4);
}

#[tokio::test]
async fn a_429_that_one_gateway_met_pauses_the_other() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let options = ["--attempts", "1", "--dedup", "off"];
    let one = member(&provider, &redis.url(), &options).await;
    let other = member(&provider, &redis.url(), &options).await;
    // Both know the model, which gets its own key after its first answer.
    for gateway in [&one, &other] {
        assert!(read(ask(click(gateway, "")).await.into_body()).await.1);
    }
    until_metric(&other, r#"gateway_redis_operations_total{operation="paused",result="answered"} "#).await;
    let begun = Instant::now();
    assert_eq!(ask(click(&one, "status=429; retry-after=2")).await.status(), 429);
    until_metric(&one, r#"gateway_redis_operations_total{operation="pause",result="answered"} "#).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = ask(click(&other, "")).await;
    assert_eq!(answer.status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "it came after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_callers_rate_is_that_of_both_gateways() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let options = ["--caller-requests", "3/60s", "--dedup", "off"];
    let one = member(&provider, &redis.url(), &options).await;
    let other = member(&provider, &redis.url(), &options).await;
    let mut statuses = Vec::new();
    for gateway in [&one, &other, &one, &other, &one] {
        statuses.push(timed(click(gateway, "gap=1ms; chunks=1")).await.1.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    // Another caller has its own rate.
    let mut request = click(&other, "gap=1ms; chunks=1");
    request.headers_mut().insert("authorization", HeaderValue::from_static("bob"));
    assert_eq!(timed(request).await.1, 200);
    until_metric(&one, r#"gateway_redis_operations_total{operation="reserve",result="answered"} "#).await;
}

#[tokio::test]
async fn a_newer_message_at_one_gateway_ends_the_older_one_at_the_other() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let options = ["--supersede-header", "x-conversation", "--dedup", "off"];
    let one = member(&provider, &redis.url(), &options).await;
    let other = member(&provider, &redis.url(), &options).await;
    let message = |gateway: &Running, words: &str, fault: &str| {
        let body =
            serde_json::json!({"model": "sim", "stream": true, "messages": [{"role": "user", "content": words}]});
        Request::post(format!("http://{}/v1/chat/completions", gateway.addr))
            .header("content-type", "application/json")
            .header("authorization", "alice")
            .header("x-conversation", "7")
            .header("x-fault", fault)
            .body(full(body.to_string()))
            .unwrap()
    };
    // A gateway that received a message has subscribed.
    for (gateway, words) in [(&one, "a"), (&other, "b")] {
        assert!(read(ask(message(gateway, words, "gap=1ms; chunks=1")).await.into_body()).await.1);
    }
    let older = ask(message(&one, "c", "gap=100ms; chunks=100")).await;
    let begun = Instant::now();
    let newer = ask(message(&other, "d", SLOWLY)).await;
    let ((older, whole), (newer, newer_whole)) = tokio::join!(read(older.into_body()), read(newer.into_body()));
    assert!(!whole && !older.contains("[DONE]"), "{older}");
    assert!(newer_whole && newer.contains("[DONE]"), "{newer}");
    assert!(begun.elapsed() < secs(8), "it was read to its end");
}

#[tokio::test]
async fn the_last_good_answer_of_one_gateway_stands_in_at_the_other() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let options = ["--last-good", "on", "--attempts", "1", "--dedup", "off"];
    let one = member(&provider, &redis.url(), &options).await;
    let other = member(&provider, &redis.url(), &options).await;
    let (good, whole) = read(ask(click(&one, "gap=1ms; chunks=3")).await.into_body()).await;
    assert!(whole);
    until_metric(&one, r#"gateway_redis_operations_total{operation="remember",result="answered"} "#).await;
    let stale = ask(click(&other, "status=503")).await;
    assert_eq!((stale.status().as_u16(), &stale.headers()["x-gateway-served-by"]), (200, &"cache".parse().unwrap()));
    assert_eq!(content(&read(stale.into_body()).await.0), content(&good));
}

#[tokio::test]
async fn all_gateways_forget_what_one_was_asked_to_forget() {
    let (mut redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let one = member(&provider, &redis.url(), &[]).await;
    let other = member(&provider, &redis.url(), &[]).await;
    let becomes = async |gateway: &Running, wanted: &str| {
        let begun = Instant::now();
        loop {
            let answer = ask(keyed(gateway, "k")).await;
            let role = role(&answer).map(str::to_owned);
            read(answer.into_body()).await;
            if role.as_deref() == Some(wanted) {
                break;
            }
            assert!(begun.elapsed() < secs(5), "{role:?}");
        }
    };
    let forget = async || {
        let request = Request::post(format!("http://{}/-/forget", one.addr)).body(full("")).unwrap();
        let answer = ask(request).await;
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<Value>(&read(answer.into_body()).await.0).unwrap()["forgotten"]["redis"].take())
    };
    becomes(&one, "leader").await;
    becomes(&other, "replayed").await;
    assert_eq!(forget().await, (200, 1.into()));
    becomes(&other, "leader").await;
    // To be forgotten later.
    redis.kill().unwrap();
    assert_eq!(forget().await, (503, Value::Null));
}

/// The duration of a call through this gateway, and its status.
async fn timed(request: Request<Outgoing>) -> (Duration, StatusCode) {
    let begun = Instant::now();
    let answer = ask(request).await;
    let status = answer.status();
    read(answer.into_body()).await;
    (begun.elapsed(), status)
}

/// Ten calls in a row, as fast as a few: none waits for Redis.
async fn no_call_waits(gateway: &Running, wait: Duration) {
    let mut took = Vec::new();
    for _ in 0..10 {
        let (time, status) = timed(click(gateway, "gap=1ms; chunks=1")).await;
        assert_eq!(status, 200);
        took.push(time);
    }
    took.sort_unstable();
    assert!(took[5] < wait, "{took:?}");
}

#[tokio::test]
async fn a_frozen_redis_costs_callers_its_patience_once() {
    let (redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    // Long enough to differ from a busy machine.
    let gateway = member(&provider, &redis.url(), &["--redis-patience", "2s"]).await;
    assert_eq!(timed(click(&gateway, "gap=1ms; chunks=1")).await.1, 200);
    redis.freeze().unwrap();
    let (took, status) = timed(click(&gateway, "gap=1ms; chunks=2")).await;
    assert_eq!(status, 200);
    assert!(took < secs(2) + SLACK, "{took:?}");
    until_metric(&gateway, "gateway_redis_reached 0").await;
    no_call_waits(&gateway, secs(1)).await;
    assert_eq!(page(&gateway, "/-/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
    assert_eq!(timed(keyed(&gateway, "k")).await.1, 200);
    redis.thaw().unwrap();
    until_metric(&gateway, "gateway_redis_reached 1").await;
}

#[tokio::test]
async fn a_redis_that_died_costs_callers_nothing() {
    let (mut redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let gateway = member(&provider, &redis.url(), &["--redis-patience", "2s"]).await;
    assert_eq!(timed(click(&gateway, "gap=1ms; chunks=1")).await.1, 200);
    redis.kill().unwrap();
    no_call_waits(&gateway, secs(1)).await;
    until_metric(&gateway, "gateway_redis_reached 0").await;
    redis.start_again().unwrap();
    until_metric(&gateway, "gateway_redis_reached 1").await;
}

#[tokio::test]
async fn refuse_refuses_what_another_gateway_may_have_answered() {
    let (mut redis, provider) = (Server::start(&[]).unwrap(), Provider::start().await.unwrap());
    let gateway = member(&provider, &redis.url(), &["--redis-outage", "refuse", "--redis-patience", "2s"]).await;
    assert_eq!(timed(keyed(&gateway, "a")).await.1, 200);
    assert_eq!(page(&gateway, "/-/readyz").await.0, 200);
    redis.freeze().unwrap();
    let (took, status) = timed(keyed(&gateway, "b")).await;
    assert_eq!(status, 503);
    assert!(took < secs(2) + SLACK, "{took:?}");
    let (took, status) = timed(keyed(&gateway, "c")).await;
    assert_eq!(status, 503);
    assert!(took < secs(1), "{took:?}");
    // Nothing is promised without a key.
    no_call_waits(&gateway, secs(1)).await;
    assert_eq!(page(&gateway, "/-/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, "Redis is unreachable\n".into()));
    redis.thaw().unwrap();
    until_metric(&gateway, "gateway_redis_reached 1").await;
    assert_eq!(timed(keyed(&gateway, "d")).await.1, 200);

    redis.kill().unwrap();
    no_call_waits(&gateway, secs(1)).await;
    assert_eq!(timed(keyed(&gateway, "e")).await.1, 503);
}

/// The program: what its operator reads about Redis.
#[test]
fn an_outage_of_redis_is_one_warning() {
    let mut redis = Server::start(&[]).unwrap();
    let url = redis.url();
    let log = process::log_of(&mut process::command(&format!("--listen 127.0.0.1:0 --redis {url}")), |addr| {
        let chat = || process::send(addr, "/v1/chat/completions", "x-fault: gap=1ms; chunks=1\r\n", process::HELLO);
        assert!(chat().contains("data: [DONE]"));
        redis.kill().unwrap();
        // Calls and the background task keep asking Redis meanwhile.
        let begun = Instant::now();
        while begun.elapsed() < secs(3) {
            assert!(chat().contains("data: [DONE]"));
        }
        redis.start_again().unwrap();
        while !std::fs::read_to_string(process::log_file()).unwrap().contains("reached again") {
            assert!(begun.elapsed() < secs(20), "it is not found again");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(chat().contains("data: [DONE]"));
    });
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(matches!(warnings[..], [line] if line.contains("redis: unreachable: Connection re")), "{warnings:#?}");
}

#[tokio::test]
async fn a_redis_that_is_down_stops_no_gateway_from_starting() {
    let provider = Provider::start().await.unwrap();
    let mut redis = Server::start(&[]).unwrap();
    redis.kill().unwrap();
    let gateway = member(&provider, &redis.url(), &[]).await;
    // It connected at its start.
    until_metric(&gateway, "gateway_redis_reached 0").await;
    no_call_waits(&gateway, secs(1)).await;
    redis.start_again().unwrap();
    until_metric(&gateway, "gateway_redis_reached 1").await;
}

#[tokio::test]
async fn a_user_with_few_rights_is_enough() {
    let rights = "~buttress:* &buttress:* +@read +@write +@scripting +@pubsub +@connection +time";
    let user = [["user", "default", "off"].as_slice(), &["user", "ann", "on", ">se@cret"]].concat();
    let acl = std::env::temp_dir().join(format!("buttress-acl-{}", std::process::id()));
    std::fs::write(&acl, format!("{}\n{} {rights}\n", user[..3].join(" "), user[3..].join(" "))).unwrap();
    let redis = Server::start(&["--aclfile", acl.to_str().unwrap()]).unwrap();
    let provider = Provider::start().await.unwrap();
    let url = |password: &str| format!("redis://ann:{password}@127.0.0.1:{}", redis.port());
    let one = member(&provider, &url("se%40cret"), &[]).await;
    let other = member(&provider, &url("se%40cret"), &[]).await;
    let first = ask(click(&one, SLOWLY)).await;
    let second = ask(click(&other, SLOWLY)).await;
    assert_eq!(role(&second), Some("joined"));
    assert_eq!(read(first.into_body()).await, read(second.into_body()).await);
    until_metric(&other, "gateway_redis_reached 1").await;
    let forget = Request::post(format!("http://{}/-/forget", one.addr)).body(full("")).unwrap();
    assert_eq!(ask(forget).await.status(), 200);

    let wrong = member(&provider, &url("guess"), &[]).await;
    until_metric(&wrong, "gateway_redis_reached 0").await;
    no_call_waits(&wrong, secs(1)).await;
    std::fs::remove_file(acl).unwrap();
}

#[tokio::test]
async fn a_password_is_not_among_what_is_shown() {
    let provider = Provider::start().await.unwrap();
    let url = "redis://ann:hunter2@127.0.0.1:1";
    let args = ["gateway", "--listen", "127.0.0.1:0", "--redis", url].map(std::ffi::OsString::from);
    let gateway = Gateway::new(Args::read(args).unwrap()).await.unwrap();
    assert!(!format!("{gateway:?}").contains("hunter2"));
    drop(provider);
}

/// The program trusts the certificates that its environment names.
#[tokio::test]
async fn rediss_is_tls() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = std::env::temp_dir().join(format!("buttress-redis-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (cert, key) = (file("cert.pem", cert.pem()), file("key.pem", signing_key.serialize_pem()));
    let tls = ["--tls-port", "PORT", "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let redis = Server::start(&[&tls[..], &["--tls-ca-cert-file", &cert]].concat()).unwrap();
    let url = format!("rediss://127.0.0.1:{}", redis.port());
    for (trusted, reached) in [(cert.as_str(), "1"), ("/dev/null", "0")] {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_buttress-gateway"))
            .args(["--listen", "127.0.0.1:0", "--redis", &url, "--redis-patience", "2s"])
            .env("SSL_CERT_FILE", trusted)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = soon(lines.next_line()).await.unwrap().unwrap();
        let addr = first.strip_prefix("gateway on http://").unwrap().split(',').next().unwrap().parse().unwrap();
        until_metric_at(addr, &format!("gateway_redis_reached {reached}")).await;
        let pinged = if reached == "1" { "answered" } else { "lost" };
        let line = format!(r#"gateway_redis_operations_total{{operation="ping",result="{pinged}"}} 1"#);
        until_metric_at(addr, &line).await;
        child.kill().await.unwrap();
    }
    std::fs::remove_dir_all(folder).unwrap();
}
