//! The whole program, as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use tower_buttress_gateway::Provider;

pub(super) fn command(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buttress-gateway"));
    command.args(args.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running program, killed with its test.
pub(super) struct Program {
    child: Child,
    out: BufReader<ChildStdout>,
    pub(super) addr: SocketAddr,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        Self::start_with(command.stderr(Stdio::null()))
    }

    pub(super) fn start_with(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let addr = loop {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some((_, url)) = line.split_once("gateway on ") {
                let addr = url.split("://").nth(1).unwrap();
                break addr.split(',').next().unwrap().trim().parse().unwrap();
            }
        };
        Self { child, out, addr }
    }

    /// The rest of its output at the start.
    fn welcome(&mut self) -> String {
        let mut welcome = String::new();
        while !welcome.contains("/-/metrics") {
            assert_ne!(self.out.read_line(&mut welcome).unwrap(), 0);
        }
        welcome
    }

    pub(super) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// A stream that has begun.
    fn stream(&self, fault: &str) -> BufReader<TcpStream> {
        let body = r#"{"model":"sim","stream":true,"messages":[{"role":"user","content":"Hi"}]}"#;
        let mut stream = TcpStream::connect(self.addr).unwrap();
        write!(
            stream,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-fault: {fault}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            stream.read_line(&mut line).unwrap();
        }
        stream
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code and stderr.
fn complaint(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_wrong_at_the_start_is_one_line() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = taken.local_addr().unwrap();
    let (code, line) = complaint(&mut command(&format!("--listen {addr}")));
    assert!(line.starts_with(&format!("gateway: cannot listen on {addr}: Address already in use")), "{line}");
    assert_eq!((code, line.lines().count()), (2, 1));

    let (code, line) = complaint(&mut command("--upstream nowhere"));
    let wrong = "gateway: invalid value 'nowhere' for '--upstream <URL>': not a URL such as http://127.0.0.1:9000\n";
    assert_eq!((code, line.as_str()), (2, wrong));
}

#[test]
fn options_come_from_the_environment_too() {
    let (code, line) = complaint(command("").env("GATEWAY_IDLE_TIMEOUT", "soon"));
    assert!(code == 2 && line.starts_with("gateway: invalid value 'soon' for '--idle-timeout "), "{line}");

    let mut program = Program::start(command("--idle-timeout 3s").envs([
        ("GATEWAY_LISTEN", "127.0.0.1:0"),
        ("GATEWAY_DEADLINE", "off"),
        // The command line overrides it.
        ("GATEWAY_IDLE_TIMEOUT", "4s"),
    ]));
    let mut limits = String::new();
    program.out.read_line(&mut limits).unwrap();
    assert_eq!(limits, "limits: connect 5s, first byte 30s, idle 3s, deadline off (header: x-deadline-ms)\n");
}

#[test]
fn what_is_wrong_at_the_start_shows_no_secret() {
    for (name, value) in [
        ("UPSTREAM_AUTHORIZATION_ENV", "Bearer sk-live"),
        ("UPSTREAM_HEADER", "x-api-key=sk-live"),
        ("UPSTREAM", "https://me:sk-live@h"),
        ("UPSTREAM", "https://h?key=sk-live"),
        ("FALLBACK", "https://me:sk-live@h"),
        ("CALLER_KEYS_ENV", "acme:sk-live"),
        ("CALLER_KEYS_FILE", "acme:sk-live"),
        ("CALLER_KEYS_FILE", "sk-live"),
        ("CALLER_KEYS_FILE", "sk-live/b.c"),
        ("CALLER_KEYS_FILE", "/sk-live"),
        ("EMBEDDINGS", "https://me:sk-live@h"),
        ("EMBEDDINGS_AUTHORIZATION_ENV", "Bearer sk-live"),
        ("EMBEDDINGS_HEADER", "x-api-key=sk-live"),
    ] {
        let (code, line) = complaint(command("").env(format!("GATEWAY_{name}"), value));
        assert_eq!((code, line.lines().count()), (2, 1), "{name}: {line}");
        let option = format!("--{}", name.to_lowercase().replace('_', "-"));
        assert!(line.contains("'***'") && line.contains(&option) && !line.contains("sk-live"), "{name}: {line}");
    }
    let twice = [("GATEWAY_FALLBACK", "http://h"), ("GATEWAY_FALLBACK_HEADER", "x-api-key=PATH,x-api-key=sk-live")];
    let (_, line) = complaint(command("").envs(twice));
    assert!(line.contains("'***'") && !line.contains("sk-live"), "{line}");
    let missing = std::env::temp_dir().join("no-such-file-with-keys");
    let (_, line) = complaint(command("").env("GATEWAY_CALLER_KEYS_FILE", &missing));
    assert!(line.contains(missing.to_str().unwrap()) && line.contains("cannot be read"), "{line}");
}

#[test]
fn a_configuration_is_checked_without_a_start() {
    let path = std::env::temp_dir().join(format!("buttress-check-{}.toml", std::process::id()));
    let path = path.to_str().unwrap();
    std::fs::write(path, "attempts = 0\nattemps = 1\n").unwrap();
    let (code, lines) = complaint(&mut command(&format!("--config {path} --check-config")));
    assert_eq!((code, lines.lines().count()), (1, 2), "{lines}");
    assert!(lines.starts_with(&format!("gateway: {path}:1: attempts: invalid value '0' ")), "{lines}");

    std::fs::write(path, "attempts = 2\n").unwrap();
    let output = command(&format!("--config {path} --check-config")).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("a simulated provider answers"));

    std::fs::write(path, "tls_cert = '/nowhere'\ntls_key = '/nowhere'\n").unwrap();
    let (code, lines) = complaint(command("--check-config").env("GATEWAY_CONFIG", path));
    assert_eq!((code, lines.lines().count()), (1, 1), "{lines}");

    let [chain, key] = ["pem", "key"].map(|kind| format!("{path}.{kind}"));
    let mut names = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    names.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let own = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&chain, names.self_signed(&own).unwrap().pem()).unwrap();
    std::fs::write(&key, own.serialize_pem()).unwrap();
    std::fs::write(path, format!("tls_cert = '{chain}'\ntls_key = '{key}'\nlisten = '127.0.0.1:0'\n")).unwrap();
    let (code, lines) = complaint(&mut command(&format!("--config {path} --check-config")));
    let told =
        format!("gateway: {path}:1: tls_cert: --tls-cert: the certificate in {chain} expired at 2021-01-01T00:00:00Z");
    assert!(code == 1 && lines.starts_with(&told), "{lines}");
    let log = log_of(&mut command(&format!("--config {path}")), |_| {});
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(" expired at ")), "{log}");
    for file in [path, &chain, &key] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn sigterm_drains_open_streams_and_then_stops() {
    let mut program = Program::start(&mut command("--listen 127.0.0.1:0"));
    let mut stream = program.stream("gap=20ms; chunks=20");
    program.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{rest}");
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut program = Program::start(&mut command("--listen 127.0.0.1:0 --drain-timeout off"));
    let mut stream = program.stream("gap=0s; stall-after=1");
    program.signal("INT");
    // The first signal works: no new connection is accepted.
    while TcpStream::connect(program.addr).is_ok() {
        std::thread::yield_now();
    }
    program.signal("TERM");
    assert_eq!(program.child.wait().unwrap().code(), Some(1));
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The client's data waits in the socket, and the timers have fired.
#[tokio::test]
async fn a_process_that_was_stopped_resets_no_stream_whose_client_reads() {
    use http_body_util::BodyExt;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let mut command = command("--listen 127.0.0.1:0 --write-timeout 1s");
    let program = Program::start(&mut command);
    let socket = tokio::net::TcpStream::connect(program.addr).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    let endless = super::client::chat(program.addr, true, "gap=0s; chunks=10000000; size=1000");
    let mut stream = super::soon(client.send_request(endless)).await.unwrap().into_body();
    // Its window is full, and the gateway waits for it to read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    program.signal("STOP");
    while let Ok(frame) = tokio::time::timeout(Duration::from_millis(200), stream.frame()).await {
        frame.unwrap().unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    program.signal("CONT");
    let mut read = 0;
    while read < 1_000_000 {
        let frame = super::soon(stream.frame()).await.unwrap().expect("it was reset");
        read += frame.into_data().map_or(0, |data| data.len());
    }
}

#[test]
fn callers_keys_may_be_in_the_environment() {
    let mut command = command("--listen 127.0.0.1:0 --caller-keys-env THE_KEYS");
    let program = Program::start(command.env("THE_KEYS", "acme:its-key"));
    for (key, status) in [("its-key", "200"), ("another", "401")] {
        let answer = send(program.addr, "/v1/chat/completions", &format!("authorization: Bearer {key}\r\n"), HELLO);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// Where the tested program writes its stderr.
pub(super) fn log_file() -> String {
    format!("{}/log-{:?}", env!("CARGO_TARGET_TMPDIR"), std::thread::current().id())
}

/// All of the program's stderr, after it has ended.
pub(super) fn log_of(command: &mut Command, calls: impl FnOnce(SocketAddr)) -> String {
    let log = log_file();
    let file = std::fs::File::create(&log).unwrap();
    let mut program = Program::start_with(command.stderr(file));
    calls(program.addr);
    program.signal("TERM");
    program.child.wait().unwrap();
    std::fs::read_to_string(log).unwrap()
}

/// A full disk costs log lines, and nothing else.
#[test]
fn a_log_that_cannot_be_written_costs_no_answer() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for format in ["text", "json"] {
        let args = format!("--listen 127.0.0.1:0 --breaker off --log-format {format}");
        let mut program = Program::start_with(command(&args).stderr(full()));
        for _ in 0..2 {
            let answer = send(program.addr, "/v1/chat/completions", "", HELLO);
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("data: [DONE]"), "{answer}");
            // This one causes a warning.
            let answer = send(program.addr, "/v1/chat/completions", "x-fault: reset\r\n", HELLO);
            assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
            program.signal("HUP");
        }
        program.signal("TERM");
        assert_eq!(program.child.wait().unwrap().code(), Some(0));
    }
}

/// Sends a request with these headers and this body, and returns the whole answer.
pub(super) fn send(addr: SocketAddr, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

pub(super) const HELLO: &str = r#"{"model":"sim","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}"#;

#[test]
fn a_call_that_goes_well_is_one_line_and_no_warning() {
    let log = log_of(&mut command("--listen 127.0.0.1:0"), |addr| {
        assert!(send(addr, "/v1/chat/completions", "", HELLO).contains("data: [DONE]"));
    });
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains(" call id=")).count(), 1, "{log}");
}

#[test]
fn an_event_is_logged_once() {
    let log = log_of(&mut command("--listen 127.0.0.1:0 --backoff-base 5ms"), |addr| {
        let answer = send(addr, "/v1/chat/completions", "x-fault: status=503; times=1\r\nx-request-id: me\r\n", HELLO);
        assert!(answer.contains("data: [DONE]"));
    });
    let told: Vec<_> = log.lines().filter(|line| line.contains("attempt 2 in")).collect();
    assert!(told.len() == 1 && told[0].contains("INFO") && told[0].contains("id=\"me\""), "{log}");
}

#[test]
fn a_failed_call_has_its_id_in_the_warning() {
    let log = log_of(&mut command("--listen 127.0.0.1:0 --attempts 1"), |addr| {
        send(addr, "/v1/chat/completions", "x-fault: reset\r\nx-request-id: me\r\n", HELLO);
    });
    let told: Vec<_> = log.lines().filter(|line| line.contains("the upstream did not answer: ")).collect();
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("id=\"me\""), "{log}");
}

#[test]
fn connections_that_cannot_be_accepted_are_one_line_a_second() {
    let mut command = Command::new("sh");
    let program = ["-c", "ulimit -n 30; exec \"$0\" --listen 127.0.0.1:0", env!("CARGO_BIN_EXE_buttress-gateway")];
    command.args(program).stdin(Stdio::null()).stdout(Stdio::piped());
    let began = Instant::now();
    let log = log_of(&mut command, |addr| {
        let open: Vec<_> = (0..60).map(|_| TcpStream::connect(addr).unwrap()).collect();
        std::thread::sleep(Duration::from_millis(1_500));
        drop(open);
    });
    let lines = log.lines().filter(|line| line.contains("cannot accept connections: ")).count();
    assert!(lines >= 1 && lines as u64 <= began.elapsed().as_secs() + 1, "{log}");
}

#[test]
fn a_variable_that_is_no_option_is_noticed() {
    let mut command = command("--listen 127.0.0.1:0 --upstream-authorization-env GATEWAY_OWN_KEY --trust-callers");
    command.envs([("GATEWAY_OWN_KEY", "Bearer x"), ("GATEWAY_ATTEMPS", "5")]);
    let log = log_of(&mut command, |_| {});
    let lines: Vec<_> = log.lines().filter(|line| line.contains("GATEWAY_")).collect();
    let [line] = lines[..] else { panic!("{log}") };
    assert!(line.contains("WARN") && line.contains("GATEWAY_ATTEMPS") && line.contains("GATEWAY_ATTEMPTS"), "{line}");
}

#[test]
fn a_request_that_cannot_be_read_is_logged() {
    let refused = |heads: &[String]| {
        let log = log_of(&mut command("--listen 127.0.0.1:0"), |addr| {
            for head in heads {
                let mut stream = TcpStream::connect(addr).unwrap();
                // The gateway may answer and close before it has read all of it.
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let is_refusal = |line: &&str| line.contains("INFO a request was refused: ") && line.contains("peer=127.0.0.1");
        log.lines().filter(is_refusal).count()
    };
    let (no_path, endless) =
        ("GET /\0 HTTP/1.1\r\n\r\n".to_owned(), format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(1 << 20)));
    assert_eq!([refused(std::slice::from_ref(&no_path)), refused(&[endless])], [1, 1]);
    // At most one line in a second: otherwise anyone could fill the log.
    let begun = Instant::now();
    let lines = refused(&vec![no_path; 100]);
    assert!((1..=1 + begun.elapsed().as_secs()).contains(&(lines as u64)), "{lines} lines in {:?}", begun.elapsed());
}

#[test]
fn a_server_of_embeddings_that_does_not_answer_is_logged() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    is_logged_of_embeddings(nowhere, &["did not answer: ", "Connection refused"]);
}

#[test]
fn a_server_of_embeddings_that_refuses_is_logged() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    is_logged_of_embeddings(addr, &["answered 401 Unauthorized"]);
}

/// Waits until a line about the server of embeddings at `addr` has all of these parts.
fn is_logged_of_embeddings(addr: SocketAddr, parts: &[&str]) {
    let options = "--listen 127.0.0.1:0 --last-good on --similar 0.9 --embeddings-model m";
    let (log, begun) = (log_file(), Instant::now());
    let file = std::fs::File::create(&log).unwrap();
    let program = Program::start_with(command(options).args(["--embeddings", &format!("http://{addr}")]).stderr(file));
    // Its message is embedded once it is stored.
    let question = HELLO.replace("Hello", "What is the capital of France?");
    send(program.addr, "/v1/chat/completions", "authorization: me\r\nx-fault: gap=0s\r\n", &question);
    let is_told =
        |line: &str| line.contains("WARN the server of embeddings ") && parts.iter().all(|part| line.contains(part));
    while !std::fs::read_to_string(&log).unwrap().lines().any(is_told) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_access_line_in_json_says_what_became_of_a_call() {
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let log = log_of(&mut command("--listen 127.0.0.1:0 --log-format json"), |addr| {
        let headers = format!("x-fault: gap=0s; status=503; times=1\r\nx-request-id: me\r\n{parent}\r\n");
        assert!(send(addr, "/v1/chat/completions?key=secret", &headers, HELLO).contains("data: [DONE]"));
    });
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let calls: Vec<_> = lines.iter().filter(|line| line["message"] == "call").collect();
    let [call] = calls[..] else { panic!("{log}") };
    for (name, value) in [
        ("id", "me".into()),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ("method", "POST".into()),
        ("path", "/v1/chat/completions".into()),
        ("model", "sim".into()),
        ("status", serde_json::json!(200)),
        ("outcome", "complete".into()),
        ("ending", "whole".into()),
        ("attempts", serde_json::json!(2)),
        ("served_by", "upstream".into()),
        ("dedup", "leader".into()),
        ("route", serde_json::Value::Null),
        ("input_tokens", serde_json::json!(1)),
    ] {
        assert_eq!(call[name], value, "{name}: {call}");
    }
    for name in ["bytes", "output_tokens", "total_ms"] {
        assert!(call[name].as_u64().unwrap() > 0, "{name}: {call}");
    }
    assert!(call["first_data_ms"].is_u64(), "{call}");
}

#[test]
fn an_access_line_names_the_route_and_tells_calls_from_their_repetitions() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let provider = runtime.block_on(Provider::start()).unwrap();
    let path = std::env::temp_dir().join(format!("buttress-access-{}.toml", std::process::id()));
    let route = format!("[[route]]\nname = 'chat'\nmodel = 'sim'\nupstream = 'http://{}'\n", provider.addr());
    std::fs::write(&path, route).unwrap();
    let mut command = command("--listen 127.0.0.1:0 --log-format json");
    let log = log_of(command.arg("--config").arg(&path), |addr| {
        for id in ["first", "second"] {
            let headers =
                format!("authorization: me\r\nidempotency-key: k\r\nx-request-id: {id}\r\nx-fault: gap=0s\r\n");
            assert!(send(addr, "/v1/chat/completions", &headers, HELLO).contains("data: [DONE]"));
        }
        send(addr, "/v1/chat/completions", "x-request-id: elsewhere\r\n", &HELLO.replace("sim", "other"));
    });
    std::fs::remove_file(&path).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let calls = lines.filter(|line| line["message"] == "call");
    let told: Vec<_> =
        calls.map(|call| ["id", "route", "dedup"].map(|name| call[name].as_str().map(str::to_owned))).collect();
    let expected = [["first", "chat", "leader"], ["second", "chat", "replayed"], ["elsewhere", "", ""]];
    let expected = expected.map(|call| call.map(|field| Some(field.to_owned()).filter(|field| !field.is_empty())));
    assert_eq!(told, expected, "{log}");
}

#[test]
fn each_attempt_is_a_span_of_its_callers_trace_where_that_is_wanted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let provider = runtime.block_on(Provider::start()).unwrap();
    let upstream = format!("http://{}", provider.addr());
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut command = command("--listen 127.0.0.1:0 --log-format json --backoff-base 5ms --trace attempts");
    command.args(["--upstream", &upstream]).env("RUST_LOG", "debug");
    let log = log_of(&mut command, |addr| {
        let headers = format!("x-fault: gap=0s; status=503; times=1\r\nx-request-id: me\r\n{parent}\r\n");
        assert!(send(addr, "/v1/chat/completions", &headers, HELLO).contains("data: [DONE]"));
    });
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended = |what: &str| lines.iter().filter(|line| line["message"] == what).cloned().collect::<Vec<_>>();
    let (calls, attempts) = (ended("call ended"), ended("attempt ended"));
    assert_eq!((calls.len(), attempts.len()), (1, 2), "{log}");
    let call = &calls[0]["span"];
    assert_eq!(
        (&call["name"], &call["id"], &call["parent_id"]),
        (&"call".into(), &"me".into(), &"00f067aa0ba902b7".into())
    );
    for (nth, (attempt, seen)) in attempts.iter().zip(provider.seen()).enumerate() {
        let span = &attempt["span"];
        assert_eq!((&span["upstream"], &span["attempt"]), (&"upstream".into(), &(nth + 1).into()), "{attempt}");
        assert_eq!(span["parent_id"], call["span_id"], "{attempt}");
        let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", span["span_id"].as_str().unwrap());
        assert_eq!(seen.headers["traceparent"], expected, "{attempt}");
    }
    assert_eq!((&attempts[0]["status"], &attempts[1]["status"]), (&503.into(), &200.into()));
}

#[test]
fn an_access_line_names_the_tenant_and_what_went_wrong() {
    let keys = format!("{}/access-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&keys, "acme:its-key\n").unwrap();
    let options = "--listen 127.0.0.1:0 --log-format json --attempts 1 --error-events false --breaker off --dedup off";
    let who = "authorization: Bearer its-key\r\n";
    let log = log_of(command(options).args(["--caller-keys-file", &keys]), |addr| {
        let plain = HELLO.replace("true", "false");
        send(addr, "/v1/chat/completions", &format!("{who}x-request-id: whole\r\n"), &plain);
        send(
            addr,
            "/v1/chat/completions",
            &format!("{who}x-fault: gap=0s; reset-after=3\r\nx-request-id: cut\r\n"),
            HELLO,
        );
        send(addr, "/v1/chat/completions", &format!("{who}x-fault: status=503\r\nx-request-id: down\r\n"), HELLO);
        send(addr, "/v1/chat/completions", &format!("{who}x-fault: reset\r\nx-request-id: lost\r\n"), &plain);
        send(addr, "/v1/chat/completions", "x-request-id: stranger\r\n", HELLO);
        let mut left = TcpStream::connect(addr).unwrap();
        let fault = format!("{who}x-fault: gap=0s; stall-after=3\r\nx-request-id: left\r\n");
        let length = HELLO.len();
        write!(
            left,
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n{fault}content-length: {length}\r\n\r\n{HELLO}"
        )
        .unwrap();
        let _ = left.read(&mut [0; 1024]).unwrap();
    });
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let call = |id: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line["message"] == "call" && line["id"] == id).collect();
        let [call] = found[..] else { panic!("{id}: {log}") };
        call.clone()
    };
    let null = serde_json::Value::Null;
    for (id, tenant, status, outcome, served_by) in [
        ("whole", "acme".into(), 200, "complete", "upstream"),
        ("cut", "acme".into(), 200, "failed", "upstream"),
        ("down", "acme".into(), 503, "complete", "upstream"),
        ("lost", "acme".into(), 502, "complete", "gateway"),
        ("stranger", null.clone(), 401, "complete", "gateway"),
        ("left", "acme".into(), 200, "client left", "upstream"),
    ] {
        let call = call(id);
        let expected = (&tenant, &status.into(), &outcome.into(), &served_by.into());
        assert_eq!((&call["tenant"], &call["status"], &call["outcome"], &call["served_by"]), expected, "{call}");
    }
    assert!(call("cut")["error"].is_string() && call("whole")["error"].is_null(), "{log}");
    assert!(call("lost")["error"].is_string(), "why no upstream answered: {log}");
    assert_eq!(call("cut")["ending"], null, "it has none");
    assert!(call("stranger")["attempts"].is_null(), "no upstream was asked");
}

#[test]
fn no_secret_is_in_any_log_line_event_figure_or_page() {
    let prompt = HELLO.replace("Hello", "secret-prompt");
    let keys = format!("{}/secret-keys", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&keys, "acme:secret-key\n").unwrap();
    let options = format!("--listen 127.0.0.1:0 --caller-keys-file {keys} --upstream-header x-api-key=TEST_CREDENTIAL");
    let mut command = command(&options);
    command.env("RUST_LOG", "trace").env("TEST_CREDENTIAL", "secret-credential");
    command.args(["--last-good", "on", "--supersede-header", "x-chat", "--attempts", "2", "--backoff-base", "5ms"]);
    command.args(["--fallback", "http://127.0.0.1:1", "--fallback-authorization-env", "TEST_CREDENTIAL"]);
    let mut shown = String::new();
    let log = log_of(&mut command, |addr| {
        let get = |path: &str| {
            let mut stream = TcpStream::connect(addr).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
            stream
        };
        let mut events = get("/-/events");
        events.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let who = "authorization: Bearer secret-key\r\nx-goog-api-key: secret-other\r\ncookie: secret-cookie\r\nx-chat: secret-chat\r\n";
        for fault in [
            "gap=0s",
            // An upstream may put the prompt anywhere.
            "gap=0s; error-after=3; code=secret-words of the prompt",
            "status=503; code=secret-words PerDay",
            "status=500",
            "status=401",
            "reset",
            "gap=0s; error-after=0; code=insufficient_quota",
            "gap=0s; error-after=3",
            "gap=0s; truncate-after=3",
            "gap=1ms; close-after=3",
        ] {
            let headers = format!("{who}x-fault: {fault}\r\n");
            let answer = send(addr, "/v1/chat/completions?key=secret-query", &headers, &prompt);
            assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
            send(addr, "/v1/chat/completions", &headers, &prompt.replace("true", "false"));
        }
        assert!(send(addr, "/v1/chat/completions", "authorization: Bearer secret-wrong\r\n", &prompt).contains("401"));
        for path in ["/-/metrics", "/-/breakers", "/-/", "/-/readyz"] {
            get(path).read_to_string(&mut shown).unwrap();
        }
        let mut told = Vec::new();
        let _ = events.read_to_end(&mut told);
        shown.push_str(&String::from_utf8_lossy(&told));
    });
    assert!(log.lines().count() > 50 && log.contains("TRACE") && shown.contains("\"event\":\""), "{log}");
    for (what, text) in [("log", &log), ("page", &shown)] {
        // Words of the simulated model's answer.
        for secret in ["secret-", "simulated model: I think"] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{what} shows {secret}");
        }
    }
}

#[test]
fn every_option_is_in_a_group() {
    let help = String::from_utf8(command("-h").output().unwrap().stdout).unwrap();
    let (_, ungrouped) = help.split_once("\nOptions:\n").unwrap();
    let (ungrouped, groups) = ungrouped.split_once("\n\n").unwrap();
    let options: Vec<_> = ungrouped.split_whitespace().filter(|word| word.starts_with("--")).collect();
    assert_eq!(options, ["--help", "--version"]);
    for group in ["Upstreams and credentials", "Server", "Callers", "Time limits", "JSON answers", "Last good answers"]
    {
        assert!(groups.contains(&format!("{group}:\n")), "{group}");
    }
}

#[test]
fn the_version_may_name_the_commit() {
    let version = String::from_utf8(command("--version").output().unwrap().stdout).unwrap();
    assert!(version.starts_with(concat!("buttress-gateway ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn the_welcome_has_a_line_that_works() {
    let mut program = Program::start(&mut command("--listen 127.0.0.1:0"));
    let welcome = program.welcome();
    assert!(welcome.contains(&format!("curl -N http://{}/v1/chat/completions ", program.addr)), "{welcome}");
    assert!(welcome.contains(r#"-d '{"model":"sim","stream":true,"#), "{welcome}");
}

#[test]
fn the_call_that_a_gateway_with_tls_prints_trusts_its_ca() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (log_file() + ".pem", log_file() + ".key");
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let options = format!("--listen 127.0.0.1:0 --tls-cert {chain} --tls-key {key}");
    let welcome = Program::start(&mut command(&options)).welcome();
    assert!(welcome.contains("curl -N --cacert CA.pem https://"), "{welcome}");
}

#[test]
fn the_welcome_names_the_address_of_the_own_pages() {
    let mut program = Program::start(&mut command("--listen 127.0.0.1:0 --admin 127.0.0.1:0"));
    let welcome = program.welcome();
    let (_, rest) = welcome.split_once("own pages: http://").unwrap();
    let (admin, _) = rest.split_once("/-/\n").unwrap();
    assert_ne!(admin.parse::<SocketAddr>().unwrap(), program.addr);
    assert!(welcome.contains(&format!("live calls: http://{admin}/-/.")), "{welcome}");
    let mut stream = TcpStream::connect(program.addr).unwrap();
    write!(stream, "GET /-/calls HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("--admin"), "{answer}");
}

/// Whether this HTTP/1.1 answer is an event stream that ends with an error, after at least this many pieces of
/// content.
fn ends_with_an_error(answer: &str, pieces: usize) -> bool {
    let last = answer.rfind("data: ").map_or("", |at| &answer[at..]);
    let is_stream = answer.starts_with("HTTP/1.1 200 ") && answer.matches("\"content\":").count() >= pieces;
    is_stream && last.starts_with("data: {\"type\":\"error\",\"error\":{") && !answer.contains("[DONE]")
}

/// Whether it is a whole event stream after this many attempts.
fn is_whole(answer: &str, attempts: u32) -> bool {
    let made = answer.contains(&format!("x-gateway-attempts: {attempts}\r\n"));
    made && answer.starts_with("HTTP/1.1 200 ") && answer.contains("data: [DONE]\n\n")
}

type Expected = (&'static str, &'static str, fn(&str, Duration) -> bool);

#[test]
fn the_printed_call_and_its_faults_do_what_the_text_says() {
    const MS: Duration = Duration::from_millis(1);
    const FAULTS: [Expected; 5] = [
        ("x-fault: silent", "no answer at all: 504 after 1s 500ms", |answer, took| {
            answer.starts_with("HTTP/1.1 504 ") && took >= 1_500 * MS
        }),
        ("x-fault: stall-after=5", "silence within the answer: an error event after 700ms", |answer, took| {
            ends_with_an_error(answer, 5) && took >= 700 * MS
        }),
        ("x-fault: reset; times=1", "the connection is reset, once: the second attempt answers", |answer, _| {
            is_whole(answer, 2)
        }),
        ("x-fault: status=429; retry-after=2; times=1", "the second attempt follows after 2 s", |answer, took| {
            is_whole(answer, 2) && took >= 2_000 * MS
        }),
        ("x-deadline-ms: 500", "your own deadline: an error event ends the answer there", |answer, took| {
            ends_with_an_error(answer, 1) && took >= 500 * MS
        }),
    ];
    let mut program =
        Program::start(&mut command("--listen 127.0.0.1:0 --first-byte-timeout 1500ms --idle-timeout 700ms"));
    let (addr, welcome) = (program.addr, program.welcome());
    let (_, body) = welcome.split_once("-d '").unwrap();
    let (body, _) = body.split_once('\'').unwrap();
    let ask = |header: &str| {
        let began = Instant::now();
        (send(addr, "/v1/chat/completions", header, body), began.elapsed())
    };
    let (answer, _) = ask("");
    assert!(is_whole(&answer, 1), "{answer}");
    let mut printed = welcome.lines().filter_map(|line| line.strip_prefix("  -H '")?.split_once('\''));
    for (header, text, holds) in FAULTS {
        assert_eq!(printed.next().map(|(header, text)| (header, text.trim_start())), Some((header, text)));
        let (answer, took) = ask(&format!("{header}\r\n"));
        assert!(holds(&answer, took), "{header}, after {took:?}: {answer}");
    }
    assert_eq!(printed.next(), None);
}

/// With a stream that begins before its answer, as the text says.
#[test]
fn the_printed_silence_ends_with_an_error_event_where_the_stream_begins_early() {
    let options = "--listen 127.0.0.1:0 --first-byte-timeout 1500ms --heartbeat-before-headers 200ms";
    let mut program = Program::start(&mut command(options));
    let welcome = program.welcome();
    let text = "no answer at all: the stream begins after 200ms, and an error event ends it after 1s 500ms\n";
    assert!(welcome.contains(text), "{welcome}");
    let answer = send(program.addr, "/v1/chat/completions", "x-fault: silent\r\n", HELLO);
    assert!(ends_with_an_error(&answer, 0), "{answer}");
}

#[test]
fn the_root_shows_the_way() {
    let program = Program::start(&mut command("--listen 127.0.0.1:0"));
    let mut stream = TcpStream::connect(program.addr).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("curl -N \"$URL/v1/chat/completions\""), "{answer}");
    assert!(answer.contains("-d '{\"model\":\"sim\",") && answer.contains("/-/"), "{answer}");
}

/// Log lines of the gateway and the layers: in lower case, without a full stop, with rounded times.
#[test]
fn log_lines_read_alike() {
    let mut command = command("--listen 127.0.0.1:0 --log-format json --attempts 2 --backoff-base 5ms");
    command.env("RUST_LOG", "info,tower_buttress=debug,tower_buttress_gateway=debug");
    let log = log_of(&mut command, |addr| {
        for fault in
            ["reset", "status=503", "status=429; retry-after=1", "gap=1ms; close-after=3", "gap=1ms; error-after=3"]
        {
            for _ in 0..3 {
                send(addr, "/v1/chat/completions", &format!("x-fault: {fault}\r\n"), HELLO);
            }
        }
        let mut half = TcpStream::connect(addr).unwrap();
        half.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nhalf")
            .unwrap();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = half.read_to_end(&mut Vec::new());
    });
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<_> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
    for wanted in ["the upstream did not answer: ", "refused: ", "circuit", "attempt 2 in ", "a request broke off: "] {
        assert!(messages.iter().any(|message| message.starts_with(wanted)), "{wanted}: {log}");
    }
    for message in messages {
        assert!(message.starts_with(|first: char| first.is_ascii_lowercase()) && !message.ends_with('.'), "{message}");
        let has_long_number =
            message.split('.').skip(1).any(|rest| rest.bytes().take_while(u8::is_ascii_digit).count() > 3);
        assert!(!has_long_number, "{message}");
    }
}
