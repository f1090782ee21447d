//! An upstream, or a chain of them, in a box: one type for chains of any length.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::Service;
use tower_buttress::error::{BoxError, BoxedError};
use tower_buttress::{CallBody, InvalidOutput};

use super::answer_body::AnswerBody;

/// A service in a box. Clones share it. A call makes its own clone of the service, in one allocation with its future.
#[derive(Clone)]
pub(crate) struct UpstreamBox(Arc<dyn UpstreamService>);

type UpstreamFuture = BoxFuture<'static, Result<Response<AnswerBody>, BoxedError>>;

trait UpstreamService: Send + Sync {
    fn call(&self, request: Request<CallBody>) -> UpstreamFuture;
}

struct Unboxed<S>(S);

/// On an answer that is not valid JSON even after the model was asked again.
const OUTPUT: HeaderName = HeaderName::from_static("x-gateway-output");

// === impl UpstreamBox ===

impl UpstreamBox {
    pub(crate) fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<CallBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
        B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
    {
        Self(Arc::new(Unboxed(service)))
    }
}

impl Service<Request<CallBody>> for UpstreamBox {
    type Response = Response<AnswerBody>;
    type Error = BoxedError;
    type Future = UpstreamFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxedError>> {
        // Each call waits for its own clone.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> UpstreamFuture {
        self.0.call(request)
    }
}

impl fmt::Debug for UpstreamBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBox").finish_non_exhaustive()
    }
}

// === impl Unboxed ===

impl<S, B> UpstreamService for Unboxed<S>
where
    S: Service<Request<CallBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    fn call(&self, request: Request<CallBody>) -> UpstreamFuture {
        let mut service = self.0.clone();
        Box::pin(async move {
            let failed = |error: S::Error| BoxedError::new(error.into());
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(failed)?;
            let mut response = service.call(request).await.map_err(failed)?;
            if InvalidOutput::of(&response).is_some() {
                response.headers_mut().insert(OUTPUT, HeaderValue::from_static("invalid"));
            }
            Ok(response.map(BodyExt::boxed_unsync))
        })
    }
}
