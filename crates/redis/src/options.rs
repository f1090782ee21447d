//! How Redis is reached, and what becomes of calls while it is not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::io::tcp::{TcpSettings, socket2};
use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisResult};
use tower_buttress::Observer;

use crate::client::link::Commands;
use crate::client::operation::{Operation, Watcher};

/// How a [`Redis`](crate::Redis) is reached.
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

/// What a call gets that needs an answer from Redis while Redis cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// What this process knows by itself: requests that are equal share a call within each process.
    #[default]
    Local,
    /// An error of the store: [`DedupLayer`](tower_buttress::DedupLayer) lets the call pass, and refuses it where the
    /// layer has [`strict_keys`](tower_buttress::DedupLayer::strict_keys) and the request an `Idempotency-Key`.
    Refuse,
}

/// A peer that is gone without a word is noticed after this long by the kernel too.
const DEAD_AFTER: Duration = Duration::from_secs(2);

const KEEPALIVE: Duration = Duration::from_secs(15);

/// How long one operation may take, unless an application says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

// === impl RedisOptions ===

impl RedisOptions {
    /// The Redis at `url`: `redis://user:password@host:port/database`, `unix:///path`, and, with the feature `tls`,
    /// `rediss://host:port` for TLS. `valkey://` and `valkeys://` mean the same.
    ///
    /// # Errors
    ///
    /// It is no such URL, or one that needs a feature which is off.
    pub fn from_url(url: &str) -> RedisResult<Self> {
        // Opened for its checks: nothing is connected yet.
        Client::open(url.into_connection_info()?).map(|client| Self::from_client(&client))
    }

    /// The Redis of `client`, with its certificates and credentials.
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

    /// Commands go through `connection`, which the application has already, such as a `ConnectionManager`. The
    /// connection for subscriptions is opened beside it, with the settings of these options.
    ///
    /// It must not be one on which blocking commands are sent: they stop everything behind them.
    #[must_use]
    pub fn connection<C>(mut self, connection: C) -> Self
    where
        C: ConnectionLike + Clone + Send + Sync + 'static,
    {
        self.commands = Some(Arc::new(connection));
        self
    }

    /// What every key and channel begins with. Default: `buttress`. Fleets with different prefixes share nothing.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Arc<str>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a caller waits for one operation at most, connecting included. Default: 100 ms; at least 1 ms.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.max(Duration::from_millis(1));
        self
    }

    /// What a call gets while Redis cannot be reached. Default: [`Outage::Local`].
    #[must_use]
    pub fn outage(mut self, outage: Outage) -> Self {
        self.outage = outage;
        self
    }

    /// Is told of [`Event::BackendChanged`](tower_buttress::Event::BackendChanged): once when Redis cannot be reached any
    /// more, and once when it can again.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Is told of every operation: what it was, what became of it and how long it took.
    ///
    /// It is called on the task that asked, and must return at once.
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
