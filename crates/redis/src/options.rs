//! Connection settings, and the behaviour of calls during an outage.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::io::tcp::{TcpSettings, socket2};
use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisResult};
use tower_buttress::Observer;

use crate::client::link::Commands;
use crate::client::operation::{Operation, Watcher};

/// How to connect to a [`Redis`](crate::Redis).
///
/// ```
/// use std::time::Duration;
/// use tower_buttress_redis::{Outage, RedisOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = RedisOptions::from_url("redis://gateway:secret@redis.internal:6379/0")?
///     .prefix("chat")
///     .patience(Duration::from_millis(50))
///     .outage(Outage::Local);
/// # let _ = options;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisOptions {
    pub(crate) info: ConnectionInfo,
    pub(crate) commands: Option<Arc<dyn Commands>>,
    pub(crate) prefix: Arc<str>,
    pub(crate) patience: Duration,
    pub(crate) outage: Outage,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) watcher: Option<Watcher>,
}

/// What a call gets that needs Redis during an outage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// The state of this process: equal requests share a call within each process.
    #[default]
    Local,
    /// An error of the store: [`DedupLayer`](tower_buttress::DedupLayer) lets the call pass, or refuses it if the
    /// layer has [`strict_keys`](tower_buttress::DedupLayer::strict_keys) and the request an `Idempotency-Key`.
    Refuse,
}

/// The kernel also detects a vanished peer after this time.
const DEAD_AFTER: Duration = Duration::from_secs(2);

const KEEPALIVE: Duration = Duration::from_secs(15);

/// The default limit of one operation.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

// === impl RedisOptions ===

impl RedisOptions {
    /// Connects to `url`: `redis://user:password@host:port/database`, `unix:///path`, and, with the feature `tls`,
    /// `rediss://host:port`. `valkey://` and `valkeys://` mean the same.
    ///
    /// # Errors
    ///
    /// The URL is invalid, or needs a feature that is off.
    pub fn from_url(url: &str) -> RedisResult<Self> {
        // Opened for its checks; does not connect.
        Client::open(url.into_connection_info()?).map(|client| Self::from_client(&client))
    }

    /// Uses `client` with its certificates and credentials.
    #[must_use]
    pub fn from_client(client: &Client) -> Self {
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(DEAD_AFTER);
        Self {
            info: client.get_connection_info().clone().set_tcp_settings(tcp),
            commands: None,
            prefix: "buttress".into(),
            patience: PATIENCE,
            outage: Outage::default(),
            observer: None,
            watcher: None,
        }
    }

    /// Sends commands through `connection`, which must reconnect by itself: the application's `ConnectionManager`. A bare
    /// `MultiplexedConnection` never does: once it is lost, Redis stays unreachable. Subscriptions use a separate
    /// connection with these options.
    ///
    /// No blocking commands may be sent on it: they would delay everything behind them.
    #[must_use]
    pub fn connection<C>(mut self, connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.commands = Some(Arc::new(connection));
        self
    }

    /// The prefix of every key and channel. Default: `buttress`. Fleets with different prefixes share nothing.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Limits how long a caller waits for one operation, including the connection. Default: 100 ms; at least 1 ms.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.max(Duration::from_millis(1));
        self
    }

    /// What calls get while Redis is unreachable. Default: [`Outage::Local`].
    #[must_use]
    pub fn outage(mut self, outage: Outage) -> Self {
        self.outage = outage;
        self
    }

    /// Receives [`Event::BackendChanged`](tower_buttress::Event::BackendChanged): once when Redis becomes unreachable,
    /// and once when it returns.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Receives every operation, with its result and duration.
    ///
    /// Called on the task that sent the operation; it must return at once.
    ///
    /// ```
    /// use tower_buttress_redis::RedisOptions;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let options = RedisOptions::from_url("redis://127.0.0.1:6379")?
    ///     .on_operation(|operation| println!("{} {} in {:?}", operation.name, operation.result, operation.took));
    /// # let _ = options;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_operation(mut self, watch: impl Fn(&Operation) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Watcher::new(watch));
        self
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("addr", self.info.addr())
            .field("prefix", &self.prefix)
            .field("patience", &self.patience)
            .field("outage", &self.outage)
            .finish_non_exhaustive()
    }
}
