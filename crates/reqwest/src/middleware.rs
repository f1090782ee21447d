use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body::Body;
use reqwest::{ResponseBuilderExt, Url};
use reqwest_middleware::{Error, Middleware, Next};
use tower_layer::Layer;
use tower_service::Service;

use tower_buttress::Rejection;
use tower_buttress::error::BoxError;

/// A layer as a [`Middleware`] of `reqwest-middleware`.
///
/// The layer is built once and all calls share its state: a breaker counts them all, and all use one retry budget.
/// Only the service around the rest of the middleware ([`Next`]) is built per call, because `Next` is borrowed for one
/// call.
///
/// So the layer must work with an inner service that is borrowed for one call: deadlines, timeouts, retries, a
/// breaker. Dedup (and so the [presets](tower_buttress::presets), which include it), health probes and heartbeats let
/// a call outlive its caller. The compiler rejects them here; put them around [`ClientService`] instead.
///
/// The layer finds the `Extensions` of earlier middleware (a [`TimeoutProfile`](tower_buttress::TimeoutProfile), a
/// [`Deadline`](tower_buttress::Deadline)) in the request's extensions. In the other direction only the response's
/// extensions pass, with the layers' results. What a later middleware puts into its `Extensions` stays there, because
/// a layer may call it more than once.
///
/// [`ClientService`]: super::ClientService
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_buttress::error::BoxError> {
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(axum::serve(listener, app).into_future());
/// use std::time::Duration;
/// use reqwest_middleware::ClientBuilder;
/// use tower_buttress_reqwest::LayerMiddleware;
/// use tower_buttress::{IdleBodyTimeoutLayer, RetryAfterBackoffLayer};
///
/// let client = ClientBuilder::new(reqwest::Client::new())
///     .with(LayerMiddleware::new(RetryAfterBackoffLayer::new()))
///     .with(LayerMiddleware::new(IdleBodyTimeoutLayer::new(Duration::from_secs(15))))
///     .build();
/// assert_eq!(client.get(url).send().await?.text().await?, "hello");
/// # Ok(())
/// # }
/// ```
///
/// A layer whose calls may outlive their caller does not compile:
///
/// ```compile_fail
/// use tower_buttress::DedupLayer;
/// use tower_buttress_reqwest::LayerMiddleware;
///
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(LayerMiddleware::new(DedupLayer::new()));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct LayerMiddleware<L> {
    layer: L,
}

/// The rest of the middleware and the client, around which a [`LayerMiddleware`] puts its layer.
#[derive(Clone)]
pub struct NextService<'a> {
    next: Next<'a>,
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A service for reqwest's requests, whose responses reqwest accepts.
pub trait CallOnce<'a>: sealed::Sealed<'a> {}

mod sealed {
    use super::{BoxFuture, Error};

    pub trait Sealed<'a>: Send {
        fn call_once(
            self,
            request: http::Request<reqwest::Body>,
        ) -> BoxFuture<'a, Result<http::Response<reqwest::Body>, Error>>;
    }
}

// === impl LayerMiddleware ===

impl<L> LayerMiddleware<L> {
    /// Puts `layer` around the rest of the middleware.
    #[must_use]
    pub const fn new(layer: L) -> Self {
        Self { layer }
    }
}

#[async_trait::async_trait]
impl<L> Middleware for LayerMiddleware<L>
where
    L: for<'a> Layer<NextService<'a>> + Send + Sync + 'static,
    for<'a> <L as Layer<NextService<'a>>>::Service: CallOnce<'a>,
{
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<reqwest::Response, Error> {
        let url = request.url().clone();
        let mut request = Request::try_from(request)?;
        request.extensions_mut().extend(extensions.clone());
        let service = self.layer.layer(NextService { next });
        let mut response = sealed::Sealed::call_once(service, request).await?;
        if Rejection::of(&response).is_some() {
            locate(&mut response, url);
        }
        Ok(response.into())
    }
}

/// Adds the URL of a response, which `http` responses do not have.
fn locate<B>(response: &mut Response<B>, url: Url) {
    if let Ok(located) = Response::builder().url(url).body(()) {
        response.extensions_mut().extend(located.into_parts().0.extensions);
    }
}

// === impl CallOnce ===

impl<'a, S> CallOnce<'a> for S where S: sealed::Sealed<'a> {}

impl<'a, S, B> sealed::Sealed<'a> for S
where
    S: Service<Request<reqwest::Body>, Response = Response<B>> + Send + 'a,
    S::Error: Into<BoxError>,
    S::Future: Send + 'a,
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    fn call_once(mut self, request: Request<reqwest::Body>) -> BoxFuture<'a, Result<Response<reqwest::Body>, Error>> {
        Box::pin(async move {
            poll_fn(|cx| self.poll_ready(cx)).await.map_err(unbox)?;
            let response = self.call(request).await.map_err(unbox)?;
            Ok(response.map(reqwest::Body::wrap))
        })
    }
}

/// An error of the rest of the middleware, or of a layer that turned a refusal into an error.
fn unbox(err: impl Into<BoxError>) -> Error {
    match err.into().downcast() {
        Ok(err) => *err,
        Err(err) => Error::middleware(LayerError(err)),
    }
}

/// The error of a layer with its own error type.
#[derive(Debug)]
struct LayerError(BoxError);

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for LayerError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

// === impl NextService ===

impl<'a, B> Service<Request<B>> for NextService<'a>
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = Error;
    type Future = BoxFuture<'a, Result<Response<reqwest::Body>, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let next = self.next.clone();
        Box::pin(async move {
            // Copied: reqwest keeps its own entries there, such as the request's timeout.
            let mut extensions = request.extensions().clone();
            let request = reqwest::Request::try_from(request.map(super::body))?;
            let response = next.run(request, &mut extensions).await?;
            let url = response.url().clone();
            let mut response = Response::from(response);
            // The conversion would lose the URL, redirects included.
            locate(&mut response, url);
            Ok(response)
        })
    }
}

impl fmt::Debug for NextService<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextService").finish_non_exhaustive()
    }
}

/// Other layers that do not compile here, each beside one that does: a health probe,
///
/// ```
/// use tower_buttress::CircuitBreakerLayer;
/// use tower_buttress_reqwest::LayerMiddleware;
///
/// reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(LayerMiddleware::new(CircuitBreakerLayer::new()));
/// ```
///
/// ```compile_fail
/// use tower_buttress::CircuitBreakerLayer;
/// use tower_buttress_reqwest::LayerMiddleware;
///
/// let probe = |_: Option<&str>| http::Request::new(reqwest::Body::default());
/// reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(LayerMiddleware::new(CircuitBreakerLayer::new().health_probe(std::time::Duration::from_secs(5), probe)));
/// ```
///
/// and heartbeats, which may go out before there is an answer.
///
/// ```compile_fail
/// use tower_buttress::SseHeartbeatLayer;
/// use tower_buttress_reqwest::LayerMiddleware;
///
/// reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
///     .with(LayerMiddleware::new(SseHeartbeatLayer::new(std::time::Duration::from_secs(15))));
/// ```
#[cfg(doctest)]
struct Outliving;
