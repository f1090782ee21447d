//! The gateway over real sockets. `process` tests the whole program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod again;
mod answers;
mod breakers;
mod clicks;
mod client;
mod clients;
mod compressed;
mod config;
mod doors;
mod example;
mod figures;
mod fleet;
mod forgetting;
mod forwarding;
mod hops;
mod leaving;
mod limits;
mod load;
#[cfg(unix)]
mod logs;
mod memory;
mod observe;
mod page;
mod pages;
#[cfg(unix)]
mod process;
mod programs;
#[cfg(unix)]
mod reload;
mod resumable;
mod routes;
mod stopping;
#[allow(dead_code, clippy::collapsible_if, reason = "shared with the tests of crates for an older Rust")]
#[path = "../../../../tests/it/support/mod.rs"]
mod support;
mod thinking;
mod tls;
mod trust;
mod truth;
mod unread;
mod uploads;
mod upstream;

use std::ffi::OsString;
use std::future::Future;
use std::net::SocketAddr;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::secs;
use tower_buttress_gateway::{Args, Gateway, Provider, Reload};

/// A running gateway, stopped when dropped.
struct Running {
    addr: SocketAddr,
    admin: Option<SocketAddr>,
    /// The simulated provider, if no other upstream was named.
    provider: Option<Provider>,
    reload: Reload,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

async fn gateway(options: &[&str]) -> Running {
    let listen = if options.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
    let args = ["gateway"].iter().chain(listen).chain(options).map(OsString::from);
    let gateway = Gateway::new(Args::read(args).unwrap()).await.unwrap();
    let (addr, admin, provider) = (gateway.addr(), gateway.admin_addr(), gateway.provider().cloned());
    let reload = gateway.reload();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(gateway.run(async { drop(stopped.await) }));
    Running { addr, admin, provider, reload, stop, served }
}

async fn gateway_before(upstream: SocketAddr) -> Running {
    gateway(&["--upstream", &format!("http://{upstream}")]).await
}

impl Running {
    fn provider(&self) -> &Provider {
        self.provider.as_ref().unwrap()
    }

    /// The upstream side of a cancelled call closes soon.
    async fn abandoned(&self, calls: u64) {
        self.abandoned_of(calls, 0).await;
    }

    /// The same, while this number of other calls continue.
    async fn abandoned_of(&self, calls: u64, open: u64) {
        soon(self.provider().until(|counts| counts.abandoned == calls && counts.open == open)).await;
    }
}

/// Fails if `future` takes so long that it would never complete.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(secs(10), future).await.expect("it did not happen")
}
