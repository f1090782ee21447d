use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Concurrency, Config, MOST};
use super::gate::QueueGate;
use super::service::Queue;
use super::shared::{QueueStats, Shared};
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::per_thread::PerThread;

/// Bounds how many calls are under way at a time. The others wait, and none of them waits for one caller.
///
/// A call holds its place until its response *body* has ended, so a limit of twenty is a limit of twenty streams. Those
/// that wait are served round robin over tenants, and first in first out within one: a tenant that sends a hundred calls
/// makes another's single call wait for one of them.
///
/// # When to use it, and when not
///
/// For an upstream that bears a limited number of calls at a time (a model on GPUs, a provider's limit of concurrent requests),
/// and to have calls wait here, fairly, and not there. For rates (requests or tokens a minute) use
/// [`PaceLayer`](crate::PaceLayer). An upstream that scales by itself needs neither.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{QueueLayer, Rejection, RejectionKind};
///
/// // Two calls at a time, each of which takes a second; a third waits for at most ten.
/// let upstream = service_fn(|_: Request<Full<Bytes>>| async {
///     tokio::time::sleep(Duration::from_secs(1)).await;
///     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("done")))
/// });
/// let layer = QueueLayer::new(2).max_wait(Duration::from_secs(10)).max_waiting(1);
/// let service = ServiceBuilder::new().layer(layer.clone()).service(upstream);
///
/// let call = || service.clone().oneshot(Request::new(Full::default()));
/// let (first, second, third, fourth) = tokio::join!(call(), call(), call(), call());
/// assert!([first, second, third].iter().all(|answer| answer.as_ref().unwrap().status() == 200));
///
/// // Of four at once, the last finds the line full.
/// let refused = fourth.unwrap();
/// assert_eq!(Rejection::of(&refused).unwrap().kind(), RejectionKind::QueueFull);
/// assert!(refused.headers().contains_key("retry-after"));
/// # }
/// ```
///
/// # Who is served next
///
/// - A call that comes while others wait goes to the line, even if a place has just become free: no call is overtaken.
/// - [Tenants](crate::Tenant) take turns. Without a name, the credentials of a request say whose it is.
/// - While others wait, no tenant is given more than half of the places.
/// - A call whose reader has left data unread for a second counts as unread. While calls wait, those keep half of the
///   places; what they hold beyond that is passed over, up to twice the limit. Above one and a half of the limit, only tenants
///   that hold less than half of the places are given one.
/// - In a line that is full, the tenant of which most wait loses its last to one of which fewer do.
///
/// # How long the line is
///
/// A call is refused when it comes rather than after it has waited in vain: if the calls before it, times how long places
/// are held, divided by the limit, are more than [`max_wait`](Self::max_wait) or than what is left to its
/// [`Deadline`](crate::Deadline).
///
/// # Place in the stack
///
/// Inside retries, so that a call that waits to be tried again holds no place; outside
/// [`PaceLayer`](crate::PaceLayer), the breaker and the limits of time, so that waiting in line is not taken for a slow upstream.
///
/// A call takes its place when its head has come. A caller that sends a body slowly would hold it meanwhile, so requests are to be
/// read before: by [`DedupLayer`](crate::DedupLayer), [`SupersedeLayer`](crate::SupersedeLayer), or an
/// [`InspectRequestLayer`](crate::InspectRequestLayer) with [`read_all`](crate::InspectRequestLayer::read_all) outside. The
/// [presets](crate::presets) do that where their queue is on.
///
/// The queue lives in the layer: all clones of one layer, and all services they make, share it.
///
/// # What happens when
///
/// - *No place is free*: the call waits inside its future, and the service inside is asked whether it is ready when a place
///   was given. A caller that waits for this service's readiness waits for the service inside only while places are free.
/// - *The line is full, or would take too long*: a 503 that carries a [`Rejection`](crate::Rejection) of kind
///   [`QueueFull`](crate::RejectionKind::QueueFull) (for gRPC callers `RESOURCE_EXHAUSTED`), with the time that a place
///   takes in `Retry-After`.
/// - *The deadline passes while it waits*: a 504.
/// - *The inner service fails, its body breaks off, or it panics; the caller goes away; a connection is upgraded*: the place
///   is given to the next.
///
/// # Cancel safety
///
/// A call that is dropped while it waits leaves the line without a trace. One that is dropped after it was given a place and
/// before it took it passes the place on.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// Where a place is free: a hash of the tenant, a compare-exchange to take the place and one to give it back, and no allocation.
/// Threads take places of their own, so they do not wait for each other. A call that finds no place takes a lock, as do, from then on,
/// those that hold one; it is boxed. With [`auto`](Self::auto) each call takes the lock twice, and there is a box for each.
#[derive(Clone, Debug)]
pub struct QueueLayer {
    shared: PerThread<Shared>,
    enabled: bool,
}

// === impl QueueLayer ===

impl QueueLayer {
    /// At most this many calls at a time; at least one, and at most 65,536.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self::with(Config::new(Concurrency::Fixed(limit.clamp(1, MOST))), true)
    }

    /// Finds out how many calls the upstream bears, between these bounds, beginning at ten.
    ///
    /// The limit grows by one for each round of successes in which it was reached, and shrinks by three tenths, once a
    /// round, when the upstream answers 429, 503 or 529, refuses connections, or sends no first byte in time (which needs a
    /// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) inside); and when a caller gives a call up whose request the
    /// upstream has had for longer than half of the first-byte limit of its [`TimeoutProfile`](crate::TimeoutProfile) (45 s
    /// without one). It does not follow latency: how long a call takes is
    /// how long its answer is.
    ///
    /// ```
    /// use tower_buttress::QueueLayer;
    ///
    /// let queue = QueueLayer::auto(2, 200);
    /// assert_eq!(queue.stats().limit, 10);
    /// ```
    #[must_use]
    pub fn auto(min: u32, max: u32) -> Self {
        let min = min.clamp(1, MOST);
        Self::with(Config::new(Concurrency::Auto { min, max: max.clamp(min, MOST) }), true)
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::new(Concurrency::Fixed(1)), false)
    }

    /// How many calls may wait. Default: 1,024. With zero, what finds no place is refused.
    #[must_use]
    pub fn max_waiting(self, calls: u32) -> Self {
        self.change(|config| config.max_waiting = usize::try_from(calls).unwrap_or(usize::MAX))
    }

    /// How long a call may wait. Default: 30 s.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.change(|config| config.max_wait = wait)
    }

    /// What answers and errors say about the upstream, for [`auto`](Self::auto). Default:
    /// [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.change(|config| config.classifier = Classifier::new(classifier))
    }

    /// What its gauges are called by in the label `layer` (feature `metrics`). Default: `queue`.
    #[must_use]
    pub fn name(self, name: &'static str) -> Self {
        self.change(|config| config.name = name)
    }

    /// Tells `observer` of every refusal, and of every change of a limit that is found out.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// How many calls are under way and wait. A setter makes a new queue: ask when all is set.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.shared.stats()
    }

    /// A layer with the same settings, and places of its own.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self::with(self.shared.config.clone(), self.enabled)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    fn with(config: Config, enabled: bool) -> Self {
        Self { shared: PerThread::new(Arc::new(Shared::new(config))), enabled }
    }

    fn change(self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.shared.config.clone();
        change(&mut config);
        Self::with(config, self.enabled)
    }
}

impl<S> Layer<S> for QueueLayer {
    type Service = Queue<S>;

    fn layer(&self, inner: S) -> Queue<S> {
        if self.enabled {
            self.shared.show_places();
        }
        Queue::new(inner, self.enabled.then(|| QueueGate(self.shared.for_service())))
    }
}
