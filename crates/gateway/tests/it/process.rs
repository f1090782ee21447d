//! The whole program, as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

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
