//! Keeps idle clones of a service, so that a call need not clone the whole stack.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use http::Request;
use tower::{Service, ServiceExt};

/// A service, and idle clones of it. A call takes a clone, calls it once it is ready, and gives it back before it awaits the
/// answer. Cloning a whole stack costs as much as a small call.
pub(crate) struct IdleClones<S> {
    service: S,
    idle: Mutex<Vec<S>>,
}

/// Limit of idle clones; further ones are dropped.
const MOST: usize = 64;

// === impl IdleClones ===

impl<S: Clone> IdleClones<S> {
    pub(crate) fn new(service: S) -> Self {
        Self { service, idle: Mutex::default() }
    }

    /// Calls a clone once it is ready, and returns it to the pool before awaiting the answer.
    pub(crate) async fn call<B>(&self, request: Request<B>) -> Result<S::Response, S::Error>
    where
        S: Service<Request<B>>,
    {
        let mut service = self.take().unwrap_or_else(|| self.service.clone());
        let call = service.ready().await?.call(request);
        self.give_back(service);
        call.await
    }

    fn take(&self) -> Option<S> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, service: S) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST {
            idle.push(service);
        }
    }
}

impl<S> fmt::Debug for IdleClones<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleClones").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Poll};

    use futures_util::future::{self, BoxFuture};

    use super::*;

    /// Counts its clones; its calls last for a moment.
    struct Counted(Arc<AtomicUsize>);

    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Relaxed);
            Self(self.0.clone())
        }
    }

    impl Service<Request<()>> for Counted {
        type Response = ();
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<(), Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn calls_at_the_same_time_take_turns_with_one_clone() {
        let clones = Arc::<AtomicUsize>::default();
        let idle = IdleClones::new(Counted(clones.clone()));
        for _ in 0..3 {
            future::join_all((0..100).map(|_| idle.call(Request::new(())))).await;
        }
        assert_eq!(clones.load(Relaxed), 1);
    }
}
