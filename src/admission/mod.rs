//! The kernel of the layers that admit calls: the circuit breaker, the queue, pacing.
//!
//! A gate ([`Admit`]) lets a call pass, has it wait, or refuses it. A call that passes holds a [`Permit`] until its
//! response body ends, and the permit is told exactly once how the call ended: whatever happens, a cancelled future, a
//! dropped body and a panic included. Service, future and body are written here, once.

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

pub(crate) use self::body::GuardedBody;
pub(crate) use self::caller::CallerHasher;
pub(crate) use self::future::GuardedFuture;
pub(crate) use self::service::Guarded;
use crate::error::BoxError;
use crate::rejection::Rejection;

/// Decides which calls pass. Cheap to clone: all services of one layer share what is behind it.
pub trait Admit: Clone + Send + Sync {
    /// What a call holds while it is under way.
    type Permit: Permit;
    /// The wait of a call that was neither admitted nor refused. Dropping it ends the wait, without a trace.
    type Wait: Wait<Permit = Self::Permit>;

    /// Whether a call that came now would most likely pass. Only then is the inner service asked beforehand whether it
    /// is ready: one that is ready may hold a place that others wait for.
    fn is_open(&self) -> bool;

    /// The inner service failed while it was asked.
    fn not_ready(&self, _err: &(dyn Error + 'static)) {}

    /// Decides on a call.
    fn admit<B>(&self, request: &mut Request<B>) -> Admission<Self::Permit, Self::Wait>
    where
        B: Body + 'static;
}

/// What becomes of a call that came to a gate.
#[derive(Debug)]
pub enum Admission<P, W> {
    /// It is none of the gate's business.
    Aside,
    /// It may be sent.
    Pass(P),
    /// It may be sent later, or not.
    Wait(W),
    /// It may not be sent.
    Refuse(Rejection),
}

/// A wait for a permit.
pub trait Wait: Unpin {
    /// What it ends with.
    type Permit;

    /// The permit, or why there is none. Not called again after that.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::Permit, Rejection>>;
}

/// Held by one call. [`end`](Self::end) is called exactly once, at the latest when the call is dropped.
pub trait Permit {
    /// Whether [`bytes`](Self::bytes) is to be called.
    const READS: bool = false;

    /// Polls the inner service's readiness, its future or its body, for a permit that must know when it is the upstream that
    /// is waited for.
    #[inline]
    fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        poll(cx)
    }

    /// The inner service is called now.
    #[inline]
    fn sent(&mut self) {}

    /// The head is here; `has_body`: and something follows it. Without a body the end follows at once, and so it does
    /// where there is no reason to watch.
    fn head<B: Body>(&mut self, response: &mut Response<B>, has_body: bool) -> Watch;

    /// Data is handed on, and the call is its consumer's until the next poll.
    #[inline]
    fn data(&mut self, _is_empty: bool) {}

    /// The data that is handed on.
    #[inline]
    fn bytes(&mut self, _data: &Bytes) {}

    /// Trailers are about to be handed on.
    fn trailers(&mut self, _trailers: &HeaderMap) {}

    /// The call is over.
    fn end(self, end: PermitEnd<'_>);
}

/// Whether a permit lives until the end of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It does.
    Body,
    /// It has seen enough: it [ends](Permit::end) with the head.
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
