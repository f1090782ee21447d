//! Chromium's `EventSource`, the `fetch` of Node, and the gateway's own page in a browser.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Html;
use axum::routing::{MethodRouter, get, post};
use futures_util::{StreamExt, stream};
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::super::gateway;
use super::{python, start, upstream};
use crate::support::secs;

/// Reads `/stream` with `EventSource`, and reports the dispatched events.
const PAGE: &str = r"<script>
const read = [];
const source = new EventSource('/stream');
source.onmessage = event => read.push(['message', event.data, event.lastEventId]);
source.addEventListener('delta', event => read.push(['delta', event.data, event.lastEventId]));
source.addEventListener('over', () => {
  source.close();
  fetch('/report', { method: 'POST', body: JSON.stringify(read) });
});
</script>";

/// With a BOM, two kinds of line endings, an id, a comment, and pauses within lines.
const PIECES: [&str; 8] = [
    "\u{FEFF}data: one\n\n",
    "event: delta\n",
    "data: two\n",
    "data: lines\n\n",
    ": upstream\r\n\r\n",
    "data: thr",
    "ee\r\nid: 7\r\n\r\n",
    "event: over\ndata:\n\n",
];

pub(super) fn profile(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("buttress-chromium-{name}-{}", std::process::id()))
}

pub(super) fn chromium(name: &str, args: &[&str]) -> Child {
    let profile = format!("--user-data-dir={}", profile(name).display());
    // Containers have neither the sandbox's requirements nor much shared memory.
    let usual = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile];
    start("chromium", &[&usual[..], args].concat())
}

#[tokio::test]
async fn event_source_reads_a_stream_with_heartbeats() {
    if python().is_none() {
        return;
    }
    let (reported, mut reports) = mpsc::unbounded_channel();
    let report = move |body: String| async move { reported.send(body).unwrap() };
    let events = || async {
        let pieces = stream::iter(PIECES).then(|piece| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, Infallible>(piece)
        });
        ([("content-type", "text/event-stream")], Body::from_stream(pieces))
    };
    let router = Router::new()
        .route("/page", get(|| async { Html(PAGE) }))
        .route("/stream", get(events))
        .route("/report", post(report));
    let upstream = format!("http://{}", upstream(router).await);
    let options = ["--upstream", &upstream, "--heartbeat", "30ms", "--heartbeat-before-headers", "30ms"];
    let gateway = gateway(&options).await;
    let mut browser = chromium("events", &[&format!("http://{}/page", gateway.addr)]);
    let report = tokio::time::timeout(secs(60), reports.recv()).await.expect("the browser reports").unwrap();
    assert_eq!(report, r#"[["message","one",""],["delta","two\nlines",""],["message","three","7"]]"#);
    browser.kill().await.unwrap();
    let _ = std::fs::remove_dir_all(profile("events"));
}

/// Sends a request, leaves, and reads the answer with `EventSource`.
const COMES_BACK: &str = r"<script>
const read = [];
let opened = 0;
const headers = { 'authorization': 'Bearer page', 'idempotency-key': 'once' };
fetch('/words', { method: 'POST', body: 'hello', headers }).then(response => {
  response.body.cancel();
  const source = new EventSource(response.headers.get('content-location'));
  source.onopen = () => opened++;
  source.onmessage = event => read.push(event.data);
  source.addEventListener('over', () => {
    source.close();
    fetch('/report', { method: 'POST', body: JSON.stringify({ opened, text: read.join(' ') }) });
  });
});
</script>";

/// Forwards connections. Cuts the first `times` ones whose request starts with `begins`, after `bytes` bytes of the
/// answer. Returns the number still to be cut.
async fn cutting(
    gateway: SocketAddr,
    begins: &'static str,
    bytes: usize,
    times: usize,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let left = Arc::new(AtomicUsize::new(times));
    let cuts_left = left.clone();
    tokio::spawn(async move {
        loop {
            let (browser, _) = listener.accept().await.unwrap();
            let gateway = TcpStream::connect(gateway).await.unwrap();
            tokio::spawn(cut(browser, gateway, begins, bytes, left.clone()));
        }
    });
    (addr, cuts_left)
}

async fn cut(
    mut browser: TcpStream,
    mut gateway: TcpStream,
    begins: &'static str,
    bytes: usize,
    left: Arc<AtomicUsize>,
) {
    let (mut asked, mut answered) = (vec![0; 16 * 1024], vec![0; 1024]);
    let mut until = None;
    loop {
        tokio::select! {
            read = browser.read(&mut asked) => {
                let Ok(read @ 1..) = read else { return };
                if asked.starts_with(begins.as_bytes()) && left.load(SeqCst) > 0 {
                    left.fetch_sub(1, SeqCst);
                    until = Some(bytes);
                }
                gateway.write_all(&asked[..read]).await.unwrap();
            }
            read = gateway.read(&mut answered) => {
                let Ok(read @ 1..) = read else { return };
                let passed = until.map_or(read, |until| read.min(until));
                if browser.write_all(&answered[..passed]).await.is_err() {
                    return;
                }
                if let Some(until) = &mut until {
                    *until -= passed;
                    if *until == 0 {
                        return;
                    }
                }
            }
        }
    }
}

const WORDS: usize = 60;

/// The expected text of a client.
fn text() -> String {
    (0..WORDS).map(|word| format!("word {word}")).collect::<Vec<_>>().join(" ")
}

/// A model that sends all words, and counts its calls.
fn words(asked: &Arc<AtomicUsize>) -> MethodRouter {
    let asked = asked.clone();
    post(move || {
        asked.fetch_add(1, SeqCst);
        let words = stream::iter(0..=WORDS).then(|word| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let retry = if word % 5 == 0 { "retry: 50\n" } else { "" };
            Ok::<_, Infallible>(match word {
                WORDS => "event: over\ndata:\n\n".to_owned(),
                _ => format!("{retry}data: word {word}\n\n: comment\n\n"),
            })
        });
        async { ([("content-type", "text/event-stream")], Body::from_stream(words)) }
    })
}

#[tokio::test]
async fn a_loop_around_fetch_survives_three_cuts_and_holds_the_exact_text() {
    if python().is_none() {
        return;
    }
    let asked = Arc::<AtomicUsize>::default();
    let upstream = format!("http://{}", upstream(Router::new().route("/words", words(&asked))).await);
    let gateway = gateway(&["--upstream", &upstream, "--resumable", "on", "--heartbeat", "30ms"]).await;
    let (addr, cuts_left) = cutting(gateway.addr, "", 1_000, 3).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/resumable.mjs");
    let mut node = Command::new("node");
    let output = node.args([script, &format!("http://{addr}/words"), "hello"]).kill_on_drop(true).output();
    let output = tokio::time::timeout(secs(60), output).await.expect("it comes to its end").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = String::from_utf8(output.stdout).unwrap();
    assert_eq!(read.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "), text());
    assert_eq!((cuts_left.load(SeqCst), asked.load(SeqCst)), (0, 1));
}

/// Gemini's events have no ids: the client skips what it has read, and a clean end is the end.
#[tokio::test]
async fn a_loop_around_fetch_reads_a_stream_without_ids_once() {
    if python().is_none() {
        return;
    }
    for cuts in [0, 2] {
        let asked = Arc::<AtomicUsize>::default();
        let path = "/v1beta/models/{model}";
        let upstream = format!("http://{}", upstream(Router::new().route(path, words(&asked))).await);
        let gateway = gateway(&["--upstream", &upstream, "--resumable", "on", "--guard", "off"]).await;
        let (addr, cuts_left) = cutting(gateway.addr, "", 1_000, cuts).await;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/resumable.mjs");
        let url = format!("http://{addr}/v1beta/models/g:streamGenerateContent?alt=sse");
        let output = Command::new("node").args([script, &url, "hello"]).kill_on_drop(true).output();
        let output = tokio::time::timeout(secs(60), output).await.expect("it comes to its end").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = String::from_utf8(output.stdout).unwrap();
        assert_eq!(read.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" "), text());
        assert_eq!((cuts_left.load(SeqCst), asked.load(SeqCst)), (0, 1));
    }
}

#[tokio::test]
async fn a_loop_around_fetch_comes_back_again_after_a_503_when_the_response_says_so() {
    if python().is_none() {
        return;
    }
    let came_back = Arc::<Mutex<Vec<Instant>>>::default();
    let times = came_back.clone();
    let rest = move || {
        let mut times = times.lock().unwrap();
        times.push(Instant::now());
        let response = Response::builder().header("content-type", "text/event-stream");
        let response = match times.len() {
            1 => response.status(503).header("retry-after", "1").body(Body::empty()),
            2 => response.body(Body::from("id: 2\ndata: b\n\n")),
            _ => response.status(204).body(Body::empty()),
        };
        async { response.unwrap() }
    };
    let begun = [("content-type", "text/event-stream"), ("content-location", "/rest")];
    let router = Router::new()
        .route("/words", post(move || async move { (begun, "id: 1\ndata: a\n\n") }))
        .route("/rest", get(rest));
    let url = format!("http://{}/words", upstream(router).await);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/resumable.mjs");
    let output = Command::new("node").args([script, &url, "hello"]).kill_on_drop(true).output();
    let output = tokio::time::timeout(secs(60), output).await.expect("it comes to its end").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "a\nb\n");
    let times = came_back.lock().unwrap();
    assert!(times.len() == 3 && times[1] - times[0] >= Duration::from_millis(950), "{times:?}");
}

#[tokio::test]
async fn event_source_survives_three_cuts_and_holds_the_exact_text() {
    if python().is_none() {
        return;
    }
    let (reported, mut reports) = mpsc::unbounded_channel();
    let report = move |body: String| async move { reported.send(body).unwrap() };
    let asked = Arc::<AtomicUsize>::default();
    let router = Router::new()
        .route("/page", get(|| async { Html(COMES_BACK) }))
        .route("/words", words(&asked))
        .route("/report", post(report));
    let upstream = format!("http://{}", upstream(router).await);
    let gateway = gateway(&["--upstream", &upstream, "--resumable", "on", "--heartbeat", "30ms"]).await;
    // Behind the head, a few events each time.
    let (addr, _) = cutting(gateway.addr, "GET /-/answers/", 1_000, 3).await;
    let mut browser = chromium("cuts", &[&format!("http://{addr}/page")]);
    let report = tokio::time::timeout(secs(60), reports.recv()).await.expect("the browser reports").unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["text"], text());
    assert_eq!((report["opened"].as_u64(), asked.load(SeqCst)), (Some(4), 1));
    browser.kill().await.unwrap();
    let _ = std::fs::remove_dir_all(profile("cuts"));
}

/// Opens the gateway's page, and reports what it finally shows.
const HARNESS: &str = r"<iframe id=page src='/-/?ask'></iframe><script>
const shown = id => page.contentDocument?.getElementById(id)?.textContent;
const timer = setInterval(() => {
  if (shown('outcome') !== 'whole') return;
  clearInterval(timer);
  const report = { answer: shown('answer'), beats: +shown('beats'), circuit: shown('circuit'), first: shown('first') };
  fetch('/report', { method: 'POST', body: JSON.stringify(report) });
}, 50);
</script>";

#[tokio::test]
async fn the_page_shows_an_answer_and_its_heartbeats() {
    if python().is_none() {
        return;
    }
    let (reported, mut reports) = mpsc::unbounded_channel();
    let report = move |body: String| async move { reported.send(body).unwrap() };
    let thinks = || async {
        tokio::time::sleep(secs(1)).await;
        let chunk = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let events = [chunk("Flying "), chunk("buttresses."), "data: [DONE]\n\n".to_owned()].concat();
        ([("content-type", "text/event-stream")], events)
    };
    let router = Router::new()
        .route("/harness", get(|| async { Html(HARNESS) }))
        .route("/v1/chat/completions", post(thinks))
        .route("/report", post(report));
    let upstream = format!("http://{}", upstream(router).await);
    let options = ["--upstream", &upstream, "--heartbeat", "100ms", "--heartbeat-before-headers", "100ms"];
    let gateway = gateway(&options).await;
    let mut browser = chromium("page", &[&format!("http://{}/harness", gateway.addr)]);
    let report = tokio::time::timeout(secs(60), reports.recv()).await.expect("the page comes to its end").unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["answer"], "Flying buttresses.");
    assert!(report["beats"].as_u64().unwrap() >= 3, "{report}");
    assert_eq!(report["circuit"], "closed");
    assert!(report["first"].as_str().unwrap().ends_with(" s"), "{report}");
    browser.kill().await.unwrap();
    let _ = std::fs::remove_dir_all(profile("page"));
}
