//! Readiness belongs to one clone of a service.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

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
    /// Waits until a service is ready, and calls it.
    ///
    /// For layers that have work to do before they know whether to call the service inside: until then they hold no
    /// readiness, which may be a place that others wait for.
    #[project = ReadyCallProj]
    pub(crate) enum ReadyCall<S, R>
    where
        S: Service<R>,
    {
        Waiting { service: S, request: Option<R> },
        Called { #[pin] call: S::Future },
    }
}

// === impl ReadyCall ===

impl<S: Service<R>, R> ReadyCall<S, R> {
    /// A call to a service that has not been polled ready.
    pub(crate) fn new(service: S, request: R) -> Self {
        Self::Waiting { service, request: Some(request) }
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
                ReadyCallProj::Waiting { service, request } => {
                    ready!(service.poll_ready(cx))?;
                    // Polled again after it failed.
                    let Some(request) = request.take() else { return Poll::Pending };
                    service.call(request)
                }
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
