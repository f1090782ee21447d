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
mod account;
mod answer_body;
mod answers;
mod args;
mod assembly;
mod begun;
mod callers;
mod calls;
mod circuits;
mod drain;
mod events;
mod fleet;
mod grace;
mod headers;
mod ids;
mod inspect;
mod kept;
mod load;
mod local;
mod notices;
mod page;
mod paths;
mod preface;
mod problem;
pub mod provider;
mod proxy;
mod reading;
mod routes;
mod serve;
mod signals;
mod similar;
mod socket;
mod spare;
mod stack;
mod state;
mod stream;
mod telemetry;
mod tls;
mod tunnel;
mod unread;
mod upload;
mod upstream;
mod weights;
mod whole;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tower_buttress::Memory;

pub use self::args::{Args, Stop};
use self::args::{Backup, ServerArgs};
use self::assembly::Assembly;
use self::drain::Drain;
use self::events::Events;
use self::fleet::Fleet;
use self::local::Shown;
pub use self::provider::Provider;
use self::reading::Reading;
use self::serve::Server;
use self::signals::{Hangups, Signals};
use self::upstream::Upstream;

/// A gateway that listens, and does not answer yet.
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    addr: SocketAddr,
    admin: Option<TcpListener>,
    fleet: Fleet,
    events: Events,
    reading: Reading,
    /// For the calls of no route.
    upstream: Option<Upstream>,
    /// The simulated one, where there is no other.
    provider: Option<Provider>,
    reload: Reload,
    reloads: mpsc::Receiver<ReloadRequest>,
}

/// Has a gateway read its configuration again.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<ReloadRequest>);

/// Takes what is wrong with the configuration, once it has been read again.
type ReloadRequest = oneshot::Sender<Result<(), String>>;

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
    Fleet::new(&args.fleet, &telemetry::observer(&Events::new()))?;
    Reading::new(args.clone()).map(drop)
}

/// Answers until it is told to stop.
async fn answer(args: Args) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let mut hangups = Hangups::new().map_err(|error| format!("cannot listen to signals: {error}"))?;
    let gateway = Gateway::new(args).await?;
    say(&gateway.welcome());
    let reload = gateway.reload();
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            // What is wrong is in the log.
            let _ = reload.now().await;
        }
    });
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

// === impl Reload ===

impl Reload {
    /// Has the gateway read its configuration file and the callers' keys again, and waits until they are in force: for the calls
    /// that begin then.
    ///
    /// # Errors
    ///
    /// What is wrong, a line for each error: then nothing has changed. So it is where the gateway has stopped.
    pub async fn now(&self) -> Result<(), String> {
        let stopped = || "the gateway has stopped".to_owned();
        let (wish, done) = oneshot::channel();
        self.0.send(wish).await.map_err(|_| stopped())?;
        done.await.unwrap_or_else(|_| Err(stopped()))
    }
}

// === impl Gateway ===

impl Gateway {
    /// Takes its address, and starts the simulated provider where no upstream was named. What is wrong is one line.
    pub async fn new(args: Args) -> Result<Self, String> {
        let events = Events::new();
        let fleet = Fleet::new(&args.fleet, &telemetry::observer(&events))?;
        let reading = Reading::new(args)?;
        let (listener, addr) = listen(&reading.args.server.listen).await?;
        let admin = match &reading.args.server.admin {
            Some(addr) => Some(listen(addr).await?.0),
            None => None,
        };
        let mut provider = None;
        let upstream = reading.upstream(&mut provider).await?;
        // From here on everything is counted.
        telemetry::prometheus();
        let (reload, reloads) = mpsc::channel(1);
        let reload = Reload(reload);
        Ok(Self { listener, addr, admin, fleet, events, reading, upstream, provider, reload, reloads })
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

    /// Has it read its configuration again, as SIGHUP does.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Answers until `stop`, and then until what is open has ended or has had its time.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, addr, admin, fleet, events, reading, upstream, mut provider, mut reloads, .. } = self;
        let drain = Drain::new();
        let is_alone = admin.is_none();
        let shown = if is_alone && addr.ip().to_canonical().is_loopback() { Shown::All } else { Shown::Health };
        fleet.greet();
        let memory = Memory::new(reading.args.server.memory.0.unwrap_or(usize::MAX));
        let mut assembly = Assembly::new(fleet, events, memory, drain.clone(), shown, is_alone);
        let (live, current) = watch::channel(Arc::new(assembly.open(&reading, upstream)));
        let args = reading.args;
        let mut in_force = args.clone();
        let ServerArgs { write_timeout, drain_timeout, .. } = &args.server;
        let server = Server { live: current, drain, write_timeout: write_timeout.0, drain_timeout: drain_timeout.0 };
        let follow = async {
            while let Some(wish) = reloads.recv().await {
                let read = async {
                    let reading = Reading::again(&args).await?;
                    reading.args.check_follows(&in_force)?;
                    let upstream = reading.upstream(&mut provider).await?;
                    Ok::<_, String>((reading, upstream))
                };
                let done = read.await.map(|(reading, upstream)| {
                    let before = live.borrow().clone();
                    let mut next = assembly.open(&reading, upstream);
                    next.callers.succeed(&before.callers);
                    let next = Arc::new(next);
                    live.send_replace(next.clone());
                    before.callers.remove_all_but(&next.callers);
                    let waiting = args.only_at_start(&reading.args);
                    in_force = reading.args;
                    waiting
                });
                telemetry::reloaded(&done);
                let _ = wish.send(done.map(drop));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = server.serve(listener, admin, stop) => {}
            () = follow => {}
        }
        if let Some(provider) = provider {
            tracing::info!("the simulated provider saw {:?}", provider.counts());
        }
    }

    fn welcome(&self) -> String {
        let Self { reading: Reading { args, server_tls, .. }, addr, upstream, provider, .. } = self;
        let layers = &args.layers;
        let scheme = if server_tls.is_some() { "https" } else { "http" };
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
