//! HTTP clients and their connection pools.

use std::time::Duration;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;

use super::outgoing::Outgoing;
use super::url::{Protocol, Upstream};

/// Connectors to upstreams.
#[derive(Clone, Debug)]
pub(crate) struct Connectors<C> {
    /// For HTTP/2 where the upstream offers it, else HTTP/1.1.
    pub(crate) any: C,
    /// For HTTP/1.1 only: connections that switch protocols.
    pub(crate) http1: C,
}

/// Shorter than the 60 s or so after which servers close idle connections, so that both sides do not close at once.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// Detects a connection whose packets are lost. Two probes, 4 s apart, on an idle connection; 8 s for an
/// acknowledgement on one that sends. Both are below 10 s.
const KEEPALIVE: Duration = Duration::from_secs(4);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 2;
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(8);

/// Some APIs answer with more than hyper's default of 100 fields.
const MAX_HEADERS: usize = 250;
const MAX_HEADER_BYTES: u32 = 256 * 1024;

/// The window of one HTTP/2 stream, and of a connection. A hundred callers that stop reading do not block another.
const STREAM_WINDOW: u32 = 512 * 1024;
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

// === impl Connectors ===

impl Connectors<HttpsConnector<HttpConnector>> {
    /// Connectors with these TLS settings.
    pub(crate) fn new(tls: &ClientConfig) -> Self {
        let builder = || HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        Self {
            any: builder().enable_all_versions().wrap_connector(tcp()),
            http1: builder().enable_http1().wrap_connector(tcp()),
        }
    }
}

impl<C> Connectors<C> {
    pub(crate) fn map<D>(self, mut map: impl FnMut(C) -> D) -> Connectors<D> {
        Connectors { any: map(self.any), http1: map(self.http1) }
    }
}

/// Sends each small event at once, and detects a dead peer.
fn tcp() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    connector
}

pub(super) fn client<C>(connector: C, upstream: &Upstream) -> Client<C, Outgoing>
where
    C: Connect + Clone,
{
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .http1_max_headers(MAX_HEADERS)
        .http2_only(upstream.protocol() == Protocol::H2c)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .build(connector)
}
