use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ObserveBody;
use super::call::ObservedCall;
use super::config::Config;
use super::figures::Figures;
use super::future::ObserveFuture;
use super::trace::Trace;
use crate::call::Attempt;

/// Names the call that events of the layers inside are about. See [`ObserveLayer`](crate::ObserveLayer).
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    config: Option<Config>,
    figures: Option<Figures>,
}

// === impl Observe ===

impl<S> Observe<S> {
    pub(super) const fn new(inner: S, config: Option<Config>, figures: Option<Figures>) -> Self {
        Self { inner, config, figures }
    }

    /// The inner service.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    #[must_use]
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<ObserveBody<R>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut call = match &self.config {
            None => return ObserveFuture::new(self.inner.call(request), None),
            Some(Config::Calls(calls)) => {
                let info = calls.info(&request);
                request.extensions_mut().insert(info.clone());
                let trace_span = Trace::begin(&mut request, calls.trace_context);
                ObservedCall::new(info, self.figures.as_ref(), trace_span, request.extensions_mut())
            }
            Some(Config::Attempts(upstream)) => {
                let trace_span = Trace::attempt(&mut request);
                ObservedCall::attempt(upstream, Attempt::of(&request), trace_span, request.extensions())
            }
        };
        let inner = call.within(|| self.inner.call(request));
        ObserveFuture::new(inner, Some(call))
    }
}
