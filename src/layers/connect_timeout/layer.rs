use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::Config;
use super::service::ConnectTimeout;
use crate::event::{Observer, Observers};

/// Bounds the time in which a connector makes a connection.
///
/// It goes around a *connector*, not around a client: only the connector can tell connecting (name resolution, TCP, TLS)
/// from waiting for an answer. A connector has no response to refuse with, so this layer fails with an error:
/// [`ConnectElapsed`](crate::error::ConnectElapsed), which hyper-util and reqwest return as the source of theirs.
///
/// # When to use it, and when not
///
/// Always: without it, a host that drops packets holds a call until the kernel's timeout (about 2 minutes on Linux). The
/// `connect_timeout` of hyper-util's `HttpConnector` applies to each address of a host, and not to TLS; this layer bounds
/// all of it together.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use http::Uri;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::ConnectTimeoutLayer;
/// use tower_buttress::error::{self, ConnectElapsed};
///
/// let black_hole = service_fn(|_: Uri| std::future::pending::<std::io::Result<()>>());
/// let connector = ServiceBuilder::new()
///     .layer(ConnectTimeoutLayer::new(Duration::from_secs(5)))
///     .service(black_hole);
///
/// let failed = connector.oneshot(Uri::from_static("http://10.255.255.1")).await.unwrap_err();
/// assert!(error::find::<ConnectElapsed>(&failed).is_some());
/// # }
/// ```
///
/// With hyper-util: `Client::builder(executor).build(ConnectTimeoutLayer::new(limit).layer(HttpConnector::new()))`.
/// With reqwest: `ClientBuilder::connector_layer(ConnectTimeoutLayer::new(limit))`.
///
/// # What happens when
///
/// - *The limit is reached*: the layer drops the connector's future, which closes its socket.
/// - *The caller drops the future*: the layer drops the connector's. (hyper-util's pool may finish the connection in the
///   background, within the same limit.)
///
/// # Cancel safety
///
/// Dropping the future drops the attempt.
///
/// # Errors
///
/// A [`BoxError`](crate::error::BoxError): the connector's own, or `ConnectElapsed`.
///
/// # Cost
///
/// One timer per connection that is not ready at once; nothing per request.
#[derive(Clone, Debug)]
pub struct ConnectTimeoutLayer {
    config: Config,
}

// === impl ConnectTimeoutLayer ===

impl ConnectTimeoutLayer {
    /// Allows `limit` for a connection. 5 s suits the internet: TCP resends a lost SYN after 1 s and 3 s (RFC 6298).
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { config: Config { enabled: true, limit, observers: Observers::default() } }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new(Duration::MAX).enabled(false)
    }

    /// Switches the layer on or off; its settings are kept. Default: on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Reports every connection that reached the limit to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.observers = Observers::to(observer);
        self
    }
}

impl<S> Layer<S> for ConnectTimeoutLayer {
    type Service = ConnectTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ConnectTimeout::new(inner, self.config.clone())
    }
}
