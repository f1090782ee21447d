use std::fmt;
use std::task::{Context, Poll};

use http::Request;
use tower_service::Service;

use super::config::Choose;

/// Sets the time limits of each request. See [`TimeoutProfileLayer`](crate::TimeoutProfileLayer).
///
/// It is not called `TimeoutProfile`, since that is the name of the [limits](crate::TimeoutProfile) themselves.
#[derive(Clone)]
pub struct TimeoutProfileService<S> {
    inner: S,
    choose: Option<Choose>,
}

// === impl TimeoutProfileService ===

impl<S> TimeoutProfileService<S> {
    pub(super) fn new(inner: S, choose: Option<Choose>) -> Self {
        Self { inner, choose }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for TimeoutProfileService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(choose) = &self.choose else { return self.inner.call(request) };
        let (mut head, body) = request.into_parts();
        if let Some(profile) = choose(&head) {
            head.extensions.insert(profile);
        }
        self.inner.call(Request::from_parts(head, body))
    }
}

impl<S: fmt::Debug> fmt::Debug for TimeoutProfileService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutProfileService")
            .field("inner", &self.inner)
            .field("enabled", &self.choose.is_some())
            .finish()
    }
}
