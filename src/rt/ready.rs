//! Readiness belongs to one clone of a service.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

/// Takes the service that was polled ready, and leaves a fresh clone in its place.
///
/// Each clone has its own readiness (tower's contract; a tonic `Channel` panics when called without it), so the future
/// must own the value whose `poll_ready` succeeded.
pub(crate) fn take_ready<S: Clone>(service: &mut S) -> S {
    let fresh = service.clone();
    mem::replace(service, fresh)
}

pin_project! {
    /// Calls a service when it is ready.
    ///
    /// For layers that have work to do before they know whether to call the service inside: until then they hold no
    /// readiness, which may be a place that others wait for.
    #[project = ReadyCallProj]
    pub(crate) enum ReadyCall<S, R>
    where
        S: Service<R>,
    {
        Parked { parked: Box<UnreadyCall<S, R>> },
        Called { #[pin] call: S::Future },
        Failed { err: Option<Box<S::Error>> },
    }
}

/// A call that was not made yet. Boxed, so that every other future is not as large as a request.
pub(crate) struct UnreadyCall<S, R> {
    service: S,
    /// Taken when it is sent.
    request: Option<R>,
}

// === impl ReadyCall ===

impl<S: Service<R>, R> ReadyCall<S, R> {
    /// A call to a service that has not been polled ready. Most services are ready, and the call is made at once;
    /// otherwise the service is polled again inside the call.
    pub(crate) fn new(mut service: S, request: R) -> Self {
        match service.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Self::called(service.call(request)),
            Poll::Ready(Err(err)) => Self::Failed { err: Some(Box::new(err)) },
            Poll::Pending => Self::parked(service, request),
        }
    }

    /// A call that is not made before this is polled.
    pub(crate) fn parked(service: S, request: R) -> Self {
        Self::Parked { parked: Box::new(UnreadyCall { service, request: Some(request) }) }
    }

    /// A call in progress.
    pub(crate) fn called(call: S::Future) -> Self {
        Self::Called { call }
    }
}

impl<S: Service<R>, R> Future for ReadyCall<S, R> {
    type Output = Result<S::Response, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let call = match self.as_mut().project() {
                ReadyCallProj::Called { call } => return call.poll(cx),
                ReadyCallProj::Parked { parked } => {
                    ready!(parked.service.poll_ready(cx))?;
                    // Polled again after it failed.
                    let Some(request) = parked.request.take() else { return Poll::Pending };
                    parked.service.call(request)
                }
                ReadyCallProj::Failed { err } => return err.take().map_or(Poll::Pending, |err| Poll::Ready(Err(*err))),
            };
            self.set(Self::Called { call });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Identifies the clone, and whether it was polled ready: readiness is not cloned.
    #[derive(Debug, Default)]
    struct Channel {
        ready: bool,
    }

    impl Clone for Channel {
        fn clone(&self) -> Self {
            Self::default()
        }
    }

    #[test]
    fn what_was_polled_ready_is_what_is_taken() {
        let mut service = Channel { ready: true };
        assert!(take_ready(&mut service).ready);
        assert!(!service.ready);
    }
}
