use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::service::Resilience;
use super::upstream::BoxedUpstream;
use crate::body::request::CallBody;
use crate::call::Memory;
use crate::error::{BoxError, BoxedError, InvalidConfig};
use crate::event::{Emitter, Event, Observer};
use crate::layers::circuit_breaker::CircuitBreakerLayer;
use crate::layers::deadline::DeadlineLayer;
use crate::layers::dedup::DedupLayer;
use crate::layers::fallback::FallbackLayer;
use crate::layers::first_byte_timeout::FirstByteTimeoutLayer;
use crate::layers::grpc_status::GrpcStatusLayer;
use crate::layers::idle_body_timeout::IdleBodyTimeoutLayer;
use crate::layers::inspect_request::InspectRequestLayer;
#[cfg(feature = "llm")]
use crate::layers::last_good::LastGoodLayer;
use crate::layers::pace::PaceLayer;
use crate::layers::queue::QueueLayer;
#[cfg(feature = "llm")]
use crate::layers::resume::ResumeLayer;
use crate::layers::retry_after_backoff::RetryAfterBackoffLayer;
use crate::layers::sse_heartbeat::SseHeartbeatLayer;
#[cfg(feature = "llm")]
use crate::layers::stream_guard::StreamGuardLayer;
#[cfg(feature = "schema")]
use crate::layers::structured_output::StructuredOutputLayer;
use crate::layers::supersede::SupersedeLayer;
use crate::layers::timeout_profile::TimeoutProfileLayer;
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::verdict::{Classifier, Classify};

/// All layers around one upstream, outermost first: inspection of the request, gRPC status, timeout profile, heartbeats,
/// deadline, limits per caller (off), supersede (off), dedup, last good answers and resume (feature `llm`), fallback,
/// structured output (feature `schema`), retries, queue, pace, breaker, stream guard (feature `llm`), idle timeout,
/// first-byte timeout.
///
/// Made by one of the [presets](crate::presets). Each method except [`fallback`](Self::fallback) passes the preset's
/// layer to a closure, which returns its replacement: the same layer adjusted, another, or its `disabled()`.
///
/// Clones of a stack, and all services that it makes, share one retry budget, one breaker and one store.
///
/// The client inside takes requests with a [`CallBody`]. It must be `Clone`, `Send` and `Sync`, its future `Send`, and
/// its error an [`Error`]; for a [`BoxError`], put an [`AnyErrorLayer`](crate::AnyErrorLayer) between. The stack's
/// service has a nameable type, [`Resilience`].
#[derive(Clone, Debug)]
pub struct ResilienceLayer {
    /// The fault in the time limits.
    misconfigured: Option<InvalidConfig>,
    pub(super) inspect: InspectRequestLayer,
    pub(super) grpc_status: GrpcStatusLayer,
    pub(super) profile: TimeoutProfileLayer,
    pub(super) heartbeat: SseHeartbeatLayer,
    pub(super) deadline: DeadlineLayer,
    pub(super) callers: PaceLayer,
    pub(super) supersede: SupersedeLayer,
    pub(super) dedup: DedupLayer,
    #[cfg(feature = "llm")]
    pub(super) last_good: LastGoodLayer,
    #[cfg(feature = "llm")]
    pub(super) resume: ResumeLayer,
    pub(super) fallbacks: Vec<Backup>,
    pub(super) memory: Memory,
    pub(super) classifier: Classifier,
    #[cfg(feature = "schema")]
    pub(super) structured: StructuredOutputLayer,
    pub(super) retry: RetryAfterBackoffLayer,
    pub(super) admission: UpstreamAdmission,
    #[cfg(feature = "llm")]
    pub(super) guard: StreamGuardLayer,
    pub(super) idle: IdleBodyTimeoutLayer,
    pub(super) first_byte: FirstByteTimeoutLayer,
}

/// A backup with its own admission.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    pub(super) layer: FallbackLayer<BoxedUpstream<BoxedError>>,
    pub(super) admission: UpstreamAdmission,
}

/// The layers that admit calls to one upstream.
#[derive(Clone, Debug)]
pub(super) struct UpstreamAdmission {
    pub(super) queue: QueueLayer,
    pub(super) pace: PaceLayer,
    pub(super) breaker: CircuitBreakerLayer,
}

// === impl ResilienceLayer ===

impl ResilienceLayer {
    pub(super) fn new(limits: TimeoutProfile) -> Self {
        let misconfigured = limits.check().err();
        if let Some(error) = misconfigured {
            Emitter::default().emit(&Event::Misconfigured { error });
        }
        Self {
            misconfigured,
            inspect: InspectRequestLayer::disabled(),
            grpc_status: GrpcStatusLayer::disabled(),
            profile: TimeoutProfileLayer::disabled(),
            heartbeat: SseHeartbeatLayer::disabled(),
            deadline: DeadlineLayer::new(limits.total),
            callers: PaceLayer::disabled(),
            supersede: SupersedeLayer::disabled(),
            dedup: DedupLayer::disabled(),
            #[cfg(feature = "llm")]
            last_good: LastGoodLayer::disabled(),
            #[cfg(feature = "llm")]
            resume: ResumeLayer::disabled(),
            fallbacks: Vec::new(),
            memory: Memory::default(),
            classifier: Classifier::STANDARD,
            #[cfg(feature = "schema")]
            structured: StructuredOutputLayer::disabled(),
            retry: RetryAfterBackoffLayer::new(),
            admission: UpstreamAdmission {
                queue: QueueLayer::disabled(),
                pace: PaceLayer::new(),
                breaker: CircuitBreakerLayer::new().key_by_model().configure(|config| {
                    // A probe gets the longest first-byte limit of any call, and at least the default.
                    let patience = limits.first_byte.max(limits.answer);
                    let probe_timeout = patience.max(TimeoutProfile::EXTENDED_THINKING.first_byte);
                    config.first_byte(limits.first_byte).probe_timeout(probe_timeout)
                }),
            },
            #[cfg(feature = "llm")]
            guard: StreamGuardLayer::disabled(),
            idle: IdleBodyTimeoutLayer::new(limits.idle),
            first_byte: FirstByteTimeoutLayer::new(limits.first_byte),
        }
    }

    /// Adjusts the [`InspectRequestLayer`].
    #[must_use]
    pub fn inspect(mut self, adjust: impl FnOnce(InspectRequestLayer) -> InspectRequestLayer) -> Self {
        self.inspect = adjust(self.inspect);
        self
    }

    /// Adjusts the [`GrpcStatusLayer`].
    #[must_use]
    pub fn grpc_status(mut self, adjust: impl FnOnce(GrpcStatusLayer) -> GrpcStatusLayer) -> Self {
        self.grpc_status = adjust(self.grpc_status);
        self
    }

    /// Chooses the time limits of each request; `None` keeps the preset's. See [`TimeoutProfileLayer`].
    ///
    /// To choose by the model that a body names, put an [`InspectRequestLayer`](crate::InspectRequestLayer) outside the
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

    /// Adjusts the [`PaceLayer`] that limits each caller, which is off. It stands outside all layers that answer without
    /// the upstream, and counts those answers too:
    ///
    /// ```
    /// use tower_buttress::{PaceLayer, Rate, TimeoutProfile, presets};
    ///
    /// let limits = PaceLayer::per_caller().requests(Rate::per_minute(120)).concurrency(8);
    /// let stack = presets::llm_gateway(TimeoutProfile::DEEP).pace_per_caller(|_| limits);
    /// # let _ = stack;
    /// ```
    #[must_use]
    pub fn pace_per_caller(mut self, adjust: impl FnOnce(PaceLayer) -> PaceLayer) -> Self {
        self.callers = adjust(self.callers);
        self
    }

    /// Adjusts the [`SupersedeLayer`], which is off: only the application knows what identifies a conversation.
    ///
    /// ```
    /// use http::HeaderName;
    /// use tower_buttress::{SupersedeLayer, TimeoutProfile, presets};
    ///
    /// let conversations = SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id"));
    /// let stop = conversations.handle();
    /// let stack = presets::llm_gateway(TimeoutProfile::DEEP).supersede(|_| conversations);
    /// # let _ = (stack, stop);
    /// ```
    #[must_use]
    pub fn supersede(mut self, adjust: impl FnOnce(SupersedeLayer) -> SupersedeLayer) -> Self {
        self.supersede = adjust(self.supersede);
        self
    }

    /// Adjusts the [`DedupLayer`].
    #[must_use]
    pub fn dedup(mut self, adjust: impl FnOnce(DedupLayer) -> DedupLayer) -> Self {
        self.dedup = adjust(self.dedup);
        self
    }

    /// Adjusts the [`LastGoodLayer`], which is off:
    ///
    /// ```
    /// use tower_buttress::{LastGoodLayer, TimeoutProfile, presets};
    ///
    /// let stack = presets::llm_gateway(TimeoutProfile::STANDARD).last_good(|_| LastGoodLayer::new());
    /// # let _ = stack;
    /// ```
    #[cfg(feature = "llm")]
    #[must_use]
    pub fn last_good(mut self, adjust: impl FnOnce(LastGoodLayer) -> LastGoodLayer) -> Self {
        self.last_good = adjust(self.last_good);
        self
    }

    /// Adjusts the [`ResumeLayer`].
    #[cfg(feature = "llm")]
    #[must_use]
    pub fn resume(mut self, adjust: impl FnOnce(ResumeLayer) -> ResumeLayer) -> Self {
        self.resume = adjust(self.resume);
        self
    }

    /// Adds a backup for calls that the upstream cannot answer. Backups are asked in the order in which they were added.
    ///
    /// A backup has the same time limits as an attempt, and its own circuit: while that is open, the backup is skipped.
    /// It gets one attempt, without retries.
    ///
    /// ```
    /// use hyper_util::client::legacy::Client;
    /// use hyper_util::rt::TokioExecutor;
    /// use tower::Layer;
    /// use tower_buttress::{CallBody, FallbackLayer, TimeoutProfile, presets};
    ///
    /// let client = Client::builder(TokioExecutor::new()).build_http::<CallBody>();
    /// let service = presets::llm_client(TimeoutProfile::STANDARD)
    ///     .fallback(FallbackLayer::new(client.clone()).name("eu-west"))
    ///     .layer(client);
    /// # let _ = service;
    /// ```
    #[must_use]
    pub fn fallback<Bk, B>(mut self, fallback: FallbackLayer<Bk>) -> Self
    where
        Bk: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        Bk::Error: Into<BoxError> + Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let layer = fallback.map_backup(BoxedUpstream::with_any_error);
        self.fallbacks.push(Backup { layer, admission: self.admission.separate() });
        self
    }

    /// Adjusts the [`StructuredOutputLayer`], which is off. It stands around each upstream.
    ///
    /// ```
    /// use tower_buttress::{StructuredOutputLayer, TimeoutProfile, presets};
    ///
    /// let stack = presets::llm_client(TimeoutProfile::STANDARD).structured_output(|_| StructuredOutputLayer::new());
    /// # let _ = stack;
    /// ```
    #[cfg(feature = "schema")]
    #[must_use]
    pub fn structured_output(mut self, adjust: impl FnOnce(StructuredOutputLayer) -> StructuredOutputLayer) -> Self {
        self.structured = adjust(self.structured);
        self
    }

    /// Adjusts the [`RetryAfterBackoffLayer`].
    #[must_use]
    pub fn retry(mut self, adjust: impl FnOnce(RetryAfterBackoffLayer) -> RetryAfterBackoffLayer) -> Self {
        self.retry = adjust(self.retry);
        self
    }

    /// Adjusts the [`CircuitBreakerLayer`]. Each backup has its own circuit with the same settings:
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
        self.admission.breaker = adjust(self.admission.breaker);
        for backup in &mut self.fallbacks {
            backup.admission.breaker = self.admission.breaker.separate();
        }
        self
    }

    /// Adjusts the [`PaceLayer`], which by default only makes calls wait after a 429. Each backup has its own limits with
    /// the same settings:
    ///
    /// ```
    /// use tower_buttress::{Rate, TimeoutProfile, presets};
    ///
    /// let stack = presets::llm_client(TimeoutProfile::DEEP).pace(|pace| pace.requests(Rate::per_minute(500)));
    /// # let _ = stack;
    /// ```
    #[must_use]
    pub fn pace(mut self, adjust: impl FnOnce(PaceLayer) -> PaceLayer) -> Self {
        self.admission.pace = adjust(self.admission.pace);
        for backup in &mut self.fallbacks {
            backup.admission.pace = self.admission.pace.separate();
        }
        self
    }

    /// Adjusts the [`QueueLayer`], which is off. Each backup has its own places with the same settings. When it is on,
    /// the stack [reads](InspectRequestLayer::read_all) requests before they take a place, up to 2 MiB and for 30 s. A
    /// longer or slower request holds one of a quarter of the places while the rest of it is sent:
    ///
    /// ```
    /// use tower_buttress::{QueueLayer, TimeoutProfile, presets};
    ///
    /// let stack = presets::llm_client(TimeoutProfile::DEEP).queue(|_| QueueLayer::new(20));
    /// # let _ = stack;
    /// ```
    #[must_use]
    pub fn queue(mut self, adjust: impl FnOnce(QueueLayer) -> QueueLayer) -> Self {
        self.admission.queue = adjust(self.admission.queue);
        for backup in &mut self.fallbacks {
            backup.admission.queue = self.admission.queue.separate();
        }
        self
    }

    /// Adjusts the [`StreamGuardLayer`].
    #[cfg(feature = "llm")]
    #[must_use]
    pub fn guard(mut self, adjust: impl FnOnce(StreamGuardLayer) -> StreamGuardLayer) -> Self {
        self.guard = adjust(self.guard);
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

    /// Reports the events of all layers to `observer`.
    #[must_use]
    pub fn observer(self, observer: Arc<dyn Observer>) -> Self {
        let observed = |backup: Backup| Backup {
            layer: backup.layer.observer(observer.clone()),
            admission: backup.admission.observer(&observer),
        };
        if let Some(error) = self.misconfigured {
            observer.on_event(&Event::Misconfigured { error }, None);
        }
        Self {
            misconfigured: self.misconfigured,
            inspect: self.inspect.observer(observer.clone()),
            grpc_status: self.grpc_status,
            profile: self.profile,
            heartbeat: self.heartbeat.observer(observer.clone()),
            deadline: self.deadline.observer(observer.clone()),
            callers: self.callers.observer(observer.clone()),
            supersede: self.supersede.observer(observer.clone()),
            dedup: self.dedup.observer(observer.clone()),
            #[cfg(feature = "llm")]
            last_good: self.last_good.observer(observer.clone()),
            #[cfg(feature = "llm")]
            resume: self.resume.observer(observer.clone()),
            fallbacks: self.fallbacks.into_iter().map(observed).collect(),
            memory: self.memory,
            classifier: self.classifier,
            #[cfg(feature = "schema")]
            structured: self.structured.observer(observer.clone()),
            retry: self.retry.observer(observer.clone()),
            admission: self.admission.observer(&observer),
            #[cfg(feature = "llm")]
            guard: self.guard.observer(observer.clone()),
            idle: self.idle.observer(observer.clone()),
            first_byte: self.first_byte.observer(observer),
        }
    }

    /// The memory in which the layers count the data of all calls, in place of the stack's own 512 MiB: to share it with
    /// other stacks, or to show it in a gauge. It replaces the memory of every layer.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }

    /// Sets the classifier, which decides what answers and errors mean, of every layer that asks one: retries, fallbacks,
    /// breakers, queues, pace and last good answers, whenever they are added. A layer's own classifier takes precedence.
    /// Default: [`Standard`](crate::verdict::Standard).
    ///
    /// ```
    /// use http::StatusCode;
    /// use tower_buttress::verdict::{Classify, Health, NextStep, Outcome, Standard, Verdict};
    /// use tower_buttress::{TimeoutProfile, presets};
    ///
    /// let standard = Standard::new();
    /// let stack = presets::http_client(TimeoutProfile::STANDARD).classifier(move |outcome: &Outcome<'_>| {
    ///     match outcome.status() {
    ///         // This upstream says so when it is overloaded.
    ///         Some(StatusCode::FORBIDDEN) => Verdict::new(NextStep::retry(None), Health::Throttled),
    ///         _ => standard.classify(outcome),
    ///     }
    /// });
    /// # let _ = stack;
    /// ```
    #[must_use]
    pub fn classifier(mut self, classifier: impl Classify + 'static) -> Self {
        self.classifier = Classifier::new(classifier);
        self
    }
}

// === impl UpstreamAdmission ===

impl UpstreamAdmission {
    /// Returns the same settings for another upstream.
    fn separate(&self) -> Self {
        Self { queue: self.queue.separate(), pace: self.pace.separate(), breaker: self.breaker.separate() }
    }

    pub(super) fn or_classifier(&self, of_stack: &Classifier) -> Self {
        Self {
            queue: self.queue.clone().or_classifier(of_stack),
            pace: self.pace.clone().or_classifier(of_stack),
            breaker: self.breaker.clone().or_classifier(of_stack),
        }
    }

    fn observer(self, observer: &Arc<dyn Observer>) -> Self {
        Self {
            queue: self.queue.observer(observer.clone()),
            pace: self.pace.observer(observer.clone()),
            breaker: self.breaker.observer(observer.clone()),
        }
    }
}

impl<S, B> Layer<S> for ResilienceLayer
where
    S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Error + Send + Sync + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Service = Resilience<S>;

    fn layer(&self, inner: S) -> Resilience<S> {
        Resilience::new(self.outer(self.stack(inner)))
    }
}
