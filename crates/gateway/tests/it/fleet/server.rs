//! A `redis-server` for one test.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// On a free port of 127.0.0.1. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    arguments: Vec<String>,
    child: Child,
}

const STARTS_WITHIN: Duration = Duration::from_secs(10);

// === impl Server ===

impl Server {
    /// With these arguments in addition to the usual ones.
    pub(crate) fn start(arguments: &[&str]) -> io::Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another process may take the port before the server does.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut server = Self { port, child: spawn(port, &arguments)?, arguments: arguments.clone() };
            if server.is_up() {
                return Ok(server);
            }
        }
        Err(io::Error::other("redis-server does not start"))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Suspends it: connections stay open, and nothing is answered.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again on the same port, empty.
    #[allow(dead_code, reason = "not all that use this restart it")]
    pub(crate) fn start_again(&mut self) -> io::Result<()> {
        for _ in 0..50 {
            self.child = spawn(self.port, &self.arguments)?;
            if self.is_up() {
                return Ok(());
            }
        }
        Err(io::Error::other("redis-server does not start again"))
    }

    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < STARTS_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            if self.answers().unwrap_or(false) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Whether it answers at all: one that asks for a password is up, too.
    fn answers(&self) -> io::Result<bool> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        if self.arguments.iter().any(|argument| argument == "--tls-port") {
            return Ok(true);
        }
        connection.set_read_timeout(Some(Duration::from_millis(500)))?;
        connection.write_all(b"PING\r\n")?;
        Ok(connection.read(&mut [0; 64])? > 0)
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        if done.success() { Ok(()) } else { Err(io::Error::other("kill failed")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, arguments: &[String]) -> io::Result<Child> {
    let port = port.to_string();
    let is_tls = arguments.iter().any(|argument| argument == "--tls-port");
    let (plain, tls) = if is_tls { ("0", Some(port.as_str())) } else { (port.as_str(), None) };
    Command::new("redis-server")
        .args(["--port", plain, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"])
        .args(arguments.iter().map(|argument| if argument == "PORT" { tls.unwrap_or_default() } else { argument }))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            let hint = "redis-server is needed here: `apt-get install -y redis-server`";
            io::Error::new(error.kind(), format!("{hint} ({error})"))
        })
}
