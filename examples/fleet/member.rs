//! The gateways: this program, started as another process.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use indicatif::ProgressBar;
use serde_json::Value;
use tower_buttress::error::BoxError;

use super::stage::Stage;

/// The environment variable of a gateway process.
const MEMBER: &str = "BUTTRESS_FLEET_MEMBER";

pub(crate) const MEMBERS: usize = 8;

/// How long a circuit stays open: less than the default of 5 s, so that there are more probes to count.
pub(crate) const OPEN: Duration = Duration::from_secs(2);

/// One attempt per call, so that attempts and calls are the same.
const OPTIONS: [&str; 8] =
    ["--listen", "127.0.0.1:0", "--attempts", "1", "--breaker-open", "2s", "--breaker-open-max", "2s"];

/// Eight gateways, and a client.
#[derive(Debug)]
pub(crate) struct Fleet {
    members: Vec<Member>,
    client: Client<HttpConnector, Full<Bytes>>,
    messages: AtomicU32,
    /// Chooses the machine of a call at random, as a stateless load balancer does.
    balancer: Mutex<Rng>,
    pub(crate) bar: ProgressBar,
}

#[derive(Debug)]
struct Member {
    addr: SocketAddr,
    process: Child,
}

/// The result of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) took: Duration,
}

/// Counts how often a machine's circuits changed to a state since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    Open,
    /// A probe ran.
    HalfOpen,
}

pub(crate) fn is_one() -> bool {
    std::env::var_os(MEMBER).is_some()
}

// === impl Fleet ===

impl Fleet {
    pub(crate) async fn start(
        stage: &Stage,
        redis: Option<&str>,
        seed: u64,
        bar: ProgressBar,
    ) -> Result<Self, BoxError> {
        let members = (0..MEMBERS).map(|_| Member::start(stage.addr, redis)).collect::<io::Result<_>>()?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let fleet =
            Self { members, client, messages: AtomicU32::new(0), balancer: Mutex::new(Rng::with_seed(seed)), bar };
        Ok(fleet)
    }

    /// A message that was not sent before.
    pub(crate) fn message(&self) -> u32 {
        self.messages.fetch_add(1, Relaxed)
    }

    pub(crate) fn any_member(&self) -> usize {
        self.balancer.lock().unwrap_or_else(PoisonError::into_inner).usize(..MEMBERS)
    }

    /// Sends a call to the gateway of this number, and reads the whole answer.
    pub(crate) async fn ask(&self, member: usize, message: u32, fault: &str) -> Result<Answer, BoxError> {
        let body =
            format!(r#"{{"model":"sim","stream":true,"messages":[{{"role":"user","content":"message {message}"}}]}}"#);
        let request = Request::post(format!("http://{}/v1/chat/completions", self.addr(member)?))
            .header("content-type", "application/json")
            .header("authorization", "Bearer somebody")
            .header("x-fault", fault)
            .body(Full::new(body.into()))?;
        let began = Instant::now();
        let answer = self.client.request(request).await?;
        let status = answer.status();
        // A stream that breaks has had its status.
        let _ = answer.into_body().collect().await;
        self.bar.inc(1);
        Ok(Answer { status, took: began.elapsed() })
    }

    /// How often the circuits of these machines changed to this state since their start.
    pub(crate) async fn became(&self, members: impl IntoIterator<Item = usize>, what: Became) -> Result<u32, BoxError> {
        let detail = match what {
            Became::Open => r#"detail="open""#,
            Became::HalfOpen => r#"detail="half-open""#,
        };
        let is_it = |line: &&str| {
            line.starts_with("tower_buttress_events_total{")
                && line.contains(r#"event="circuit_changed""#)
                && line.contains(detail)
        };
        let mut count = 0;
        for member in members {
            let figures = self.page(member, "/-/metrics").await?;
            for line in figures.lines().filter(is_it) {
                count += line.rsplit(' ').next().unwrap_or_default().parse::<u32>()?;
            }
        }
        Ok(count)
    }

    /// Whether the circuits of all machines are closed.
    pub(crate) async fn are_closed(&self) -> Result<bool, BoxError> {
        let mut states = HashSet::new();
        for member in 0..MEMBERS {
            let page = self.page(member, "/-/breakers").await?;
            let circuits: Vec<Value> = serde_json::from_str(&page)?;
            states.extend(circuits.iter().map(|circuit| circuit["state"] == "closed"));
        }
        Ok(!states.contains(&false))
    }

    async fn page(&self, member: usize, path: &str) -> Result<String, BoxError> {
        let request = Request::get(format!("http://{}{path}", self.addr(member)?)).body(Full::default())?;
        let answer = self.client.request(request).await?.into_body().collect().await?;
        Ok(String::from_utf8(answer.to_bytes().into())?)
    }

    fn addr(&self, member: usize) -> Result<SocketAddr, BoxError> {
        Ok(self.members.get(member % MEMBERS).ok_or("no such member")?.addr)
    }
}

// === impl Member ===

impl Member {
    fn start(upstream: SocketAddr, redis: Option<&str>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(MEMBER, "1").args(OPTIONS).args(["--upstream", &format!("http://{upstream}")]);
        if let Some(redis) = redis {
            command.args(["--redis", redis]);
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let addr = line.strip_prefix("gateway on http://").and_then(|rest| rest.split(',').next()?.parse().ok());
        match addr {
            Some(addr) => Ok(Self { addr, process }),
            None => {
                let _ = process.kill();
                let _ = process.wait();
                Err(io::Error::other("a gateway did not start"))
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
