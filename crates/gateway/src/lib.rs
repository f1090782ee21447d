//! A streaming reverse proxy with its time under control.
//!
//! ```sh
//! buttress-gateway                                    # before a simulated provider
//! buttress-gateway --upstream http://127.0.0.1:9000
//! ```
//!
//! A request goes through `serve` (sockets), `proxy` (what a gateway owes both sides), `stack` (the layers) and
//! `forward` (the client).

mod access;
mod answer_body;
mod answers;
mod args;
mod callers;
mod calls;
mod circuits;
mod drain;
mod events;
mod fleet;
mod headers;
mod ids;
mod inspect;
mod kept;
mod load;
mod local;
mod notices;
mod page;
mod problem;
pub mod provider;
mod proxy;
mod routes;
mod serve;
mod signals;
mod similar;
mod stack;
mod stream;
mod telemetry;
mod tls;
mod tunnel;
mod unread;
mod upload;
mod upstream;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tower_buttress::DeadlineHeader;

pub use self::args::{Args, Stop};
use self::args::{Backup, Calls, Switch};
use self::callers::{Callers, Pages};
use self::circuits::Circuits;
use self::drain::Drain;
use self::events::Events;
use self::fleet::Fleet;
use self::inspect::Inspector;
use self::kept::Kept;
use self::load::Lanes;
use self::local::{Local, Shown};
pub use self::provider::Provider;
use self::proxy::Proxy;
use self::routes::{Routes, Served};
use self::serve::Server;
use self::signals::Signals;
use self::stack::Shared;
use self::upstream::{Protocol, Upstream};

/// A gateway that listens, and does not answer yet.
#[derive(Debug)]
pub struct Gateway {
    args: Args,
    listener: TcpListener,
    addr: SocketAddr,
    /// For the calls of no route.
    upstream: Option<Upstream>,
    admin: Option<TcpListener>,
    fleet: Fleet,
    circuits: Circuits,
    tls: ClientConfig,
    server_tls: Option<Arc<ServerConfig>>,
    events: Events,
    /// The simulated one, where there is no other.
    provider: Option<Provider>,
}

/// The whole program, up to its exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::read(args) {
        Ok(args) => args,
        Err(Stop::Told(text)) => {
            say(&text);
            return 0;
        }
        Err(Stop::Wrong(lines)) => return complain(&lines),
        Err(Stop::Unfit(lines)) => {
            complain(&lines);
            return 1;
        }
    };
    if args.server.check_config {
        return match check(&args) {
            Ok(()) => {
                say("the configuration is fit\n");
                0
            }
            Err(line) => {
                complain(&line);
                1
            }
        };
    }
    telemetry::log(args.server.log_format);
    match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let ended = runtime.block_on(answer(args));
            // What is still open after the drain is dropped here; nothing is waited for, not even a name that is
            // being resolved.
            runtime.shutdown_background();
            ended.map_or_else(|line| complain(&line), |()| 0)
        }
        Err(error) => complain(&format!("cannot start: {error}")),
    }
}

/// What only the start would find.
fn check(args: &Args) -> Result<(), String> {
    trust(args)?;
    if let (Some(chain), Some(key)) = (&args.server.tls_cert, &args.server.tls_key) {
        tls::server(chain, key)?;
    }
    let observer = telemetry::observer(&Events::new());
    let fleet = Fleet::new(&args.fleet, &observer)?;
    Circuits::new(args, &fleet, &observer).map_err(|error| format!("the breaker: {error}"))?;
    Ok(())
}

/// Answers until it is told to stop.
async fn answer(args: Args) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let gateway = Gateway::new(args).await?;
    say(&gateway.welcome());
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
        complain("told twice to stop: open streams are cut off");
        std::process::exit(1);
    });
    gateway.run(async { drop(stopped.await) }).await;
    Ok(())
}

// === impl Gateway ===

impl Gateway {
    /// Takes its address, and starts the simulated provider where no upstream was named. What is wrong is one line.
    pub async fn new(args: Args) -> Result<Self, String> {
        let events = Events::new();
        let observer = telemetry::observer(&events);
        let fleet = Fleet::new(&args.fleet, &observer)?;
        let circuits = Circuits::new(&args, &fleet, &observer).map_err(|error| format!("the breaker: {error}"))?;
        let tls = trust(&args)?;
        let server_tls = match (&args.server.tls_cert, &args.server.tls_key) {
            (Some(chain), Some(key)) => Some(tls::server(chain, key)?),
            _ => None,
        };
        let (listener, addr) = listen(&args.server.listen).await?;
        let admin = match &args.server.admin {
            Some(addr) => Some(listen(addr).await?.0),
            None => None,
        };
        let (upstream, provider) = match args.upstreams.upstream.clone() {
            Some(upstream) => (Some(upstream), None),
            None if !args.has_default_route() => (None, None),
            None => {
                let unable = |error| format!("cannot start the simulated provider: {error}");
                let provider = Provider::start().await.map_err(unable)?;
                (Some(Upstream::from(provider.addr())), Some(provider))
            }
        };
        // From here on everything is counted.
        telemetry::prometheus();
        Ok(Self { args, listener, addr, admin, upstream, fleet, circuits, tls, server_tls, events, provider })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where its own pages are, if they have a listener of their own.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The simulated provider, where no other upstream was named.
    #[must_use]
    pub fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }

    /// Answers until `stop`, and then until what is open has ended or has had its time.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let drain = Drain::new();
        let observer = telemetry::observer(&self.events);
        let (kept, lanes) = (Kept::default(), Lanes::default());
        self.fleet.greet();
        let shared = Shared::new(&self.args, &self.fleet, &self.tls, &kept, &lanes, &observer);
        let routes = self.args.routes.iter().zip(self.circuits.routes()).filter_map(|(route, circuits)| {
            Some((route.calls.clone(), &route.args, route.args.upstreams.upstream.clone()?, circuits))
        });
        let rest = self.upstream.map(|upstream| (Calls::default(), &self.args, upstream, &self.circuits));
        let served = routes.chain(rest).map(|(calls, args, upstream, circuits)| {
            let stack = stack::stack(args, upstream.clone(), circuits, &shared);
            Served { calls, upstream, stack }
        });
        let routes = Routes::new(served.collect());
        let Args { callers, layers, server, .. } = &self.args;
        let inspector = Inspector {
            is_on: !server.plain || self.args.chooses_by_model(),
            limit: self.args.longest_deadline(),
            header: layers.deadline_header.0.clone().map(DeadlineHeader::millis),
        };
        let shown = if self.admin.is_none() && self.addr.ip().to_canonical().is_loopback() {
            Shown::All
        } else {
            Shown::Health
        };
        let callers = Callers {
            trusted: callers.trust_callers,
            keys: callers.keys().cloned(),
            pages: Pages { origins: callers.allow_origin.clone(), hosts: callers.host.clone() },
            proxies: callers.trusted_proxies.clone(),
        };
        let serving = Server {
            proxy: Proxy::new(routes, inspector, drain.clone()),
            local: Local {
                fleet: self.fleet,
                circuits: self.circuits,
                events: self.events,
                kept,
                lanes,
                answers_calls: self.admin.is_none(),
                is_simulated: self.provider.is_some(),
                respond_async: layers.respond_async == Switch::On,
                drain: drain.clone(),
                has_answers: layers.resumable == Switch::On,
            },
            callers: Arc::new(callers),
            shown,
            tls: self.server_tls,
            drain,
            write_timeout: server.write_timeout.0,
            drain_timeout: server.drain_timeout.0,
        };
        serving.serve(self.listener, self.admin, stop).await;
        if let Some(provider) = self.provider {
            tracing::info!("the simulated provider saw {:?}", provider.counts());
        }
    }

    fn welcome(&self) -> String {
        let Self { args, addr, upstream, provider, .. } = self;
        let layers = &args.layers;
        let scheme = if self.server_tls.is_some() { "https" } else { "http" };
        let before = match (upstream, args.routes.len()) {
            (Some(upstream), _) if provider.is_some() => format!("a simulated provider on {upstream}"),
            (Some(upstream), 0) => format!("the upstream {upstream}"),
            (Some(upstream), routes) => format!("the upstream {upstream} and {routes} routes"),
            (None, routes) => format!("{routes} routes"),
        };
        let shared = args.fleet.redis.as_ref().map_or_else(String::new, |url| format!("shared: through {url}\n"));
        let limits = format!(
            "gateway on {scheme}://{addr}, before {before}\n\
             limits: connect {}, first byte {}, idle {}, deadline {} (header: {})\n\
             attempts: {}, then {}\n{shared}",
            layers.connect_timeout,
            layers.first_byte_timeout,
            layers.idle_timeout,
            layers.deadline,
            layers.deadline_header,
            layers.attempts,
            fallbacks(&args.upstreams.backups),
        );
        if provider.is_none() {
            return limits;
        }
        let (first_byte, idle) = (layers.first_byte_timeout, layers.idle_timeout);
        let silent = match layers.begin_early() {
            Some(early) if layers.first_byte_timeout.0.is_none_or(|limit| early < limit) => {
                let early = humantime::format_duration(early);
                format!("the stream begins after {early}, and an error event ends it after {first_byte}")
            }
            _ => format!("504 after {first_byte}"),
        };
        format!(
            "{limits}\n\
             Stream an answer through it:\n\n  \
             curl -N {scheme}://{addr}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\":\"sim\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n\
             Add a fault, and see what becomes of it:\n\n  \
             -H 'x-fault: silent'           no answer at all: {silent}\n  \
             -H 'x-fault: stall-after=5'    silence within the answer: an error event after {idle}\n  \
             -H 'x-fault: reset; times=1'   the connection is reset, once: the second attempt answers\n  \
             -H 'x-fault: status=429; retry-after=2; times=1'   the second attempt comes after 2 s, and not before\n  \
             -H 'x-deadline-ms: 500'        your own deadline: an error event ends the answer there\n\n\
             More faults: crates/gateway/src/provider/mod.rs. A page that shows what happens: {scheme}://{addr}/-/. Also /-/healthz, /-/readyz, /-/metrics, /-/breakers and /-/events.\n"
        )
    }
}

fn fallbacks(backups: &[Backup]) -> String {
    match backups {
        [] => "no fallback".to_owned(),
        [one] => format!("the fallback {}", one.upstream),
        chain => {
            let urls: Vec<_> = chain.iter().map(|backup| backup.upstream.to_string()).collect();
            format!("the fallbacks {}", urls.join(", "))
        }
    }
}

/// Whose certificates upstreams may show.
fn trust(args: &Args) -> Result<ClientConfig, String> {
    let all = std::iter::once(args).chain(args.routes.iter().map(|route| &route.args));
    let mut upstreams = all.flat_map(|Args { upstreams, layers, .. }| {
        let backups = upstreams.backups.iter().map(|backup| &backup.upstream);
        upstreams.upstream.iter().chain(backups).chain(&layers.similar.embeddings)
    });
    // Reading the system's roots takes a while.
    let wants_tls = upstreams.any(|upstream| upstream.protocol() == Protocol::Https);
    upstream::trust(wants_tls, args.server.upstream_ca.as_deref())
}

async fn listen(addr: &str) -> Result<(TcpListener, SocketAddr), String> {
    let taken = |error: io::Error| format!("cannot listen on {addr}: {error}");
    let listener = TcpListener::bind(addr).await.map_err(taken)?;
    let addr = listener.local_addr().map_err(taken)?;
    Ok((listener, addr))
}

fn say(text: &str) {
    // Without a listener it need not be said.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

fn complain(lines: &str) -> u8 {
    for line in lines.lines() {
        let _ = writeln!(io::stderr(), "gateway: {line}");
    }
    // As clap has it.
    2
}
