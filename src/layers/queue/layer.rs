use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Concurrency, Config, MOST};
use super::gate::QueueGate;
use super::service::Queue;
use super::shared::{QueueStats, Shared};
use crate::event::{Emitter, Observer};
use crate::policy::verdict::{Classifier, Classify};
use crate::rt::layer_classifier::LayerClassifier;
use crate::rt::per_thread::PerThread;

/// Limits the calls in flight. The others wait, fairly by tenant.
///
/// A call holds its place until its response *body* has ended, so a limit of 20 is a limit of 20 streams. Waiting calls
/// are served round robin over tenants, and first in, first out within one: a tenant that sends a hundred calls delays
/// another's single call by one of them.
///
/// # When to use it, and when not
///
/// For an upstream that can serve a limited number of concurrent calls (a model on GPUs, a provider's limit of concurrent
/// requests), to make calls wait here, fairly, instead of there. For rates (requests or tokens a minute) use
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
/// # Which call is next
///
/// - A call that arrives while others wait joins the line, even if a place has just become free: no call is overtaken.
/// - [Tenants](crate::Tenant) take turns. Without a name, the credentials of a request identify the tenant.
/// - While others wait, no tenant gets more than half of the places.
/// - A call whose reader has left data unread for 1 s counts as unread. While calls wait, unread calls keep half of the
///   places; their further places do not count, up to twice the limit. Above 1.5 times the limit, only tenants that hold
///   less than half of the places get one.
/// - In a full line, the tenant with the most waiting calls loses its last one to a tenant with fewer.
///
/// # How long the line is
///
/// The layer refuses a call on arrival rather than after a wait in vain: if the calls before it, times the mean time that
/// a place is held, divided by the limit, exceed [`max_wait`](Self::max_wait) or the time to its
/// [`Deadline`](crate::Deadline).
///
/// # Place in the stack
///
/// Inside retries, so that a call that waits for its retry holds no place; outside [`PaceLayer`](crate::PaceLayer), the
/// breaker and the time limits, so that waiting in line does not look like a slow upstream.
///
/// A call takes its place when its head has arrived. Calls whose [`CallBody`](crate::CallBody) is still being sent hold at most a
/// quarter of the places (at least one) until the upstream has all of it. Further ones wait for each other. While calls wait,
/// the place of a call whose request has been on its way for 1 s does not count, so slow callers keep no other call from
/// its place. It is better to read requests before: with [`DedupLayer`](crate::DedupLayer),
/// [`SupersedeLayer`](crate::SupersedeLayer), or an [`InspectRequestLayer`](crate::InspectRequestLayer) with
/// [`read_all`](crate::InspectRequestLayer::read_all) outside. The [presets](crate::presets) do that when their queue is on.
/// Bodies of other types are not watched.
///
/// All clones of one layer, and all services they make, share its queue.
///
/// # What happens when
///
/// - *No place is free*: the call waits inside its future, and polls the service inside for readiness when it has a
///   place. A caller that waits for this service's readiness waits for the service inside only while places are free.
/// - *The line is full, or would take too long*: a 503 that carries a [`Rejection`](crate::Rejection) of kind
///   [`QueueFull`](crate::RejectionKind::QueueFull) (for gRPC callers `RESOURCE_EXHAUSTED`), with the expected wait for a
///   place in `Retry-After`.
/// - *The deadline passes while it waits*: a 504.
/// - *The inner service fails, its body breaks off, or it panics; the caller leaves; a connection is upgraded*: the next
///   call gets the place.
///
/// # Cancel safety
///
/// A call that is dropped while it waits leaves the line. A call that is dropped between getting and taking a place
/// passes the place on.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// With a free place: a hash of the tenant, a compare-exchange to take the place and one to return it, and no allocation.
/// Threads take places of their own, so they do not wait for each other. A call that finds no place takes a lock, as do,
/// from then on, the calls that hold one; it is boxed. While calls wait, a task of each runtime in which they do has the
/// timer for all of them. With [`auto`](Self::auto) each call takes the lock twice, and is
/// boxed.
#[derive(Clone, Debug)]
pub struct QueueLayer {
    shared: PerThread<Shared>,
    enabled: bool,
}

// === impl QueueLayer ===

impl QueueLayer {
    /// Limits concurrent calls to `limit`; at least 1, and at most 65,536.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self::with(Config::new(Concurrency::Fixed(limit.clamp(1, MOST))), true)
    }

    /// Finds how many concurrent calls the upstream can serve, between these bounds, starting at 10.
    ///
    /// The limit grows by one for each round of successes that reached it. It shrinks by 30 %, once a round, when the
    /// upstream answers 429, 503 or 529, refuses connections, or sends no first byte in time (which needs a
    /// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer) inside); and when a caller cancels a call whose request
    /// the upstream has had for longer than half of the first-byte limit of its [`TimeoutProfile`](crate::TimeoutProfile)
    /// (45 s without one). It does not follow latency, which depends on the length of answers.
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

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub fn disabled() -> Self {
        Self::with(Config::new(Concurrency::Fixed(1)), false)
    }

    /// How many calls may wait. Default: 1,024. With zero, a call without a free place is refused.
    #[must_use]
    pub fn max_waiting(self, calls: u32) -> Self {
        self.change(|config| config.max_waiting = usize::try_from(calls).unwrap_or(usize::MAX))
    }

    /// How long a call may wait. Default: 30 s.
    #[must_use]
    pub fn max_wait(self, wait: Duration) -> Self {
        self.change(|config| config.max_wait = wait)
    }

    /// Sets the classifier, which judges the upstream for [`auto`](Self::auto). Default:
    /// [`Standard`](crate::verdict::Standard).
    #[must_use]
    pub fn classifier(self, classifier: impl Classify + 'static) -> Self {
        self.change(|config| config.classifier = LayerClassifier::own(classifier))
    }

    /// Takes the classifier of the stack, if it has none of its own.
    pub(crate) fn or_classifier(self, of_stack: &Classifier) -> Self {
        self.shared.config.classifier.adopt(of_stack);
        self
    }

    /// The name of its gauges in the label `layer` (feature `metrics`). Default: `queue`.
    #[must_use]
    pub fn name(self, name: &'static str) -> Self {
        self.change(|config| config.name = name)
    }

    /// Reports every refusal, and every change of an adaptive limit, to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.change(|config| config.emitter = Emitter::to(observer))
    }

    /// Returns the numbers of calls in flight and waiting. A setter makes a new queue: call it on the final layer.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.shared.stats()
    }

    /// Returns a layer with the same settings, and its own places.
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
