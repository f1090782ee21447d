//! Proxies that cut a connection after two seconds of silence, before a model that thinks for six.

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::process::Child;

use super::super::client::{chat, content, http1};
use super::super::gateway;
use super::{free_port, listening, python, start};
use http_body_util::BodyExt;

/// Silent before the head, and silent within the answer.
const THINKS: [&str; 2] = ["head=6s; gap=0s", "gap=6s; chunks=1"];
const WITHOUT: &[&str] = &["--heartbeat", "off"];
const WITH: &[&str] = &["--heartbeat", "500ms", "--heartbeat-before-headers", "500ms"];

/// What comes of a call: the text, and whether it came to its end.
async fn called(proxy: SocketAddr, fault: &str) -> (u16, String, bool) {
    let response = http1().request(chat(proxy, true, fault)).await.unwrap();
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

/// Runs `start` before a gateway with heartbeats and before one without.
async fn check(name: &str, start: impl AsyncFn(SocketAddr, PathBuf) -> (Child, SocketAddr)) {
    for (options, survives) in [(WITHOUT, false), (WITH, true)] {
        let gateway = gateway(options).await;
        let folder = std::env::temp_dir().join(format!("buttress-{name}-{}-{survives}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (_proxy, addr) = start(gateway.addr, folder.clone()).await;
        let (before, within) = tokio::join!(called(addr, THINKS[0]), called(addr, THINKS[1]));
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
    check("nginx", async |gateway, folder| {
        let (port, folder) = (free_port().await, folder.to_str().unwrap().to_owned());
        let config = format!(
            "pid {folder}/pid; error_log stderr; daemon off; master_process off;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
             fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{gateway}; proxy_http_version 1.1;\n\
             proxy_read_timeout 2s; }} }} }}\n"
        );
        let path = format!("{folder}/nginx.conf");
        std::fs::write(&path, config).unwrap();
        (start("nginx", &["-p", &folder, "-c", &path]), listening(port).await)
    })
    .await;
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
