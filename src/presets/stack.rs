//! Puts the layers of a preset around an upstream.
//!
//! # Why boxes, and not one type?
//!
//! A layer that is off but part of the type moves each request, future and response once more, and is polled for every
//! frame. So a layer that a preset may switch off stands around a box, and only when it is on. The layers of an attempt
//! that every preset has on are one type, and so are the layers around them that presets have on by default: each further
//! box is memory for every stream, and with many streams a cache miss.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::layer::{Backup, ResilienceLayer, UpstreamAdmission};
use super::service::Outer;
use super::upstream::{BoxedUpstream, SharedUpstream};
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::layers::deadline::DeadlineLayer;
use crate::layers::retry_after_backoff::RetryAfterBackoffLayer;
use crate::layers::sse_heartbeat::SseHeartbeatLayer;

impl ResilienceLayer {
    /// Puts the layers that see only the request around all others.
    pub(super) fn outer<E>(&self, stack: BoxedUpstream<E>) -> Outer<E> {
        let inspect = self.inspect.clone().memory(self.memory.clone());
        // A caller that sends slowly must not hold a place.
        let inspect = if self.admission.queue.is_enabled() { inspect.read_all(true) } else { inspect };
        inspect.layer(self.profile.layer(stack))
    }

    /// Puts the layers that see answers around `inner` and its backups.
    pub(super) fn stack<S, B>(&self, inner: S) -> BoxedUpstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let retry = self.retry.clone().memory(self.memory.clone()).or_classifier(&self.classifier);
        if self.is_one_upstream_with_a_deadline() {
            let attempts = self.attempts(inner, &self.admission, Some(&retry), Some(&self.deadline));
            return self.outside_of_deadline(attempts);
        }
        let primary = self.upstream(inner, &self.admission, Some(&retry));
        let upstreams = self.fallbacks.iter().fold(primary, |upstreams, backup| self.with_backup(backup, upstreams));
        #[cfg(feature = "llm")]
        if self.resume.is_enabled() {
            return self.around(self.resume.clone().memory(self.memory.clone()).layer(upstreams), BoxedUpstream::new);
        }
        self.around(upstreams, |upstreams| upstreams)
    }

    /// Whether the deadline stands around the attempts at a single upstream.
    fn is_one_upstream_with_a_deadline(&self) -> bool {
        #[cfg(feature = "llm")]
        if self.resume.is_enabled() {
            return false;
        }
        #[cfg(feature = "schema")]
        if self.structured.is_enabled() {
            return false;
        }
        self.deadline.is_enabled() && self.fallbacks.is_empty() && !self.dedup.is_enabled() && !self.has_extras()
    }

    /// Whether a layer between deadline and upstreams is on that every preset has off by default.
    fn has_extras(&self) -> bool {
        #[cfg(feature = "llm")]
        if self.last_good.is_enabled() {
            return true;
        }
        self.supersede.is_enabled() || self.callers.is_enabled()
    }

    /// Puts the layers that act on the upstreams' final answer around them.
    fn around<S, B>(&self, upstreams: S, boxed: impl FnOnce(S) -> BoxedUpstream<S::Error>) -> BoxedUpstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let dedup = self.dedup.clone().memory(self.memory.clone());
        if self.deadline.is_enabled() && !self.has_extras() {
            match (self.dedup.is_enabled(), self.heartbeat.is_enabled()) {
                (true, true) => {
                    let stack = self.heartbeats().layer(self.deadline.layer(dedup.layer(upstreams)));
                    return self.with_grpc_status(BoxedUpstream::new(stack));
                }
                (false, _) => return self.outside_of_deadline(BoxedUpstream::new(self.deadline.layer(upstreams))),
                (true, false) => {}
            }
        }
        let mut stack = boxed(upstreams);
        #[cfg(feature = "llm")]
        if self.last_good.is_enabled() {
            stack = BoxedUpstream::new(
                self.last_good.clone().memory(self.memory.clone()).or_classifier(&self.classifier).layer(stack),
            );
        }
        if self.dedup.is_enabled() {
            stack = BoxedUpstream::new(dedup.layer(stack));
        }
        if self.supersede.is_enabled() {
            stack = BoxedUpstream::new(self.supersede.clone().memory(self.memory.clone()).layer(stack));
        }
        if self.callers.is_enabled() {
            stack = BoxedUpstream::new(self.callers.clone().or_classifier(&self.classifier).layer(stack));
        }
        if self.deadline.is_enabled() {
            stack = BoxedUpstream::new(self.deadline.layer(stack));
        }
        self.outside_of_deadline(stack)
    }

    /// The heartbeats take over from dedup whether answers may come later, and from retries whether calls are retried.
    fn heartbeats(&self) -> SseHeartbeatLayer {
        let heartbeat = self.heartbeat.clone().or_respond_async(self.dedup.applies_respond_async());
        heartbeat.or_mark_exhausted(self.retry.marks_exhausted())
    }

    fn outside_of_deadline<E>(&self, mut stack: BoxedUpstream<E>) -> BoxedUpstream<E>
    where
        E: Error + Send + Sync + 'static,
    {
        if self.heartbeat.is_enabled() {
            stack = BoxedUpstream::new(self.heartbeats().layer(stack));
        }
        self.with_grpc_status(stack)
    }

    /// It could stand outside the timeout profile too: that changes no answer, and this no request.
    fn with_grpc_status<E>(&self, stack: BoxedUpstream<E>) -> BoxedUpstream<E>
    where
        E: Error + Send + Sync + 'static,
    {
        if self.grpc_status.is_enabled() { BoxedUpstream::new(self.grpc_status.layer(stack)) } else { stack }
    }

    /// Asks this backup when `upstreams` fail.
    fn with_backup<E>(&self, backup: &Backup, upstreams: BoxedUpstream<E>) -> BoxedUpstream<E>
    where
        E: Error + Send + Sync + 'static,
    {
        let layer = backup.layer.clone().map_backup(|inner| self.upstream(inner, &backup.admission, None));
        BoxedUpstream::new(layer.memory(self.memory.clone()).or_classifier(&self.classifier).layer(upstreams))
    }

    /// Builds one upstream with all its layers.
    fn upstream<S, B>(
        &self,
        inner: S,
        admission: &UpstreamAdmission,
        retry: Option<&RetryAfterBackoffLayer>,
    ) -> BoxedUpstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let attempts = self.attempts(inner, admission, retry, None);
        #[cfg(feature = "schema")]
        if self.structured.is_enabled() {
            return BoxedUpstream::new(self.structured.clone().memory(self.memory.clone()).layer(attempts));
        }
        attempts
    }

    /// The attempts at one upstream, within `deadline`.
    fn attempts<S, B>(
        &self,
        inner: S,
        admission: &UpstreamAdmission,
        retry: Option<&RetryAfterBackoffLayer>,
        deadline: Option<&DeadlineLayer>,
    ) -> BoxedUpstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        if !admission.is_enabled() && !self.watches_answers() {
            return retried(inner, retry, deadline);
        }
        let judged;
        let admission = if self.classifier.is_standard() {
            admission
        } else {
            judged = admission.or_classifier(&self.classifier);
            &judged
        };
        let timed = self.idle.layer(self.first_byte.layer(inner));
        #[cfg(feature = "llm")]
        if self.guard.is_enabled() {
            return admission.attempts(self.guard.clone().memory(self.memory.clone()).layer(timed), retry, deadline);
        }
        admission.attempts(timed, retry, deadline)
    }

    /// Whether a layer is on that reads the answer of an attempt.
    fn watches_answers(&self) -> bool {
        #[cfg(feature = "llm")]
        if self.guard.is_enabled() {
            return true;
        }
        self.idle.is_enabled() || self.first_byte.is_enabled()
    }
}

impl UpstreamAdmission {
    fn is_enabled(&self) -> bool {
        self.queue.is_enabled() || self.pace.is_enabled() || self.breaker.is_enabled()
    }

    fn attempts<S, B>(
        &self,
        inner: S,
        retry: Option<&RetryAfterBackoffLayer>,
        deadline: Option<&DeadlineLayer>,
    ) -> BoxedUpstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let Self { queue, pace, breaker } = self;
        let admitted = pace.layer(breaker.layer(inner));
        if queue.is_enabled() {
            return retried(queue.layer(BoxedUpstream::new(admitted)), retry, deadline);
        }
        retried(admitted, retry, deadline)
    }
}

/// The attempts of a call, within `deadline`.
fn retried<S, B>(
    attempt: S,
    retry: Option<&RetryAfterBackoffLayer>,
    deadline: Option<&DeadlineLayer>,
) -> BoxedUpstream<S::Error>
where
    S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Error + Send + Sync + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    match (retry.filter(|retry| retry.is_enabled()), deadline) {
        (Some(retry), Some(deadline)) => BoxedUpstream::new(deadline.layer(retry.layer(SharedUpstream::new(attempt)))),
        (Some(retry), None) => BoxedUpstream::new(retry.layer(SharedUpstream::new(attempt))),
        (None, Some(deadline)) => BoxedUpstream::new(deadline.layer(BoxedUpstream::new(attempt))),
        (None, None) => BoxedUpstream::new(attempt),
    }
}
