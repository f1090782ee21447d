//! A Redis of one's own, and what it takes to hurt it.

pub(crate) mod faulty;
pub(crate) mod fleet;
pub(crate) mod proxy;
pub(crate) mod replicated;
pub(crate) mod slow;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_buttress::{CallInfo, Event, Observer};
use tower_buttress_redis::{Redis, RedisOptions};

/// A `redis-server` on a free port of 127.0.0.1, which ends with it.
pub(crate) struct Server {
    port: u16,
    arguments: Vec<&'static str>,
    child: Child,
}

/// The events of a Redis.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<String>>>);

// === impl Server ===

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With these arguments beside the usual ones.
    pub(crate) fn with(arguments: &[&'static str]) -> Self {
        // Between the moment that a port is found and the moment that it is taken, another process may take it.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut server = Self { port, arguments: arguments.to_vec(), child: spawn(port, arguments) };
            if server.is_up() {
                return server;
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::from_url(&self.url()).unwrap()
    }

    pub(crate) fn redis(&self) -> Redis {
        Redis::new(self.options()).unwrap()
    }

    /// A space of keys that no other test has.
    pub(crate) fn fresh(&self) -> RedisOptions {
        static NUMBERS: AtomicU32 = AtomicU32::new(0);
        self.options().prefix(format!("test{}", NUMBERS.fetch_add(1, Relaxed)))
    }

    /// Suspends it: connections stay open, and nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// From its next start on it asks for this password.
    pub(crate) fn require(&mut self, password: &'static str) {
        self.arguments.extend(["--requirepass", password]);
    }

    /// Starts it again on the same port, empty.
    pub(crate) fn start_again(&mut self) {
        for _ in 0..50 {
            self.child = spawn(self.port, &self.arguments);
            if self.is_up() {
                return;
            }
        }
        panic!("redis-server does not start again");
    }

    /// Sends a command on a connection of its own.
    pub(crate) async fn say(&self, command: &str) -> redis::RedisResult<redis::Value> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut words = command.split(' ');
        let mut said = redis::cmd(words.next().unwrap());
        words.for_each(|word| _ = said.arg(word));
        said.query_async(&mut connection).await
    }

    /// Runs a script on a connection of its own.
    pub(crate) async fn eval(&self, script: &str, arguments: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        redis::cmd("EVAL").arg(script).arg(0).arg(arguments).query_async(&mut connection).await.unwrap()
    }

    /// A number of `INFO`.
    pub(crate) async fn info(&self, name: &str) -> u64 {
        number(&self.all_info().await, name)
    }

    pub(crate) async fn all_info(&self) -> String {
        match self.say("INFO ALL").await.unwrap() {
            redis::Value::VerbatimString { text, .. } | redis::Value::SimpleString(text) => text,
            redis::Value::BulkString(text) => String::from_utf8_lossy(&text).into_owned(),
            other => panic!("no INFO: {other:?}"),
        }
    }

    fn is_up(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let up = redis::Client::open(self.url())
                .and_then(|client| client.get_connection_with_timeout(Duration::from_millis(500)));
            // A Redis that asks for a password is up.
            if up.is_ok() || up.is_err_and(|why| !why.is_io_error()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal(process: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().unwrap();
    assert!(done.success());
}

fn spawn(port: u16, arguments: &[&str]) -> Child {
    let port = port.to_string();
    let usual = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"];
    Command::new("redis-server")
        .args(usual)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests start a redis-server of their own: install it with `apt-get install -y redis-server`")
}

fn number(info: &str, name: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().parse().unwrap()
}

// === impl Events ===

impl Events {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Events {
    fn on_event(&self, event: &Event, _: Option<&CallInfo>) {
        self.0.lock().unwrap().push(event.to_string());
    }
}

/// Waits until something is so, for ten seconds at most.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
