//! What the program writes to its log.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tower_buttress_gateway::Provider;

use super::process::{HELLO, Program, command, log_file, log_of, send};

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
