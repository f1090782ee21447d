//! An upstream that calls share: in a box, or as it is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::body::erased::ErasedBody;
use crate::body::request::CallBody;
use crate::error::{BoxError, BoxedError};
use crate::rt::per_thread::PerThread;
use crate::rt::ready::ReadyCall;

/// A service whose type is hidden, so that the stack around it has a nameable type, and nesting it stays within the
/// compiler's recursion limit.
///
/// Clones share the service. Each call uses its own clone of it, and waits for that clone's readiness: one allocation for
/// the clone and its call together, and one for the response's body.
pub(super) struct BoxedUpstream<E>(PerThread<dyn BoxedCall<E>>);

/// A service of which each call uses its own clone, and waits for that clone's readiness.
///
/// A layer that keeps a clone for a further attempt then shares the service instead of copying all its layers.
pub(super) struct SharedUpstream<S>(PerThread<S>);

type Answering<E> = Pin<Box<dyn Future<Output = Result<Response<ErasedBody>, E>> + Send>>;

trait BoxedCall<E>: Send + Sync {
    fn call(&self, request: Request<CallBody>) -> Answering<E>;
}

pin_project! {
    /// Hides the type of the response's body.
    struct ErasedCall<S: Service<Request<CallBody>>> {
        #[pin]
        call: ReadyCall<S, Request<CallBody>>,
    }
}

/// Keeps the service's error.
struct OwnError<S>(S);

/// Makes the service's error a [`BoxedError`].
struct BoxedErrorService<S>(S);

// === impl Upstream ===

impl<E> BoxedUpstream<E> {
    pub(super) fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<CallBody>, Response = Response<B>, Error = E, Future: Send> + Clone + Send + Sync + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        E: Send + 'static,
    {
        Self(PerThread::new(Arc::new(OwnError(service))))
    }
}

impl BoxedUpstream<BoxedError> {
    pub(super) fn with_any_error<S, B>(service: S) -> Self
    where
        S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(PerThread::new(Arc::new(BoxedErrorService(service))))
    }
}

impl<E> Service<Request<CallBody>> for BoxedUpstream<E> {
    type Response = Response<ErasedBody>;
    type Error = E;
    type Future = Answering<E>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> Answering<E> {
        self.0.call(request)
    }
}

impl<E> Clone for BoxedUpstream<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<E> fmt::Debug for BoxedUpstream<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upstream")
    }
}

// === impl SharedUpstream ===

impl<S> SharedUpstream<S> {
    pub(super) fn new(service: S) -> Self {
        Self(PerThread::new(Arc::new(service)))
    }
}

impl<S: Service<Request<CallBody>> + Clone> Service<Request<CallBody>> for SharedUpstream<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = ReadyCall<S, Request<CallBody>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CallBody>) -> Self::Future {
        ReadyCall::new(S::clone(&self.0), request)
    }
}

impl<S> Clone for SharedUpstream<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl BoxedCall ===

impl<S, B> BoxedCall<S::Error> for OwnError<S>
where
    S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Send + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn call(&self, request: Request<CallBody>) -> Answering<S::Error> {
        Box::pin(ErasedCall { call: ReadyCall::new(self.0.clone(), request) })
    }
}

impl<S, B> BoxedCall<BoxedError> for BoxedErrorService<S>
where
    S: Service<Request<CallBody>, Response = Response<B>, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError> + Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    fn call(&self, request: Request<CallBody>) -> Answering<BoxedError> {
        let call = ReadyCall::new(self.0.clone(), request);
        Box::pin(async move {
            let response = call.await.map_err(|err| BoxedError::new(err.into()))?;
            Ok(response.map(ErasedBody::new))
        })
    }
}

// === impl ErasedCall ===

impl<S, B> Future for ErasedCall<S>
where
    S: Service<Request<CallBody>, Response = Response<B>>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Output = Result<Response<ErasedBody>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll(cx).map_ok(|response| response.map(ErasedBody::new))
    }
}
