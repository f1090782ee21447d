//! How the layers of a preset are put around an upstream.
//!
//! # Why boxes, and not one type?
//!
//! A layer that is off, and is in the type all the same, moves each request, future and response once more, and is asked for every
//! frame. So a layer that a preset may have off stands around a box, and only where it is on. The layers of an attempt that every
//! preset has on are one type.

use std::error::Error;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::layer::{Admission, Backup, ResilienceLayer};
use super::service::Outer;
use super::upstream::Upstream;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::layers::retry_after_backoff::RetryAfterBackoffLayer;

impl ResilienceLayer {
    /// The layers that have to do with the request alone, around all others.
    pub(super) fn outer<E>(&self, stack: Upstream<E>) -> Outer<E> {
        let inspect = self.inspect.clone().memory(self.memory.clone());
        // Who sends slowly is not to hold a place.
        let inspect = if self.admission.queue.is_enabled() { inspect.read_all(true) } else { inspect };
        inspect.layer(self.profile.layer(stack))
    }

    /// The layers that have to do with answers, around `inner` and its backups.
    pub(super) fn stack<S, B>(&self, inner: S) -> Upstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut stack = self.flight(inner);
        #[cfg(feature = "llm")]
        if self.last_good.is_enabled() {
            stack = Upstream::new(self.last_good.clone().memory(self.memory.clone()).layer(stack));
        }
        if self.dedup.is_enabled() {
            stack = Upstream::new(self.dedup.clone().memory(self.memory.clone()).layer(stack));
        }
        if self.supersede.is_enabled() {
            stack = Upstream::new(self.supersede.clone().memory(self.memory.clone()).layer(stack));
        }
        if self.callers.is_enabled() {
            stack = Upstream::new(self.callers.layer(stack));
        }
        if self.deadline.is_enabled() {
            stack = Upstream::new(self.deadline.layer(stack));
        }
        if self.heartbeat.is_enabled() {
            let heartbeat = self.heartbeat.clone().or_respond_async(self.dedup.applies_respond_async());
            stack = Upstream::new(heartbeat.layer(stack));
        }
        // It could as well stand outside of the timeout profile: that one changes no answer, and this one no request.
        if self.grpc_status.is_enabled() {
            stack = Upstream::new(self.grpc_status.layer(stack));
        }
        stack
    }

    /// The upstreams, and what acts on the answer that they come to.
    fn flight<S, B>(&self, inner: S) -> Upstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let retry = self.retry.clone().memory(self.memory.clone());
        let primary = self.upstream(inner, &self.admission, Some(&retry));
        let upstreams = self.fallbacks.iter().fold(primary, |upstreams, backup| self.with_backup(backup, upstreams));
        #[cfg(feature = "llm")]
        if self.resume.is_enabled() {
            return Upstream::new(self.resume.clone().memory(self.memory.clone()).layer(upstreams));
        }
        upstreams
    }

    /// Asks this backup where `upstreams` fail.
    fn with_backup<E>(&self, backup: &Backup, upstreams: Upstream<E>) -> Upstream<E>
    where
        E: Error + Send + Sync + 'static,
    {
        let layer = backup.layer.clone().map_backup(|inner| self.upstream(inner, &backup.admission, None));
        Upstream::new(layer.memory(self.memory.clone()).layer(upstreams))
    }

    /// One upstream, with all that stands around it.
    fn upstream<S, B>(
        &self,
        inner: S,
        admission: &Admission,
        retry: Option<&RetryAfterBackoffLayer>,
    ) -> Upstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let attempts = self.attempts(inner, admission, retry);
        #[cfg(feature = "schema")]
        if self.structured.is_enabled() {
            return Upstream::new(self.structured.clone().memory(self.memory.clone()).layer(attempts));
        }
        attempts
    }

    /// The attempts at one upstream.
    fn attempts<S, B>(
        &self,
        inner: S,
        admission: &Admission,
        retry: Option<&RetryAfterBackoffLayer>,
    ) -> Upstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let timed = self.idle.layer(self.first_byte.layer(inner));
        #[cfg(feature = "llm")]
        if self.guard.is_enabled() {
            return admission.attempts(self.guard.clone().memory(self.memory.clone()).layer(timed), retry);
        }
        admission.attempts(timed, retry)
    }
}

impl Admission {
    fn attempts<S, B>(&self, inner: S, retry: Option<&RetryAfterBackoffLayer>) -> Upstream<S::Error>
    where
        S: Service<Request<CallBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Error + Send + Sync + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Self { queue, pace, breaker } = self;
        let admitted = pace.layer(breaker.layer(inner));
        match retry {
            Some(retry) if !queue.is_enabled() => Upstream::new(retry.layer(admitted)),
            None if !queue.is_enabled() => Upstream::new(admitted),
            retry => {
                let queued = queue.layer(Upstream::new(admitted));
                match retry {
                    Some(retry) => Upstream::new(retry.layer(queued)),
                    None => Upstream::new(queued),
                }
            }
        }
    }
}
