//! The whole program, in a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

fn command(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buttress-gateway"));
    command.args(args.split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A program that runs, and is killed with its test.
struct Program {
    child: Child,
    out: BufReader<ChildStdout>,
    addr: SocketAddr,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let addr = loop {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ended");
            if let Some((_, rest)) = line.split_once("gateway on http://") {
                break rest.split(',').next().unwrap().parse().unwrap();
            }
        };
        Self { child, out, addr }
    }

    fn signal(&self, name: &str) {
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

/// The exit code and what was said on stderr.
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
        // The command line wins.
        ("GATEWAY_IDLE_TIMEOUT", "4s"),
    ]));
    let mut limits = String::new();
    program.out.read_line(&mut limits).unwrap();
    assert_eq!(limits, "limits: connect 5s, first byte 30s, idle 3s, deadline off (header: x-deadline-ms)\n");
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
    // The first one is heard: nothing new is accepted.
    while TcpStream::connect(program.addr).is_ok() {
        std::thread::yield_now();
    }
    program.signal("TERM");
    assert_eq!(program.child.wait().unwrap().code(), Some(1));
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn the_welcome_has_a_line_that_works() {
    let mut program = Program::start(&mut command("--listen 127.0.0.1:0"));
    let mut welcome = String::new();
    while !welcome.contains("/-/metrics") {
        assert_ne!(program.out.read_line(&mut welcome).unwrap(), 0);
    }
    assert!(welcome.contains(&format!("curl -N http://{}/v1/chat/completions ", program.addr)), "{welcome}");
    assert!(welcome.contains(r#"-d '{"model":"sim","stream":true,"#), "{welcome}");
}
