//! The kernel of the layers that admit calls: the circuit breaker, the queue, pacing.
//!
//! A gate ([`Admit`]) admits a call, makes it wait, or refuses it. An admitted call holds a [`Permit`] until its response
//! body ends. The permit learns exactly once how the call ended, also after a cancelled future, a dropped body or a
//! panic. All layers share this service, future and body.

mod body;
mod caller;
mod future;
mod held;
mod service;

use std::error::Error;
use std::mem;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::Body;

pub use self::body::GuardedBody;
pub(crate) use self::caller::CallerHasher;
pub use self::future::GuardedFuture;
pub use self::service::Guarded;
use crate::error::BoxError;
use crate::rejection::Rejection;

/// Decides which calls pass. Cheap to clone: all services of one layer share its state.
pub trait Admit: Clone + Send + Sync {
    /// Held by a call in flight.
    type Permit: Permit;
    /// The wait of a call that was neither admitted nor refused. Dropping it ends the wait.
    type Wait: Wait<Permit = Self::Permit>;

    /// Whether a new call would most likely pass. Only then is the inner service polled for readiness beforehand: a ready
    /// service may hold a place that others wait for.
    fn is_open(&self) -> bool;

    /// The inner service failed while it was polled for readiness.
    fn not_ready(&self, _err: &(dyn Error + 'static)) {}

    /// Decides on a call.
    fn admit<B>(&self, request: &mut Request<B>) -> Admission<Self::Permit, Self::Wait>
    where
        B: Body + 'static;
}

/// The decision on a call.
#[derive(Debug)]
pub enum Admission<P, W> {
    /// The gate does not handle this call.
    Aside,
    /// Send it.
    Pass(P),
    /// Let it wait.
    Wait(W),
    /// Refuse it.
    Refuse(Rejection),
}

/// A wait for a permit.
pub trait Wait: Unpin {
    /// The result of the wait.
    type Permit;

    /// Returns the permit, or the refusal. Not polled again after that.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::Permit, Rejection>>;
}

/// Held by one call. [`end`](Self::end) is called exactly once, at the latest when the call is dropped.
pub trait Permit {
    /// Whether [`bytes`](Self::bytes) is called.
    const READS: bool = false;

    /// Polls the inner service's readiness, its future or its body, for a permit that must know when the wait is for the
    /// upstream.
    #[inline]
    fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(cx)
    }

    /// The inner service is being called.
    #[inline]
    fn sent(&mut self) {}

    /// The head has arrived; `has_body`: a body follows it. Without a body, or without a need to watch it,
    /// [`end`](Self::end) follows at once.
    fn head<B: Body>(&mut self, response: &mut Response<B>, has_body: bool) -> Watch;

    /// Data is forwarded; until the next poll the wait is for the consumer.
    #[inline]
    fn data(&mut self, _is_empty: bool) {}

    /// The forwarded data.
    #[inline]
    fn bytes(&mut self, _data: &Bytes) {}

    /// Trailers are about to be forwarded.
    fn trailers(&mut self, _trailers: &HeaderMap) {}

    /// The call has ended.
    fn end(self, end: PermitEnd<'_>);
}

/// Whether a permit lives until the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Until the end of the body.
    Body,
    /// It [ends](Permit::end) with the head.
    Nothing,
}

/// How a call ended.
#[derive(Clone, Copy, Debug)]
pub enum PermitEnd<'a> {
    /// There was no head but an error, of the service's readiness or of its answer.
    Failed(&'a (dyn Error + 'static)),
    /// With its head, because no body follows or none is watched.
    Head,
    /// With its body.
    Complete,
    /// Its body broke off.
    Broken(&'a BoxError),
    /// Its caller went away, before the head or in the body.
    Dropped,
    /// The inner service or its body panicked.
    Panicked,
}

/// Lends the head of a request to `look`, and puts it back.
pub(crate) fn with_head<B, T>(request: &mut Request<B>, look: impl FnOnce(&Parts) -> T) -> T {
    let (mut parts, ()) = Request::new(()).into_parts();
    let mut swap = |parts: &mut Parts| {
        mem::swap(&mut parts.method, request.method_mut());
        mem::swap(&mut parts.uri, request.uri_mut());
        mem::swap(&mut parts.version, request.version_mut());
        mem::swap(&mut parts.headers, request.headers_mut());
        mem::swap(&mut parts.extensions, request.extensions_mut());
    };
    swap(&mut parts);
    let seen = look(&parts);
    swap(&mut parts);
    seen
}

/// Shows a number to the feature `metrics`.
#[inline]
pub(crate) fn gauge(name: &'static str, layer: &'static str, value: impl FnOnce() -> f64) {
    #[cfg(feature = "metrics")]
    metrics::gauge!(name, "layer" => layer).set(value());
    #[cfg(not(feature = "metrics"))]
    let _ = (name, layer, value);
}

/// Changes such a number.
#[inline]
pub(crate) fn gauge_add(name: &'static str, layer: &'static str, change: f64) {
    #[cfg(feature = "metrics")]
    metrics::gauge!(name, "layer" => layer).increment(change);
    #[cfg(not(feature = "metrics"))]
    let _ = (name, layer, change);
}
