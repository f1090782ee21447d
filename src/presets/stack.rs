use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::no_backup::NoBackup;
use crate::event::Observer;
use crate::layers::circuit_breaker::{CircuitBreaker, CircuitBreakerLayer};
use crate::layers::deadline::{DeadlineLayer, DeadlineService};
use crate::layers::dedup::{Dedup, DedupLayer};
use crate::layers::fallback::{Fallback, FallbackLayer};
use crate::layers::first_byte_timeout::{FirstByteTimeout, FirstByteTimeoutLayer};
use crate::layers::grpc_status::{GrpcStatus, GrpcStatusLayer};
use crate::layers::idle_body_timeout::{IdleBodyTimeout, IdleBodyTimeoutLayer};
use crate::layers::retry_after_backoff::{RetryAfterBackoff, RetryAfterBackoffLayer};
use crate::layers::sse_heartbeat::{SseHeartbeat, SseHeartbeatLayer};
use crate::layers::timeout_profile::{TimeoutProfileLayer, TimeoutProfileService};
use crate::policy::timeout_profile::TimeoutProfile;

/// Every layer around one upstream, outermost first: gRPC status, timeout profile, heartbeats, deadline, dedup, fallback,
/// retries, breaker, idle timeout, first-byte timeout.
///
/// Made by one of the [presets](crate::presets). Each method but [`fallback`](Self::fallback) is given the layer as the
/// preset has it, and returns what is to be there instead: the same one adjusted, another, or its `disabled()`.
///
/// State is shared as each layer shares it: clones of a stack, and all services that it makes, have one retry budget, one
/// breaker and one store.
///
/// Since a dedup layer is among them, if only one that is off, the service inside must be `Clone` and its future `Send +
/// 'static`.
#[derive(Clone, Debug)]
pub struct ResilienceLayer<Bk = NoBackup> {
    grpc_status: GrpcStatusLayer,
    profile: TimeoutProfileLayer,
    heartbeat: SseHeartbeatLayer,
    deadline: DeadlineLayer,
    dedup: DedupLayer,
    fallback: FallbackLayer<Bk>,
    retry: RetryAfterBackoffLayer,
    breaker: CircuitBreakerLayer,
    idle: IdleBodyTimeoutLayer,
    first_byte: FirstByteTimeoutLayer,
}

/// The service that a [`ResilienceLayer`] makes.
pub type Resilience<S, Bk = NoBackup> =
    GrpcStatus<TimeoutProfileService<SseHeartbeat<DeadlineService<Dedup<Fallback<Attempts<S>, Attempt<Bk>>>>>>>;

type Attempts<S> = RetryAfterBackoff<CircuitBreaker<Attempt<S>>>;

/// What bounds each attempt, at the upstream and at the backup.
type Attempt<S> = IdleBodyTimeout<FirstByteTimeout<S>>;

// === impl ResilienceLayer ===

impl ResilienceLayer {
    pub(super) fn new(limits: TimeoutProfile) -> Self {
        Self {
            grpc_status: GrpcStatusLayer::disabled(),
            profile: TimeoutProfileLayer::disabled(),
            heartbeat: SseHeartbeatLayer::disabled(),
            deadline: DeadlineLayer::new(limits.total),
            dedup: DedupLayer::disabled(),
            fallback: FallbackLayer::disabled(),
            retry: RetryAfterBackoffLayer::new(),
            breaker: CircuitBreakerLayer::new().configure(|config| {
                // A probe may be silent as long as any call, and no less long than by default.
                let probe_timeout = limits.first_byte.max(TimeoutProfile::EXTENDED_THINKING.first_byte);
                config.first_byte(limits.first_byte).probe_timeout(probe_timeout)
            }),
            idle: IdleBodyTimeoutLayer::new(limits.idle),
            first_byte: FirstByteTimeoutLayer::new(limits.first_byte),
        }
    }
}

impl<Bk> ResilienceLayer<Bk> {
    /// Adjusts the [`GrpcStatusLayer`].
    #[must_use]
    pub fn grpc_status(mut self, adjust: impl FnOnce(GrpcStatusLayer) -> GrpcStatusLayer) -> Self {
        self.grpc_status = adjust(self.grpc_status);
        self
    }

    /// Chooses the limits of time of each request; `None` is the preset's. See [`TimeoutProfileLayer`].
    ///
    /// To choose by the model that a body names, put an [`InspectRequestLayer`](crate::InspectRequestLayer) outside of the
    /// stack.
    #[must_use]
    pub fn profile(mut self, choose: impl Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync + 'static) -> Self {
        self.profile = TimeoutProfileLayer::new(choose);
        self
    }

    /// Adjusts the [`SseHeartbeatLayer`].
    #[must_use]
    pub fn heartbeat(mut self, adjust: impl FnOnce(SseHeartbeatLayer) -> SseHeartbeatLayer) -> Self {
        self.heartbeat = adjust(self.heartbeat);
        self
    }

    /// Adjusts the [`DeadlineLayer`].
    #[must_use]
    pub fn deadline(mut self, adjust: impl FnOnce(DeadlineLayer) -> DeadlineLayer) -> Self {
        self.deadline = adjust(self.deadline);
        self
    }

    /// Adjusts the [`DedupLayer`].
    #[must_use]
    pub fn dedup(mut self, adjust: impl FnOnce(DedupLayer) -> DedupLayer) -> Self {
        self.dedup = adjust(self.dedup);
        self
    }

    /// Asks a backup what the upstream cannot answer. The backup is given the same limits of time as an attempt, and no
    /// retries.
    #[must_use]
    pub fn fallback<B>(self, fallback: FallbackLayer<B>) -> ResilienceLayer<B> {
        ResilienceLayer {
            grpc_status: self.grpc_status,
            profile: self.profile,
            heartbeat: self.heartbeat,
            deadline: self.deadline,
            dedup: self.dedup,
            fallback,
            retry: self.retry,
            breaker: self.breaker,
            idle: self.idle,
            first_byte: self.first_byte,
        }
    }

    /// Adjusts the [`RetryAfterBackoffLayer`].
    #[must_use]
    pub fn retry(mut self, adjust: impl FnOnce(RetryAfterBackoffLayer) -> RetryAfterBackoffLayer) -> Self {
        self.retry = adjust(self.retry);
        self
    }

    /// Adjusts the [`CircuitBreakerLayer`]:
    ///
    /// ```
    /// use tower_buttress::{TimeoutProfile, presets};
    ///
    /// let mut circuit = None;
    /// let stack = presets::llm_client(TimeoutProfile::DEEP).breaker(|breaker| {
    ///     circuit = Some(breaker.handle());
    ///     breaker.configure(|config| config.failure_ratio(0.3))
    /// });
    /// # let _ = (stack, circuit);
    /// ```
    #[must_use]
    pub fn breaker(mut self, adjust: impl FnOnce(CircuitBreakerLayer) -> CircuitBreakerLayer) -> Self {
        self.breaker = adjust(self.breaker);
        self
    }

    /// Adjusts the [`IdleBodyTimeoutLayer`].
    #[must_use]
    pub fn idle(mut self, adjust: impl FnOnce(IdleBodyTimeoutLayer) -> IdleBodyTimeoutLayer) -> Self {
        self.idle = adjust(self.idle);
        self
    }

    /// Adjusts the [`FirstByteTimeoutLayer`].
    #[must_use]
    pub fn first_byte(mut self, adjust: impl FnOnce(FirstByteTimeoutLayer) -> FirstByteTimeoutLayer) -> Self {
        self.first_byte = adjust(self.first_byte);
        self
    }

    /// Tells `observer` what any of the layers did.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            grpc_status: self.grpc_status,
            profile: self.profile,
            heartbeat: self.heartbeat.observer(observer.clone()),
            deadline: self.deadline.observer(observer.clone()),
            dedup: self.dedup.observer(observer.clone()),
            fallback: self.fallback.observer(observer.clone()),
            retry: self.retry.observer(observer.clone()),
            breaker: self.breaker.observer(observer.clone()),
            idle: self.idle.observer(observer.clone()),
            first_byte: self.first_byte.observer(observer),
        }
    }

    fn attempt<S>(&self, inner: S) -> Attempt<S> {
        self.idle.layer(self.first_byte.layer(inner))
    }
}

impl<S, Bk: Clone> Layer<S> for ResilienceLayer<Bk> {
    type Service = Resilience<S, Bk>;

    fn layer(&self, inner: S) -> Self::Service {
        let fallback = self.fallback.map_backup(|backup| self.attempt(backup));
        let attempts = self.retry.layer(self.breaker.layer(self.attempt(inner)));
        let served = self.dedup.layer(fallback.layer(attempts));
        self.grpc_status.layer(self.profile.layer(self.heartbeat.layer(self.deadline.layer(served))))
    }
}
