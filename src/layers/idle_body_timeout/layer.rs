use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Config, IdleActivity};
use super::service::IdleBodyTimeout;
use crate::event::{Observer, Observers};

/// Ends a response body that is silent for too long.
///
/// Silence is time in which the consumer *waits for the upstream*: from the head to the first frame, and between frames.
/// Time in which the consumer does not read does not count, so a slow reader never causes a timeout and never loses a
/// ready frame.
///
/// # When to use it, and when not
///
/// For answers that stream: a healthy stream may run for an hour, and a dead one shows after 15 s of silence. For the
/// time until the first data use [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer), which can still answer with a
/// status; for the whole call use [`DeadlineLayer`](crate::DeadlineLayer).
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, channel::Channel};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::IdleBodyTimeoutLayer;
/// use tower_buttress::error::{self, IdleBodyElapsed};
///
/// // An upstream that says "hello" and then nothing, forever.
/// let upstream = service_fn(|_: Request<()>| async {
///     let (mut sender, body) = Channel::<Bytes>::new(1);
///     sender.send_data("hello".into()).await.unwrap();
///     tokio::spawn(async move { std::future::pending::<()>().await; drop(sender) });
///     Ok::<_, std::convert::Infallible>(Response::new(body))
/// });
///
/// let service = ServiceBuilder::new()
///     .layer(IdleBodyTimeoutLayer::new(Duration::from_secs(15)))
///     .service(upstream);
///
/// let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
/// assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
///
/// let failed = body.frame().await.unwrap().unwrap_err();
/// let cause = error::find::<IdleBodyElapsed>(&failed).unwrap();
/// assert_eq!(cause.after, Duration::from_secs(15));
/// assert!(body.frame().await.is_none());
/// # }
/// ```
///
/// # Place in the stack
///
/// Per attempt: inside retries, and outside `FirstByteTimeoutLayer`, so it starts where that layer ends.
///
/// # What happens when
///
/// - *The limit is reached*: the layer drops the inner body at once, which closes or resets the upstream's stream. The
///   body fails with [`IdleBodyElapsed`](crate::error::IdleBodyElapsed), and is then at its end.
/// - *The caller drops the future or the body*: the layer drops the inner one.
/// - *The answer has no body* (HEAD, 204, 304) *or is an upgrade*: it passes untouched.
/// - *Trailers*: reset the timer like any frame, and pass.
/// - *The request carries a [`TimeoutProfile`](crate::TimeoutProfile)*: its `idle` replaces the layer's limit.
///
/// # Cancel safety
///
/// Dropping a poll of the body loses nothing: the layer holds no frame.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's, or
/// `IdleBodyElapsed`.
///
/// # Cost
///
/// A frame that is ready: no clock, no timer, no allocation. A frame that must be waited for: one clock read. The first
/// wait of a body allocates its timer, which moves only when it fires. Figures: `benches/README.md`.
#[derive(Clone, Debug)]
pub struct IdleBodyTimeoutLayer {
    config: Config,
}

// === impl IdleBodyTimeoutLayer ===

impl IdleBodyTimeoutLayer {
    /// Allows a silence of `limit`. 15 s suits most streams, 180 s models that think in silence.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        let (activity, observers) = (IdleActivity::default(), Observers::default());
        Self { config: Config { enabled: true, limit, activity, observers } }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::new(Duration::MAX).enabled(false)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Switches the layer on or off; its settings are kept. Default: on.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Sets the activity that resets the timer. Default: [`IdleActivity::Bytes`].
    #[must_use]
    pub fn activity(mut self, activity: IdleActivity) -> Self {
        self.config.activity = activity;
        self
    }

    /// Reports every ended body to `observer`.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.config.observers = Observers::to(observer);
        self
    }
}

impl<S> Layer<S> for IdleBodyTimeoutLayer {
    type Service = IdleBodyTimeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdleBodyTimeout::new(inner, self.config.clone())
    }
}
