//! The gateways: this program, started as another process.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tower_buttress::error::BoxError;

/// The environment variable of a gateway process.
const MEMBER: &str = "BUTTRESS_SOAK_MEMBER";

pub(crate) const MEMBERS: usize = 2;

/// Two gateways. Callers use HTTP/1.1 for the first and HTTP/2 for the second, which uses HTTP/2 to the provider.
#[derive(Debug)]
pub(crate) struct Gateways {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    addr: SocketAddr,
    process: Child,
    config: Config,
    log: PathBuf,
}

/// A configuration file, removed at the end.
#[derive(Debug)]
struct Config {
    path: PathBuf,
    upstream: String,
    gap: Duration,
}

/// The resources of the gateways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) members: [MemberUse; MEMBERS],
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemberUse {
    /// Resident memory, in MiB.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
}

pub(crate) fn is_one() -> bool {
    std::env::var_os(MEMBER).is_some()
}

/// Each stream takes at most one descriptor on each side of three processes.
pub(crate) fn check_limits(callers: usize) -> Result<(), BoxError> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    match limit {
        Some(limit) if limit < callers * 3 + 200 => {
            Err(format!("{callers} streams need more descriptors than {limit}: `ulimit -n {}`", callers * 4 + 200)
                .into())
        }
        _ => Ok(()),
    }
}

// === impl Gateways ===

impl Gateways {
    pub(crate) fn start(provider: SocketAddr, redis: &str, gap: Duration) -> io::Result<Self> {
        let start = |(nth, scheme): (usize, &str)| Member::start(nth, format!("{scheme}://{provider}"), redis, gap);
        Ok(Self { members: ["http", "h2c"].into_iter().enumerate().map(start).collect::<io::Result<_>>()? })
    }

    pub(crate) fn addr(&self, nth: usize) -> Option<SocketAddr> {
        Some(self.members.get(nth)?.addr)
    }

    /// Writes this version of the configuration, or its beginning, for each gateway, and makes it reload.
    pub(crate) fn reload(&self, version: u64, is_cut: bool) -> io::Result<()> {
        for member in &self.members {
            member.config.write(version, is_cut)?;
            let done = Command::new("kill").arg("-HUP").arg(member.process.id().to_string()).status()?;
            if !done.success() {
                return Err(io::Error::other("kill failed"));
            }
        }
        Ok(())
    }

    pub(crate) fn used(&self) -> io::Result<Used> {
        let mut members = [MemberUse::default(); MEMBERS];
        for (used, member) in members.iter_mut().zip(&self.members) {
            *used = MemberUse::of(member.process.id())?;
        }
        Ok(Used { members })
    }

    /// Whether no gateway has panicked.
    pub(crate) fn check(&self) -> Result<(), BoxError> {
        for member in &self.members {
            let log = fs::read_to_string(&member.log)?;
            if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
                return Err(format!("a gateway: {line}").into());
            }
        }
        Ok(())
    }
}

// === impl Member ===

impl Member {
    fn start(nth: usize, upstream: String, redis: &str, gap: Duration) -> io::Result<Self> {
        let place = |end: &str| std::env::temp_dir().join(format!("buttress-soak-{}-{nth}.{end}", std::process::id()));
        let (config, log) = (Config { path: place("toml"), upstream, gap }, place("log"));
        config.write(0, false)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.env(MEMBER, "1").env("RUST_LOG", "error").args([
            "--listen",
            "127.0.0.1:0",
            "--redis",
            redis,
            // In CI this gets the processor last: slow replies are not an outage.
            "--redis-patience",
            "2s",
            "--config",
        ]);
        command.arg(&config.path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut process = command.spawn()?;
        let mut line = String::new();
        if let Some(out) = process.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        let addr = line.strip_prefix("gateway on http://").and_then(|rest| rest.split(',').next()?.parse().ok());
        match addr {
            Some(addr) => Ok(Self { addr, process, config, log }),
            None => {
                let _ = process.kill();
                let _ = process.wait();
                Err(io::Error::other(format!("a gateway did not start: {}", fs::read_to_string(&log)?)))
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.log);
    }
}

// === impl Config ===

impl Config {
    /// Each version differs from the one before.
    fn write(&self, version: u64, is_cut: bool) -> io::Result<()> {
        let mut text = self.text(version);
        if is_cut {
            text.truncate(text.len() / 2);
        }
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)
    }

    fn text(&self, version: u64) -> String {
        let times = |count: u32| humantime::format_duration(self.gap * count).to_string();
        let route = match version % 3 {
            0 => String::new(),
            _ => format!(
                "[[route]]\nname = \"own\"\nmodel = \"s*\"\nattempts = 2\nbreaker_min_calls = {}\n",
                20 + version % 5
            ),
        };
        format!(
            "upstream = \"{}\"\nresumable = true\nresume_window = \"{}\"\nidle_timeout = \"{}\"\nfirst_byte_timeout = \"{}\"\n\
             answer_timeout = \"{}\"\nattempts = 3\nbackoff_base = \"50ms\"\nheartbeat = \"{}\"\nqueue = {}\nlast_good = {}\n\
             last_good_ttl = \"1m\"\n{route}# end\n",
            self.upstream,
            times(20 + u32::try_from(version % 3).unwrap_or_default()),
            times(5),
            times(10),
            times(20),
            times(2),
            1_000 + version % 2,
            version.is_multiple_of(2),
        )
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

// === impl Used ===

impl Used {
    /// Whether no more descriptors are open than before the first call, except a few that are about to close.
    pub(crate) fn has_come_to_rest(&self, idle: Self) -> bool {
        self.members.iter().zip(idle.members).all(|(now, idle)| now.descriptors <= idle.descriptors + 8)
    }
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for MemberUse { memory, descriptors } in self.members {
            write!(f, "  {memory} MiB {descriptors} fds")?;
        }
        Ok(())
    }
}

impl MemberUse {
    fn of(process: u32) -> io::Result<Self> {
        let process = Path::new("/proc").join(process.to_string());
        let status = fs::read_to_string(process.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = resident.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default();
        Ok(Self { memory: kib / 1024, descriptors: fs::read_dir(process.join("fd"))?.count() })
    }
}
