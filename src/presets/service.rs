//! The service of a preset: one nameable type for any set of layers.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::upstream::BoxedUpstream;
use crate::body::boxed::Polled;
use crate::body::erased::ErasedBody;
use crate::body::request::CallBody;
use crate::error::BoxError;
use crate::layers::inspect_request::InspectRequest;
use crate::layers::timeout_profile::TimeoutProfileService;
use crate::rt::clock;

/// The layers that see only the request, around all others in a box.
pub(super) type Outer<E> = InspectRequest<TimeoutProfileService<BoxedUpstream<E>>>;

type OuterFuture<E> = <Outer<E> as Service<Request<CallBody>>>::Future;

/// A client `S` with the layers of a [preset](crate::presets) around it. Made by
/// [`ResilienceLayer`](super::ResilienceLayer).
///
/// It takes requests with any body, answers with a [`ResilienceBody`], and fails with the client's own error. It is
/// always ready: each call waits for its own clone of the client, within the limits of the call.
///
/// Its type can be named, in a struct or the state of an application:
///
/// ```
/// use bytes::Bytes;
/// use hyper_util::client::legacy::{Client, connect::HttpConnector};
/// use hyper_util::rt::TokioExecutor;
/// use tower::Layer;
/// use tower_buttress::presets::{self, Resilience};
/// use tower_buttress::{CallBody, FallbackLayer, TimeoutProfile};
///
/// #[derive(Clone)]
/// struct App {
///     model: Resilience<Client<HttpConnector, CallBody>>,
/// }
///
/// let client = Client::builder(TokioExecutor::new()).build_http();
/// let stack = presets::llm_client(TimeoutProfile::STANDARD).fallback(FallbackLayer::new(client.clone()));
/// let app = App { model: stack.layer(client) };
///
/// // Boxed, where not even the client is to be named:
/// let request = http::Request::new(http_body_util::Full::<Bytes>::default());
/// let boxed = tower::util::BoxCloneSyncService::new(app.model.clone());
/// # let _ = tower::ServiceExt::oneshot(boxed, request);
/// ```
pub struct Resilience<S: Service<Request<CallBody>>> {
    outer: Outer<S::Error>,
}

pin_project! {
    /// The future of [`Resilience`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResilienceFuture<E>
    where
        E: Error,
        E: Send,
        E: Sync,
        E: 'static,
    {
        #[pin]
        inner: OuterFuture<E>,
    }
}

pin_project! {
    /// The response body of [`Resilience`].
    #[derive(Debug)]
    pub struct ResilienceBody {
        #[pin]
        inner: ErasedBody,
    }
}

// === impl Resilience ===

impl<S: Service<Request<CallBody>>> Resilience<S> {
    pub(super) fn new(outer: Outer<S::Error>) -> Self {
        Self { outer }
    }
}

impl<S, B> Service<Request<B>> for Resilience<S>
where
    S: Service<Request<CallBody>, Error: Error + Send + Sync + 'static>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<ResilienceBody>;
    type Error = S::Error;
    type Future = ResilienceFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Service::<Request<CallBody>>::poll_ready(&mut self.outer, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let _once = clock::read_once();
        ResilienceFuture { inner: self.outer.call(request) }
    }
}

impl<S: Service<Request<CallBody>>> Clone for Resilience<S> {
    fn clone(&self) -> Self {
        Self { outer: self.outer.clone() }
    }
}

impl<S: Service<Request<CallBody>>> fmt::Debug for Resilience<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resilience").finish_non_exhaustive()
    }
}

// === impl ResilienceFuture ===

impl<E: Error + Send + Sync + 'static> Future for ResilienceFuture<E> {
    type Output = Result<Response<ResilienceBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let _once = clock::read_once();
        self.project().inner.poll(cx).map_ok(|response| response.map(|inner| ResilienceBody { inner }))
    }
}

impl<E: Error + Send + Sync + 'static> fmt::Debug for ResilienceFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilienceFuture").finish_non_exhaustive()
    }
}

// === impl ResilienceBody ===

impl Body for ResilienceBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let _once = clock::read_once();
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
