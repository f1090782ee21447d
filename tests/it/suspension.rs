//! A process that is stopped and goes on does not lose a stream whose data was waiting in its socket.
//!
//! The process is this very binary, started again with one test in it, which is the client. Its timers have all passed when it
//! goes on, and are seen before its sockets are.

#![cfg(target_os = "linux")]

use std::convert::Infallible;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tower::{Layer, ServiceExt};
use tower_buttress::{TimeoutProfile, presets};

/// Set where this binary is the client: its runtime, its version of HTTP, its limit in milliseconds, and the upstream.
const CLIENT: &str = "TOWER_BUTTRESS_TEST_SUSPENDED";

/// One case: how the client runs, for how long it is stopped, and how long it would wait for data.
#[derive(Clone, Copy, Debug)]
struct Case {
    runtime: &'static str,
    http: &'static str,
    stopped: Duration,
    limit: Duration,
}

/// What the upstream is to send: the first event, then the second, then the last and the end.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Sends {
    First,
    Second,
    All,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_goes_on_with_its_streams() {
    let ms = Duration::from_millis;
    let cases = [(500, 250), (2_500, 1_000), (20_000, 5_000)].into_iter().flat_map(|(stopped, limit)| {
        ["current_thread", "multi_thread"].into_iter().flat_map(move |runtime| {
            ["http1", "http2"].map(|http| Case { runtime, http, stopped: ms(stopped), limit: ms(limit) })
        })
    });
    let went = join_all(cases.map(|case| async move { (case, run(case).await) })).await;
    let expected = ["late: second", "stream: end", "stream: last", "stream: second"];
    let lost: Vec<_> = went.iter().filter(|(_, said)| *said != expected).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}

/// What the client says from its suspension on, sorted.
async fn run(case: Case) -> Vec<String> {
    // A machine that is too busy to stop the client within its limit proves nothing: that is tried again.
    loop {
        let (send, sends) = watch::channel(Sends::First);
        let mut client = Suspended::start(case, upstream(sends).await).await;
        assert_eq!(client.says().await.as_deref(), Some("stream: first"));
        client.signal("STOP").await;
        if client.said_already().await {
            continue;
        }
        send.send_replace(Sends::Second);
        tokio::time::sleep(case.stopped).await;
        client.signal("CONT").await;
        let mut said = vec![client.says().await.unwrap(), client.says().await.unwrap()];
        send.send_replace(Sends::All);
        while let Some(line) = client.says().await {
            said.push(line);
        }
        said.sort();
        return said;
    }
}

/// `/stream` sends its events as it is told to; `/late` has no head before the second.
async fn upstream(sends: watch::Receiver<Sends>) -> SocketAddr {
    let reached = |mut sends: watch::Receiver<Sends>, step: Sends| async move {
        sends.wait_for(|sends| *sends >= step).await.map(|_| ()).ok();
    };
    let event = move |sends: watch::Receiver<Sends>, step, text: &'static str| {
        stream::once(async move {
            reached(sends, step).await;
            Ok::<_, Infallible>(text)
        })
    };
    let streaming = sends.clone();
    let handler = move || {
        let (second, last) = (streaming.clone(), streaming.clone());
        async move {
            let events = stream::iter([Ok("data: first\n\n")]);
            let events = events.chain(event(second, Sends::Second, "data: second\n\n"));
            let events = events.chain(event(last, Sends::All, "data: last\n\n"));
            ([("content-type", "text/event-stream")], Body::from_stream(events))
        }
    };
    let late = move || {
        let sends = sends.clone();
        async move {
            reached(sends, Sends::Second).await;
            ([("content-type", "text/event-stream")], "data: second\n\n")
        }
    };
    let router = Router::new().route("/stream", get(handler)).route("/late", get(late));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    at
}

/// The client's process, which ends with its test.
struct Suspended {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Suspended {
    async fn start(case: Case, upstream: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "suspension::client", "--nocapture"]).kill_on_drop(true);
        command.env(CLIENT, format!("{} {} {} {upstream}", case.runtime, case.http, case.limit.as_millis()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next thing it says; `None` at its end. The test harness says something too.
    async fn says(&mut self) -> Option<String> {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(60), self.lines.next_line()).await.unwrap().unwrap()?;
            if let Some((_, said)) = line.split_once("client says ") {
                return Some(said.to_owned());
            }
        }
    }

    /// Whether it says something within a moment.
    async fn said_already(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(20), self.lines.next_line()).await.is_ok()
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap().success());
        // The signal is on its way; the state is what counts.
        let stopped = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ");
        while name == "STOP" && !stopped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Not a test, but what the test above starts.
#[test]
fn client() {
    let Ok(words) = std::env::var(CLIENT) else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let [runtime, http, limit, upstream] = words[..] else { panic!("{words:?}") };
    let mut builder = match runtime {
        "current_thread" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let limit = Duration::from_millis(limit.parse().unwrap());
    let limits = TimeoutProfile::EXTENDED_THINKING.with_first_byte(limit).with_idle(limit);
    let client: Client<HttpConnector, _> =
        Client::builder(TokioExecutor::new()).http2_only(http == "http2").build_http();
    let service = presets::llm_client(limits).layer(client);
    let read = |path: &'static str| {
        let request = Request::get(format!("http://{upstream}/{path}"))
            .header("accept", "text/event-stream")
            .body(Full::<Bytes>::default())
            .unwrap();
        let answer = service.clone().oneshot(request);
        async move {
            let response = answer.await.unwrap();
            if response.status() != 200 {
                return say(path, response.status().as_str());
            }
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                match frame {
                    // Over HTTP/2 the last frame may be an empty one.
                    Ok(frame) if frame.data_ref().is_none_or(Bytes::is_empty) => {}
                    Ok(frame) => say(path, std::str::from_utf8(frame.data_ref().unwrap()).unwrap()),
                    Err(err) => return say(path, &err.to_string()),
                }
            }
            if path == "stream" {
                say(path, "end");
            }
        }
    };
    runtime.block_on(async { tokio::join!(read("late"), read("stream")) });
}

fn say(path: &str, what: &str) {
    let what = what.trim_start_matches("data: ").trim_end();
    // Not `println`, which the harness would keep.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "client says {path}: {what}").unwrap();
}
