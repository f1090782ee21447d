//! Counts the provider's connections and resets one on request.

use std::sync::Arc;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use super::Counts;
use crate::socket::{ResetOnDrop, Socket};

/// Resets the connection of a request.
#[derive(Clone, Debug, Default)]
pub(super) struct ProviderReset {
    on_drop: ResetOnDrop,
    is_wanted: Arc<Notify>,
}

/// Counts a connection while it is open.
struct OpenConnection(watch::Sender<Counts>);

pub(super) async fn serve(listener: TcpListener, app: Router, counts: watch::Sender<Counts>) {
    // A simulated provider may end when accept fails.
    while let Ok((stream, _)) = listener.accept().await {
        // Sends each small event at once, in its own segment.
        let _ = stream.set_nodelay(true);
        let reset = ProviderReset::default();
        let service = TowerToHyperService::new(app.clone().layer(Extension(reset.clone())));
        let socket = Socket::new(stream, reset.on_drop.clone());
        let open = OpenConnection::new(counts.clone());
        tokio::spawn(async move {
            let _open = open;
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                // Writes pending data before the reset.
                biased;
                _ = connection => {}
                () = reset.wanted() => {}
            }
        });
    }
}

// === impl Reset ===

impl ProviderReset {
    /// Resets the connection. Never returns, because the caller's future is dropped with it.
    pub(super) async fn now(&self) -> ! {
        self.on_drop.want();
        self.is_wanted.notify_one();
        std::future::pending().await
    }

    async fn wanted(&self) {
        self.is_wanted.notified().await;
    }
}

// === impl Open ===

impl OpenConnection {
    fn new(counts: watch::Sender<Counts>) -> Self {
        counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
        });
        Self(counts)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.send_modify(|counts| counts.open -= 1);
    }
}
