//! The gateway's page in a real Chromium.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as AxumRequest;
use axum::response::{IntoResponse, Response};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::super::client::{ask, chat, full, read};
use super::super::gateway;
use super::browser::{chromium, profile};
use super::{free_port, listening, python, upstream};
use crate::support::secs;

/// A browser tab, closed when dropped.
struct Tab {
    name: &'static str,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    sent: u64,
    browser: Child,
}

impl Tab {
    /// Opens a page in a window of 390 pixels, the width of a telephone.
    async fn open(name: &'static str, url: &str) -> Self {
        let port = free_port().await;
        let browser = chromium(name, &[&format!("--remote-debugging-port={port}"), "about:blank"]);
        let addr = listening(port).await;
        let list = Request::get(format!("http://{addr}/json/list")).body(full("")).unwrap();
        let tabs: Value = serde_json::from_str(&read(ask(list).await.into_body()).await.0).unwrap();
        let tab = tabs.as_array().unwrap().iter().find(|tab| tab["type"] == "page").unwrap();
        let (socket, _) = connect_async(tab["webSocketDebuggerUrl"].as_str().unwrap()).await.unwrap();
        let mut tab = Self { name, socket, sent: 0, browser };
        let telephone = json!({"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": false});
        tab.send("Emulation.setDeviceMetricsOverride", telephone).await;
        tab.send("Page.navigate", json!({"url": url})).await;
        tab.until("document.readyState === 'complete' && document.getElementById('summary').textContent.length > 3")
            .await;
        tab
    }

    async fn send(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let command = json!({"id": self.sent, "method": method, "params": params});
        self.socket.send(Message::text(command.to_string())).await.unwrap();
        loop {
            let message = self.socket.next().await.unwrap().unwrap();
            let Ok(message) = serde_json::from_str::<Value>(message.to_text().unwrap_or_default()) else { continue };
            if message["id"] == self.sent {
                return message["result"].clone();
            }
        }
    }

    /// Evaluates an expression in the page.
    async fn get(&mut self, expression: &str) -> Value {
        let answer = self.send("Runtime.evaluate", json!({"expression": expression, "returnByValue": true})).await;
        answer["result"]["value"].clone()
    }

    async fn text(&mut self, id: &str) -> String {
        let text = self.get(&format!("document.getElementById('{id}').textContent")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    async fn until(&mut self, condition: &str) {
        for _ in 0..600 {
            if self.get(condition).await == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let page = self.get("document.body.innerText").await;
        panic!("{}: it never was that {condition}: {page}", self.name);
    }

    async fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        for kind in [down, "keyUp"] {
            let key = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.send("Input.dispatchKeyEvent", key).await;
        }
    }

    /// Saves a picture for the reader of the test.
    async fn picture(&mut self, name: &str) {
        let size = self.get("document.documentElement.scrollHeight").await.as_f64().unwrap().min(4_000.0);
        let clip = json!({"x": 0, "y": 0, "width": 390, "height": size, "scale": 1});
        let picture = self.send("Page.captureScreenshot", json!({"clip": clip, "captureBeyondViewport": true})).await;
        let path = format!("{}/page-{name}.png.base64", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(path, picture["data"].as_str().unwrap()).unwrap();
    }

    async fn close(mut self) {
        self.browser.kill().await.unwrap();
        let _ = std::fs::remove_dir_all(profile(self.name));
    }
}

const MARKUP: &str = "<img src=x onerror=\"window.hit=1\"><script>window.hit=2</script>";

/// The gateway's page, with callers' text in everything it shows.
async fn hostile(gateway: std::net::SocketAddr) -> String {
    let answer = move |request: AxumRequest| async move {
        let path = request.uri().path().to_owned();
        let text = |kind: &'static str, body: String| ([("content-type", kind)], body).into_response();
        let event = |data: Value| format!("data: {data}\n\n");
        match path.as_str() {
            "/-/calls" => {
                let call = json!({
                    "id": MARKUP, "phase": MARKUP, "ms": 5, "model": MARKUP, "tenant": MARKUP, "attempts": 1,
                    "bytes": 7, "notice": MARKUP,
                });
                let circuit = json!({"name": MARKUP, "key": MARKUP, "state": MARKUP, "failures": 1, "calls": 2});
                let load = json!({"name": MARKUP, "in_flight": 1, "limit": 2, "waiting": 0, "pace_waiting": 0});
                let shown = json!({
                    "calls": [call], "others": 0, "circuits": [circuit], "load": [load], "simulated": true,
                    "answers_calls": true, "respond_async": false,
                });
                text("application/json", shown.to_string())
            }
            "/-/events" => text("text/event-stream", event(json!({"event": "refused", "text": MARKUP}))),
            "/v1/chat/completions" => {
                let content = json!({"choices": [{"delta": {"content": MARKUP}}], "x_notice": {"message": MARKUP}});
                let error = json!({"error": {"type": MARKUP, "message": MARKUP}});
                text("text/event-stream", event(content) + &event(error))
            }
            // The gateway's own page and policy.
            _ => {
                let request = Request::get(format!("http://{gateway}{path}")).body(full("")).unwrap();
                let (head, body) = ask(request).await.into_parts();
                Response::from_parts(head, Body::from(read(body).await.0))
            }
        }
    };
    format!("http://{}/-/", upstream(Router::new().fallback(answer)).await)
}

#[tokio::test]
async fn words_of_others_are_text_on_the_page() {
    if python().is_none() {
        return;
    }
    let gateway = gateway(&[]).await;
    let url = hostile(gateway.addr).await;
    let mut tab = Tab::open("hostile", &format!("{url}?ask")).await;
    tab.until("document.getElementById('outcome').textContent === 'cut'").await;
    tab.until("document.querySelectorAll('#log li').length >= 4").await;
    for (what, times) in [("#calls td", 5), ("#circuits td", 3), ("#load td", 1), ("#answer", 1), ("#log span", 3)] {
        let shown =
            format!("[...document.querySelectorAll('{what}')].filter(e => e.textContent.includes('<img')).length");
        assert!(tab.get(&shown).await.as_u64() >= Some(times), "{what}: {}", tab.get("document.body.innerText").await);
    }
    assert_eq!(tab.get("document.querySelectorAll('img, body script:not([src])').length").await, 0);
    assert_eq!(tab.get("typeof window.hit").await, "undefined");
    // The page's policy would stop a script even if the page inserted one.
    let wrong = "try { document.body.innerHTML = '<img>'; 'done' } catch (error) { error.name }";
    assert_eq!(tab.get(wrong).await, "TypeError");
    tab.close().await;
}

#[tokio::test]
async fn the_page_is_used_from_the_keyboard() {
    if python().is_none() {
        return;
    }
    let gateway = gateway(&["--dedup", "off"]).await;
    let mut tab = Tab::open("keyboard", &format!("http://{}/-/?fault=", gateway.addr)).await;
    tab.press("Tab", 9).await;
    assert_eq!(tab.get("document.activeElement.id").await, "question");
    tab.send("Input.insertText", json!({"text": "by hand"})).await;
    tab.press("Enter", 13).await;
    tab.until("document.getElementById('outcome').textContent === 'whole'").await;
    assert!(tab.text("answer").await.contains("by hand"));
    // The keyboard reaches every control, in order.
    let mut reached = Vec::new();
    for _ in 0..6 {
        tab.press("Tab", 9).await;
        reached.push(tab.get("document.activeElement.id").await.as_str().unwrap().to_owned());
    }
    // There is nothing to stop.
    assert_eq!(reached, ["model", "key", "fault", "ask", "answer", "log"]);

    tab.get(
        "document.getElementById('fault').value = 'stall-after=8'; document.getElementById('form').requestSubmit()",
    )
    .await;
    tab.until("document.getElementById('answer').textContent.length > 5 && !document.getElementById('stop').disabled")
        .await;
    tab.press("Escape", 27).await;
    tab.until("document.getElementById('outcome').textContent === 'stopped'").await;
    gateway.abandoned(1).await;
    tab.close().await;
}

#[tokio::test]
async fn an_answer_that_takes_long_is_fetched_later() {
    if python().is_none() {
        return;
    }
    let gateway = gateway(&["--resumable", "on", "--respond-async", "on"]).await;
    let mut tab = Tab::open("later", &format!("http://{}/-/?ask&later&fault=head=5s", gateway.addr)).await;
    tab.until("document.getElementById('outcome').textContent === 'waiting'").await;
    assert!(tab.text("answer").await.starts_with("The answer takes longer."));
    tab.until("document.getElementById('outcome').textContent === 'whole'").await;
    assert!(tab.text("answer").await.contains("I am a simulated model"), "{}", tab.text("answer").await);
    assert_eq!(gateway.provider().counts().calls, 1);
    tab.close().await;
}

#[tokio::test]
async fn the_page_shows_calls_circuits_pace_and_notices_at_390_pixels() {
    if python().is_none() {
        return;
    }
    let options = [
        "--concurrency",
        "2",
        "--attempts",
        "2",
        "--dedup",
        "off",
        "--notices",
        "header",
        "--backoff-base",
        "2s",
        "--heartbeat-before-headers",
        "100ms",
    ];
    let gateway = gateway(&options).await;
    let url = format!("http://{}/-/?ask&fault=status=503;retry-after=1;times=1;gap=300ms", gateway.addr);
    let open = ask(chat(gateway.addr, true, "gap=0s; stall-after=3")).await;
    let mut tab = Tab::open("tables", &url).await;
    tab.until("document.getElementById('log').textContent.includes('notice: This takes longer')").await;
    let addr = gateway.addr;
    let silent = tokio::spawn(async move { ask(chat(addr, true, "silent")).await });
    let phases = "[...document.querySelectorAll('#calls td:first-child')].map(cell => cell.textContent)";
    tab.until(&format!("{phases}.includes('streaming')")).await;
    tab.until(&format!("{phases}.includes('queued') || {phases}.includes('waiting')")).await;
    tab.until("document.getElementById('circuits').textContent.includes('closed')").await;
    assert!(tab.text("load").await.contains("upstream"), "{}", tab.text("load").await);
    for scheme in ["light", "dark"] {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        tab.send("Emulation.setEmulatedMedia", json!({"features": features})).await;
        let sticks_out = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(tab.get(sticks_out).await, false);
        tab.picture(scheme).await;
    }
    let background = tab.get("getComputedStyle(document.body).backgroundColor").await;
    assert_eq!(background, "rgb(18, 23, 29)", "it is dark");
    silent.abort();
    drop(open);
    tokio::time::timeout(secs(30), tab.close()).await.unwrap();
}
