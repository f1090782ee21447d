//! A streaming reverse proxy with limits on time.
//!
//! ```sh
//! buttress-gateway                                    # before a simulated provider
//! buttress-gateway --upstream http://127.0.0.1:9000
//! ```
//!
//! A request passes `serve` (sockets), `live` (the gateway's own pages), `proxy` (the duties of a gateway to both
//! sides), `stack` (the layers) and `upstream` (the client).

mod access;
mod account;
mod answer_body;
mod answers;
mod args;
mod assembly;
mod attempts;
mod begun;
mod bursts;
mod callers;
mod calls;
mod checked_config;
mod circuits;
mod decimal;
mod events;
mod figures;
mod fleet;
mod forgetful_layers;
mod grace;
mod headers;
mod idle_clones;
mod ids;
mod inspect;
mod layers;
mod live;
mod load;
mod local;
mod log_lines;
mod notices;
mod page;
mod paths;
mod preface;
mod problem;
mod program;
pub mod provider;
mod proxy;
mod routes;
mod serve;
mod shutdown;
mod signals;
mod similar;
mod socket;
mod stack;
mod state;
mod stream;
mod telemetry;
mod tls;
mod trailers;
mod tunnel;
mod unread;
mod upload;
mod upstream;
mod upstream_box;
mod versions;
mod weights;
mod welcome;
mod whole;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tower_buttress::Memory;

use self::args::ServerArgs;
pub use self::args::{Args, Stop};
use self::assembly::Assembly;
use self::checked_config::CheckedConfig;
use self::events::Events;
use self::fleet::Fleet;
use self::local::Shown;
pub use self::program::run;
pub use self::provider::Provider;
use self::serve::Server;
use self::shutdown::Shutdown;
use self::upstream::Upstream;

/// A gateway that has bound its address and does not serve yet.
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    addr: SocketAddr,
    admin: Option<TcpListener>,
    fleet: Fleet,
    events: Events,
    config: CheckedConfig,
    /// The upstream of calls outside of routes.
    upstream: Option<Upstream>,
    /// The simulated provider, if no upstream was named.
    provider: Option<Provider>,
    reload: Reload,
    reloads: mpsc::Receiver<ReloadRequest>,
}

/// Makes a gateway read its configuration again.
#[derive(Clone, Debug)]
pub struct Reload(mpsc::Sender<ReloadRequest>);

/// Receives the errors of the configuration after it has been read again.
type ReloadRequest = oneshot::Sender<Result<(), String>>;

// === impl Reload ===

impl Reload {
    /// Makes the gateway read its configuration and caller keys again, and waits until they apply to new calls.
    ///
    /// # Errors
    ///
    /// One line per fault; then nothing has changed. Also if the gateway has stopped.
    pub async fn now(&self) -> Result<(), String> {
        let stopped = || "the gateway has stopped".to_owned();
        let (wish, done) = oneshot::channel();
        self.0.send(wish).await.map_err(|_| stopped())?;
        done.await.unwrap_or_else(|_| Err(stopped()))
    }
}

// === impl Gateway ===

impl Gateway {
    /// Binds the address, and starts the simulated provider if no upstream was named. The error is one line.
    pub async fn new(args: Args) -> Result<Self, String> {
        let events = Events::new();
        let fleet = Fleet::new(&args.fleet, &telemetry::observer(&events))?;
        let config = CheckedConfig::new(args)?;
        let (listener, addr) = listen(&config.args.server.listen).await?;
        let admin = match &config.args.server.admin {
            Some(addr) => Some(listen(addr).await?.0),
            None => None,
        };
        let mut provider = None;
        let upstream = config.upstream(&mut provider).await?;
        // Metrics count from here on.
        telemetry::prometheus();
        let (reload, reloads) = mpsc::channel(1);
        let reload = Reload(reload);
        Ok(Self { listener, addr, admin, fleet, events, config, upstream, provider, reload, reloads })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address of its own pages, if they have a listener of their own.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The simulated provider, if no upstream was named.
    #[must_use]
    pub fn provider(&self) -> Option<&Provider> {
        self.provider.as_ref()
    }

    /// Returns a handle that reads the configuration again, as SIGHUP does.
    #[must_use]
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Serves until `stop`, then drains open connections for at most the drain timeout.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, addr, admin, fleet, events, config, upstream, mut provider, mut reloads, .. } = self;
        let shutdown = Shutdown::new();
        let is_alone = admin.is_none();
        let shown = if is_alone && addr.ip().to_canonical().is_loopback() { Shown::All } else { Shown::Health };
        fleet.greet();
        config.outdated().inspect(|why| tracing::warn!("{why}"));
        let memory = Memory::new(config.args.server.memory.0.unwrap_or(usize::MAX));
        let mut assembly = Assembly::new(fleet, events, memory, shutdown.clone(), shown, is_alone);
        let (live, current) = watch::channel(Arc::new(assembly.open(&config, upstream)));
        let args = config.args;
        let mut in_force = args.clone();
        let ServerArgs { write_timeout, drain_timeout, .. } = &args.server;
        let server = Server { live: current, shutdown, write_timeout: write_timeout.0, drain_timeout: drain_timeout.0 };
        let follow = async {
            while let Some(wish) = reloads.recv().await {
                let read = async {
                    let config = CheckedConfig::again(&args).await?;
                    config.args.check_follows(&in_force)?;
                    let upstream = config.upstream(&mut provider).await?;
                    Ok::<_, String>((config, upstream))
                };
                let done = read.await.map(|(config, upstream)| {
                    config.outdated().inspect(|why| tracing::warn!("{why}"));
                    let before = live.borrow().clone();
                    let mut next = assembly.open(&config, upstream);
                    next.callers.succeed(&before.callers);
                    let next = Arc::new(next);
                    live.send_replace(next.clone());
                    before.callers.remove_all_but(&next.callers);
                    let waiting = args.only_at_start(&config.args);
                    in_force = config.args;
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
            tracing::info!("the simulated provider counted {:?}", provider.counts());
        }
    }
}

async fn listen(addr: &str) -> Result<(TcpListener, SocketAddr), String> {
    let taken = |error: io::Error| format!("cannot listen on {addr}: {error}");
    let listener = TcpListener::bind(addr).await.map_err(taken)?;
    let addr = listener.local_addr().map_err(taken)?;
    Ok((listener, addr))
}
