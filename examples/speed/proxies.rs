//! The proxies as processes; two of them are this program, started again.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tower_buttress::error::BoxError;

use super::origin::Origin;
use super::sockets::Party;
use super::{Args, bare, envoy, nginx};

/// The measured proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A hyper proxy that only forwards.
    Bare,
    Gateway,
    Nginx,
    Envoy,
}

/// A running proxy. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct Proxy {
    addr: SocketAddr,
    process: Child,
    /// The folder of its configuration.
    folder: PathBuf,
}

/// The environment variable of a proxy process.
const PROXY: &str = "BUTTRESS_SPEED_PROXY";

const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// Runs this process as a proxy if it was started as one; `None`: it was not.
pub(crate) fn run_if_proxy() -> Option<Result<(), BoxError>> {
    let kind = std::env::var(PROXY).ok()?;
    let args = std::env::args_os();
    if kind == "gateway" {
        std::process::exit(tower_buttress_gateway::run(args).into());
    }
    let run = || {
        let mut args = args.skip(1);
        let upstream = args.next().and_then(|upstream| upstream.into_string().ok()).ok_or("no upstream")?;
        let party = args.next().map(PathBuf::from);
        tokio::runtime::Runtime::new()?.block_on(bare::run(upstream.parse()?, party.as_deref()))
    };
    Some(run())
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Bare, Self::Gateway, Self::Nginx, Self::Envoy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare hyper proxy",
            Self::Gateway => "gateway",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// `None`: the program is missing.
    pub(crate) async fn start(
        kind: Kind,
        origin: &Origin,
        party: Option<&Party>,
        args: &Args,
    ) -> Result<Option<Self>, BoxError> {
        let upstream = if party.is_some() { origin.tls_addr } else { origin.addr };
        let certificate = party.map(Party::folder);
        let folder = std::env::temp_dir().join(format!("buttress-speed-{}-{kind:?}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = match kind {
            Kind::Bare => ours("bare", upstream.to_string().into(), certificate)?,
            Kind::Gateway => gateway(args, upstream, certificate)?,
            Kind::Nginx => nginx::command(port, upstream, certificate, &folder)?,
            Kind::Envoy => envoy::command(&args.envoy, port, upstream, certificate, &folder)?,
        };
        let is_ours = matches!(kind, Kind::Bare | Kind::Gateway);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(if is_ours { Stdio::piped() } else { Stdio::null() });
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let _ = fs::remove_dir_all(&folder);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let mut proxy = Self { addr: SocketAddr::from(([127, 0, 0, 1], port)), process, folder };
        match proxy.process.stdout.take() {
            Some(out) => {
                let mut line = String::new();
                BufReader::new(out).read_line(&mut line)?;
                proxy.addr = addr(&line).ok_or_else(|| format!("{} did not start", kind.name()))?;
            }
            None => proxy.listening(kind).await?,
        }
        Ok(Some(proxy))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The CPU time of its threads.
    pub(crate) fn cpu(&self) -> Result<Duration, BoxError> {
        let mut nanos = 0;
        for thread in fs::read_dir(self.proc("task"))? {
            // A thread that has just ended has no figures.
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            nanos += text.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Its resident memory, in bytes.
    pub(crate) fn memory(&self) -> Result<u64, BoxError> {
        let status = fs::read_to_string(self.proc("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = resident.and_then(|line| line.split_whitespace().next()?.parse().ok()).ok_or("no memory")?;
        Ok(kib * 1024)
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(file)
    }

    async fn listening(&mut self, kind: Kind) -> Result<(), BoxError> {
        let began = Instant::now();
        while TcpStream::connect(self.addr).is_err() {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("{} ended with {status}", kind.name()).into());
            }
            if began.elapsed() > STARTS_WITHIN {
                return Err(format!("{} does not listen", kind.name()).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The gateway with its defaults.
fn gateway(args: &Args, upstream: SocketAddr, certificate: Option<&Path>) -> Result<Command, BoxError> {
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let mut command = match &args.gateway {
        Some(program) => {
            let mut command = Command::new(program);
            command.arg("--upstream");
            command
        }
        None => ours("gateway", "--upstream".into(), None)?,
    };
    command.arg(format!("{scheme}://{upstream}")).args(["--listen", "127.0.0.1:0"]);
    if let Some(folder) = certificate {
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        command.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(key).arg("--upstream-ca").arg(cert);
    }
    Ok(command)
}

fn ours(name: &str, first: std::ffi::OsString, second: Option<&Path>) -> Result<Command, BoxError> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(PROXY, name).env_remove("RUST_LOG").arg(first);
    if let Some(second) = second {
        command.arg(second);
    }
    Ok(command)
}

/// The address in the first line of our own proxies.
fn addr(line: &str) -> Option<SocketAddr> {
    let rest = line.trim().strip_prefix("on ").or_else(|| line.split_once("://").map(|(_, rest)| rest))?;
    rest.split(',').next()?.parse().ok()
}
