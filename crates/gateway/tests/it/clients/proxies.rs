//! Proxies that close a connection after two or three seconds of silence, in front of a model that thinks for six.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::process::Child;
use tower_buttress::presets;
use tower_buttress::{SseHeartbeatLayer, TimeoutProfile};

use super::super::client::{Outgoing, chat, content, http1};
use super::super::gateway;
use super::{free_port, listening, proxy, python, start, upstream};

/// Silent before the head, and within the answer.
const THINKS: [&str; 2] = ["head=6s; gap=0s", "gap=6s; chunks=1"];
const WITHOUT: &[&str] = &["--heartbeat", "off"];
const WITH: &[&str] = &["--heartbeat", "500ms", "--heartbeat-before-headers", "500ms"];

/// The text of a call, and whether it came to its end.
async fn called(request: http::Request<Outgoing>) -> (u16, String, bool) {
    let response = http1().request(request).await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut text = String::new();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => text.push_str(std::str::from_utf8(frame.data_ref().map_or(&[], |data| data)).unwrap()),
            Some(Err(_)) => return (status, text, false),
            None => return (status, text, true),
        }
    }
}

/// Runs `start` in front of a gateway with heartbeats and one without.
async fn check(name: &str, start: impl AsyncFn(SocketAddr, PathBuf) -> (Child, SocketAddr)) {
    for (options, survives) in [(WITHOUT, false), (WITH, true)] {
        let gateway = gateway(options).await;
        let folder = std::env::temp_dir().join(format!("buttress-{name}-{}-{survives}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (_proxy, addr) = start(gateway.addr, folder.clone()).await;
        let (before, within) = tokio::join!(called(chat(addr, true, THINKS[0])), called(chat(addr, true, THINKS[1])));
        for (status, text, whole) in [before, within] {
            let arrived = whole && text.ends_with("data: [DONE]\n\n");
            assert_eq!(arrived, survives, "{name}: {status} {text}");
            assert!(!survives || !content(&text).is_empty());
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test]
async fn nginx_keeps_a_thinking_stream() {
    if python().is_none() {
        return;
    }
    check("nginx", async |gateway, folder| nginx(gateway, folder, 2, "1.1").await).await;
}

/// nginx uses HTTP/1.0 to its upstreams by default: an answer without a length ends with its connection.
#[tokio::test]
async fn nginx_passes_on_that_an_answer_broke_off() {
    if python().is_none() {
        return;
    }
    let model = format!("http://{}", super::super::truth::cut_within_an_answer("transfer-encoding: chunked").await);
    let gateway = gateway(&["--upstream", &model, "--attempts", "1"]).await;
    let folder = std::env::temp_dir().join(format!("buttress-cut-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (_nginx, addr) = nginx(gateway.addr, folder.clone(), 60, "1.0").await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;
    let request = http::Request::post(format!("http://{addr}/v1/chat/completions"))
        .header("content-type", "application/json")
        .body(super::super::client::full(body));
    let (status, text, whole) = called(request.unwrap()).await;
    assert!(status == 200 && text.len() > 300_000 && !whole, "{status}, {} bytes, whole: {whole}", text.len());
    std::fs::remove_dir_all(folder).unwrap();
}

/// Starts nginx in front of `upstream`, with a `proxy_read_timeout` in seconds.
async fn nginx(upstream: SocketAddr, folder: PathBuf, read_timeout: u32, version: &str) -> (Child, SocketAddr) {
    let (port, folder) = (free_port().await, folder.to_str().unwrap().to_owned());
    let config = format!(
        "pid {folder}/pid; error_log stderr; daemon off; master_process off;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{upstream}; proxy_http_version {version};\n\
         proxy_read_timeout {read_timeout}s; }} }} }}\n"
    );
    let path = format!("{folder}/nginx.conf");
    std::fs::write(&path, config).unwrap();
    (start("nginx", &["-p", &folder, "-c", &path]), listening(port).await)
}

/// `presets::llm_gateway`, whose first-byte timeout withholds the head until the model's first event: nginx sees
/// silence even while the model sends comments.
#[tokio::test]
async fn nginx_keeps_a_stream_of_the_preset_that_begins_before_there_is_an_answer() {
    if python().is_none() {
        return;
    }
    const ANSWER: &str =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"42\"},\"finish_reason\":\"stop\"}]}\n\n";
    let answer = |events: Body| ([("content-type", "text/event-stream")], events);
    let silent = async move || {
        tokio::time::sleep(Duration::from_secs(6)).await;
        answer(Body::from(ANSWER))
    };
    let comments = async move || {
        let comments = stream::iter(0..6).then(async |_| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ": thinking\n\n"
        });
        let events = comments.chain(stream::iter([ANSWER])).map(Ok::<_, Infallible>);
        answer(Body::from_stream(events))
    };
    let routes = Router::new().route("/silent/v1/chat/completions", post(silent));
    let model = upstream(routes.route("/comments/v1/chat/completions", post(comments))).await;
    let preset = || presets::llm_gateway(TimeoutProfile::STANDARD);
    let second = Duration::from_secs(1);
    for (stack, survives) in [
        (preset().heartbeat(|heartbeat| heartbeat.before_headers(Duration::MAX)), false),
        (preset().heartbeat(|_| SseHeartbeatLayer::new(second).error_events(true).before_headers(second)), true),
    ] {
        let folder = std::env::temp_dir().join(format!("buttress-preset-{}-{survives}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (_nginx, addr) = nginx(proxy(&stack, model).await, folder.clone(), 3, "1.1").await;
        let call = |path: &str| {
            let (mut head, body) = chat(addr, true, "").into_parts();
            head.uri = format!("http://{addr}/{path}/v1/chat/completions").parse().unwrap();
            called(http::Request::from_parts(head, body))
        };
        let (silent, comments) = tokio::join!(call("silent"), call("comments"));
        for (status, text, whole) in [silent, comments] {
            assert_eq!(whole && text.ends_with(ANSWER), survives, "{status} {text}");
            assert_eq!(
                (status, text.matches(": keepalive\n\n").count() >= 4),
                if survives { (200, true) } else { (504, false) }
            );
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test]
async fn haproxy_keeps_a_thinking_stream() {
    if python().is_none() {
        return;
    }
    check("haproxy", async |gateway, folder| {
        let (port, path) = (free_port().await, folder.join("haproxy.cfg"));
        let config = format!(
            "defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 2s\n\
             frontend front\n  bind 127.0.0.1:{port}\n  default_backend back\n\
             backend back\n  server gateway {gateway}\n"
        );
        std::fs::write(&path, config).unwrap();
        (start("haproxy", &["-db", "-f", path.to_str().unwrap()]), listening(port).await)
    })
    .await;
}
