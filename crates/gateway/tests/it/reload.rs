//! Reloads: what changes, what stays, and what is logged.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client::{Outgoing, ask, chat, full, http1, read};
use super::config::Config;
use super::forwarding::serve;
use super::process::Program;
use super::{Running, gateway, soon};
use crate::support::secs;
use tower_buttress_gateway::Provider;

fn of(gateway: &Running, model: &str, headers: &[(&'static str, &str)]) -> Request<Outgoing> {
    let body = json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }] });
    let mut request = chat(gateway.addr, false, "").map(|_| full(body.to_string()));
    // The fault is in the model's name.
    request.headers_mut().remove("x-fault");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

fn header<'a>(answer: &'a Response<Incoming>, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn page(gateway: &Running, path: &str) -> Value {
    let request = Request::get(format!("http://{}{path}", gateway.addr)).body(full("")).unwrap();
    serde_json::from_str(&read(ask(request).await.into_body()).await.0).unwrap()
}

#[tokio::test]
async fn a_call_keeps_the_configuration_it_began_with() {
    let (before, after) = (Provider::start().await.unwrap(), Provider::start().await.unwrap());
    let to = |provider: &Provider| format!("upstream = \"http://{}\"\ndedup = false\n", provider.addr());
    let config = Config::new(&to(&before));
    let gateway = gateway(&["--config", config.path()]).await;
    let slow = ask(chat(gateway.addr, true, "gap=20ms; chunks=20")).await;

    config.write(&to(&after));
    gateway.reload.now().await.unwrap();
    assert_eq!(ask(chat(gateway.addr, false, "")).await.status(), StatusCode::OK);
    assert_eq!((before.counts().calls, after.counts().calls), (1, 1));
    let (events, whole) = read(slow.into_body()).await;
    assert!(whole && events.contains("[DONE]"), "{events}");

    // Routes are added and removed.
    config.write(&format!("[[route]]\nname = \"a\"\npath = \"/v1/\"\nupstream = \"http://{}\"\n", before.addr()));
    gateway.reload.now().await.unwrap();
    assert_eq!(ask(chat(gateway.addr, false, "")).await.status(), StatusCode::OK);
    assert_eq!((before.counts().calls, after.counts().calls), (2, 1));
    let elsewhere = Request::get(format!("http://{}/v2/", gateway.addr)).body(full("")).unwrap();
    assert_eq!(ask(elsewhere).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn circuits_pauses_places_and_answers_belong_to_a_routes_name() {
    let provider = Provider::start().await.unwrap();
    let url = format!("http://{}", provider.addr());
    let written = |change: &str| {
        format!(
            "upstream = \"{url}\"\nattempts = 1\nresumable = true\nconcurrency = 1\nqueue_wait = \"50ms\"\n{change}\n\
             [[route]]\nname = \"own\"\nmodel = \"own*\"\nbreaker_min_calls = 1\nbreaker_open = \"15s\"\n{change}\n"
        )
    };
    let config = Config::new(&written(""));
    let gateway = gateway(&["--config", config.path()]).await;

    // A circuit of the route opens, a 429 pauses the calls outside of routes, one answer is kept and one is in flight.
    assert_eq!(ask(of(&gateway, "own:status=500", &[])).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(ask(of(&gateway, "own:status=500", &[])).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let keyed = || of(&gateway, "sim", &[("idempotency-key", "k"), ("authorization", "Bearer a")]);
    let first = read(ask(keyed()).await.into_body()).await;
    assert!(first.1);
    let limited = of(&gateway, "sim:status=429; retry-after=60", &[("authorization", "Bearer b")]);
    assert_eq!(ask(limited).await.status(), StatusCode::TOO_MANY_REQUESTS);
    let mut slow = chat(gateway.addr, true, "gap=50ms; chunks=100");
    slow.headers_mut().insert("idempotency-key", "slow".parse().unwrap());
    slow.headers_mut().insert("authorization", "Bearer c".parse().unwrap());
    let slow = ask(slow).await;
    let location = header(&slow, "content-location").to_owned();
    assert!(location.starts_with("/-/answers/"));

    for change in ["idle_timeout = \"3s\"", "deadline = \"30s\"\nbreaker_failure_ratio = 0.9"] {
        config.write(&written(change));
        gateway.reload.now().await.unwrap();
        assert_eq!(ask(of(&gateway, "own:status=500", &[])).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        let again = ask(keyed()).await;
        assert_eq!(header(&again, "x-gateway-dedup"), "replayed");
        assert_eq!(read(again.into_body()).await, first);
        // Its only place is taken.
        assert_eq!(ask(of(&gateway, "sim", &[])).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        let shown = page(&gateway, "/-/calls").await;
        let lane =
            |name: &str| shown["load"].as_array().unwrap().iter().find(|lane| lane["name"] == name).unwrap().clone();
        assert!(lane("upstream")["paused_ms"].as_u64().unwrap() > 30_000, "{shown}");
        assert_eq!(lane("upstream")["in_flight"], 1, "{shown}");
        assert!(lane("own/upstream")["paused_ms"].is_null(), "{shown}");
    }
    let at = || Request::get(format!("http://{}{location}", gateway.addr)).body(full("")).unwrap();
    let (came_back, stayed) = tokio::join!(read(ask(at()).await.into_body()), read(slow.into_body()));
    assert!(came_back == stayed && stayed.0.contains("[DONE]"), "{came_back:?}");

    // State of one upstream does not apply to another.
    let elsewhere = Provider::start().await.unwrap();
    config.write(&written("").replace(&url, &format!("http://{}", elsewhere.addr())));
    gateway.reload.now().await.unwrap();
    assert_eq!(ask(of(&gateway, "own", &[])).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_faulty_file_changes_nothing() {
    let config = Config::new("idle_timeout = \"5s\"\n");
    let gateway = gateway(&["--config", config.path()]).await;
    let wrong = |text: &str| {
        config.write(text);
        let path = config.path().to_owned();
        let reload = gateway.reload.clone();
        async move { reload.now().await.unwrap_err().replace(&path, "FILE") }
    };
    let lines = wrong("upstream = \"http://127.0.0.1:1\"\nidle = \"5s\"\n[[route]]\nname = \"a b\"\n").await;
    assert_eq!(
        lines,
        "FILE:2: idle: unknown key\nFILE:4: name: a name has 1 to 64 letters, digits, dots, dashes or underscores"
    );
    let line = wrong("upstream = \"http://127.0.0.1:1\"\nbreaker_failure_ratio = 7\n").await;
    assert!(line.starts_with("FILE:2: breaker_failure_ratio: --breaker-failure-ratio must "), "{line}");
    let line = wrong("upstream = \"http://127.0.0.1:1\"\nupstream_ca = \"/nowhere\"\n").await;
    assert!(line.starts_with("FILE:2: upstream_ca: ") && line.contains("/nowhere") && !line.contains('\n'), "{line}");
    // The simulated provider answers, as before.
    assert_eq!(ask(chat(gateway.addr, false, "")).await.status(), StatusCode::OK);
    assert_eq!(gateway.provider().counts().calls, 1);
}

#[tokio::test]
async fn a_file_that_was_cut_off_changes_nothing() {
    let provider = Provider::start().await.unwrap();
    let text = format!(
        "# the night\nupstream = \"http://{}\"\n\n[[route]]\nname = \"own\"\npath = \"/v1/\"\nattempts = 1\nbreaker = false\n",
        provider.addr()
    );
    let config = Config::new(&text);
    let gateway = gateway(&["--config", config.path()]).await;
    for end in 0..text.len() {
        config.write(&text[..end]);
        gateway.reload.now().await.expect_err(&text[..end]);
    }
    // One attempt: the route exists.
    ask(chat(gateway.addr, false, "status=500")).await;
    assert_eq!(provider.counts().calls, 1);
    config.write("# all of it was taken out\n");
    let wrong = gateway.reload.now().await.unwrap_err();
    assert!(wrong.ends_with(":1: the file has no keys; is it complete?"), "{wrong}");
    // An intended change applies.
    config.write(&format!("{}# no routes\n", &text[..text.find("[[").unwrap()]));
    gateway.reload.now().await.unwrap();
}

#[tokio::test]
async fn caller_keys_are_not_lost_by_a_file_that_was_cut_off() {
    let keys = KeysFile::new("cut", "acme:one\nacme:another\n");
    let written = format!("idle_timeout = \"20s\"\ncaller_keys_file = \"{}\"\n", keys.path());
    let config = Config::new(&written);
    let gateway = gateway(&["--config", config.path(), "--dedup", "off"]).await;
    let call = async |key: Option<&str>| {
        let mut request = chat(gateway.addr, false, "");
        if let Some(key) = key {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        ask(request).await.status().as_u16()
    };
    // Without its last line anyone could call; with a truncated one, a key that was never issued would be valid.
    config.write("idle_timeout = \"21s\"\n");
    let wrong = gateway.reload.now().await.unwrap_err();
    assert_eq!(
        wrong,
        "the configuration no longer names caller keys; add them, or restart to serve callers without keys"
    );
    config.write(&written);
    std::fs::write(&keys.0, "acme:one\nacme:ano").unwrap();
    let wrong = gateway.reload.now().await.unwrap_err();
    assert!(wrong.starts_with("caller_keys_file: the last line no longer ends with a line break"), "{wrong}");
    assert_eq!([call(None).await, call(Some("ano")).await, call(Some("another")).await], [401, 401, 200]);
    std::fs::write(&keys.0, "acme:one\n").unwrap();
    gateway.reload.now().await.unwrap();
    assert_eq!([call(Some("one")).await, call(Some("another")).await], [200, 401]);
}

/// A missing line must not give callers simulated answers, or turn a TLS listener into plain text.
#[tokio::test]
async fn an_upstream_that_is_gone_from_the_file_is_no_simulated_one() {
    let provider = Provider::start().await.unwrap();
    let config = Config::new(&format!("idle_timeout = \"5s\"\nupstream = \"http://{}\"\n# end\n", provider.addr()));
    let gateway = gateway(&["--config", config.path()]).await;
    config.write("idle_timeout = \"5s\"\n# end\n");
    let wrong = gateway.reload.now().await.unwrap_err().replace(config.path(), "FILE");
    assert_eq!(
        wrong,
        "FILE: upstream: the configuration no longer names one; add it, or restart to use the simulated provider"
    );
    assert_eq!(ask(chat(gateway.addr, false, "")).await.status(), StatusCode::OK);
    assert_eq!(provider.counts().calls, 1);
}

#[tokio::test]
async fn answers_to_come_back_to_stay_when_their_settings_change() {
    let provider = Provider::start().await.unwrap();
    let written = |settings: &str| format!("upstream = \"http://{}\"\nresumable = true\n{settings}\n", provider.addr());
    let config = Config::new(&written(""));
    let gateway = gateway(&["--config", config.path()]).await;
    let begin = async |key: &'static str, fault: &str| {
        let mut request = chat(gateway.addr, true, fault);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        request.headers_mut().insert("authorization", "Bearer a".parse().unwrap());
        let answer = ask(request).await;
        (header(&answer, "content-location").to_owned(), answer)
    };
    let at = |location: &str, method: &str| {
        let uri = format!("http://{}{location}", gateway.addr);
        Request::builder().method(method).uri(uri).body(full("")).unwrap()
    };
    let (over, answer) = begin("over", "").await;
    let over = (over, read(answer.into_body()).await);
    let (live, answer) = begin("live", "gap=50ms; chunks=60").await;
    for settings in
        ["queue = 64", "resume_window = \"1m\"", "respond_async = true", "queue = 8\nresume_window = \"2m\""]
    {
        config.write(&written(settings));
        gateway.reload.now().await.unwrap();
        let again = ask(at(&over.0, "GET")).await;
        assert_eq!(again.status(), StatusCode::OK, "{settings}");
        assert_eq!(read(again.into_body()).await, over.1, "{settings}");
    }
    let (came_back, stayed) = tokio::join!(read(ask(at(&live, "GET")).await.into_body()), read(answer.into_body()));
    assert!(came_back == stayed && stayed.1, "{came_back:?}");
    // They can be stopped too.
    let (stopped, answer) = begin("stopped", "gap=50ms; chunks=600").await;
    config.write(&written("queue = 16"));
    gateway.reload.now().await.unwrap();
    assert_eq!(ask(at(&stopped, "DELETE")).await.status(), StatusCode::NO_CONTENT);
    assert!(!read(answer.into_body()).await.1);
    assert_eq!(ask(at(&stopped, "GET")).await.status(), StatusCode::GONE);
}

/// A file of caller keys, removed when dropped.
struct KeysFile(PathBuf);

impl KeysFile {
    fn new(name: &str, text: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("keys-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for KeysFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_key_that_is_removed_ends_its_waiting_calls() {
    let keys = KeysFile::new("removed", "acme:one\nacme:two\n");
    let options = ["--caller-keys-file", keys.path(), "--heartbeat-before-headers", "100ms", "--heartbeat", "50ms"];
    let gateway = gateway(&[&options[..], &["--dedup", "off"]].concat()).await;
    let call = |key: &str, stream: bool, fault: &str| {
        let mut request = chat(gateway.addr, stream, fault);
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        request
    };
    let streams = ask(call("two", true, "gap=20ms; chunks=200")).await;
    let early = ask(call("two", true, "silent")).await;
    assert_eq!(early.status(), StatusCode::OK);
    let waits = tokio::spawn(http1().request(call("two", false, "silent")));
    let stays = tokio::spawn(http1().request(call("one", false, "first-byte=3s")));
    soon(gateway.provider().until(|counts| counts.open == 4)).await;

    std::fs::write(&keys.0, "acme:one\nacme:three\n").unwrap();
    let began = Instant::now();
    gateway.reload.now().await.unwrap();
    let ended = soon(waits).await.unwrap().unwrap();
    assert_eq!((ended.status(), header(&ended, "x-gateway-served-by")), (StatusCode::UNAUTHORIZED, "gateway"));
    assert!(read(ended.into_body()).await.0.contains("invalid-api-key"));
    let (events, _) = read(early.into_body()).await;
    assert!(events.contains("authentication_error"), "{events}");
    assert!(
        events.contains("The key of this call was removed from this gateway") && !events.contains("pstream"),
        "{events}"
    );
    assert!(began.elapsed() < secs(3), "{:?}", began.elapsed());
    // Answers that have begun continue, as do calls with other keys of the tenant.
    let (events, whole) = read(streams.into_body()).await;
    assert!(whole && events.contains("[DONE]"), "{events}");
    assert_eq!(soon(stays).await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(ask(call("two", false, "")).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask(call("three", false, "")).await.status(), StatusCode::OK);

    std::fs::write(&keys.0, "acme\n").unwrap();
    let wrong = gateway.reload.now().await.unwrap_err();
    assert!(wrong.ends_with("line 1 is not name:key"), "{wrong}");
    assert_eq!(ask(call("three", false, "")).await.status(), StatusCode::OK);
}

/// How many events an upstream sends, one per 25 ms.
const EVENTS: u32 = 160;

async fn numbered() -> Body {
    let next = |nth: u32| async move {
        tokio::time::sleep(Duration::from_millis(25)).await;
        (nth < EVENTS).then(|| (Ok::<_, std::io::Error>(Bytes::from(event(nth))), nth + 1))
    };
    Body::from_stream(stream::unfold(0, next))
}

fn event(nth: u32) -> String {
    format!("id: {nth}\ndata: {}\n\n", "x".repeat(nth as usize % 50))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_go_on_byte_for_byte_through_twenty_reloads() {
    let upstream = serve(Router::new().fallback(any(|| async {
        Response::builder().header("content-type", "text/event-stream").body(numbered().await).unwrap()
    })))
    .await;
    let config = Config::new("");
    let written = |nth: u32| {
        let route = format!("[[route]]\nname = \"a\"\npath = \"/a/{nth}\"\nattempts = 1\n");
        let route = if nth.is_multiple_of(2) { &route[..] } else { "" };
        format!(
            "upstream = \"http://{upstream}\"\nidle_timeout = \"{}s\"\nbreaker = {}\n{route}",
            5 + nth,
            !nth.is_multiple_of(3)
        )
    };
    config.write(&written(0));
    let log = format!("{}/reloads-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let mut command = super::process::command("--listen 127.0.0.1:0");
    command.args(["--config", config.path()]).stderr(std::fs::File::create(&log).unwrap());
    let program = Program::start_with(&mut command);
    let told = |what: &str| std::fs::read_to_string(&log).unwrap().matches(what).count();
    let ask_one = |nth: usize| {
        let request = Request::get(format!("http://{}/a/{nth}", program.addr)).body(full("")).unwrap();
        tokio::spawn(
            async move { http1().request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes() },
        )
    };
    let mut streams: Vec<_> = (0..5).map(ask_one).collect();
    for nth in 1..=20 {
        config.write(&if nth == 7 { "upstreem = \"x\"\n".to_owned() } else { written(nth) });
        let before = (told("was read again"), told("is unchanged"));
        program.signal("HUP");
        soon(async {
            while (told("was read again"), told("is unchanged")) == before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        streams.push(ask_one(nth as usize));
    }
    assert_eq!((told("was read again"), told("is unchanged")), (19, 1));
    assert_eq!(told(&format!("{}:1: upstreem: unknown key", config.path())), 1);
    let expected: String = (0..EVENTS).map(event).collect();
    for stream in streams {
        assert_eq!(tokio::time::timeout(secs(60), stream).await.unwrap().unwrap(), expected);
    }
    drop(program);
    std::fs::remove_file(log).unwrap();
}
