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
use crate::rt::layered::Layered;

/// Names the call that events of the layers inside are about. See [`ObserveLayer`](crate::ObserveLayer).
pub type Observe<S> = Layered<S, (Option<Config>, Option<Figures>)>;

impl<S, B, R> Service<Request<B>> for Layered<S, (Option<Config>, Option<Figures>)>
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
        let (config, figures) = &self.config;
        let mut call = match config {
            None => return ObserveFuture::new(self.inner.call(request), None),
            Some(Config::Calls(calls)) => {
                let info = calls.info(&request);
                request.extensions_mut().insert(info.clone());
                let trace_span = Trace::begin(&mut request, calls.trace_context);
                ObservedCall::new(info, figures.as_ref(), trace_span, request.extensions_mut())
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
