//! Makes [reqwest]'s client a service of `http` requests, for the layers of tower-buttress.
//!
//! `reqwest::Client` is a `Service` of its own request type, which layers that read and repeat `http` requests cannot
//! use. [`ClientService`] accepts and returns `http` types, and streams in both directions.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower_buttress::error::BoxError> {
//! # let app = axum::Router::new().route("/", axum::routing::post(|body: String| async { body }));
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let url = format!("http://{}/", listener.local_addr()?);
//! # tokio::spawn(axum::serve(listener, app).into_future());
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt};
//! use tower_buttress_reqwest::ClientService;
//! use tower_buttress::{TimeoutProfile, presets};
//!
//! let client = ClientService::new(reqwest::Client::new());
//! let service = presets::llm_client(TimeoutProfile::STANDARD).layer(client);
//!
//! let request = Request::post(url).body(Full::<Bytes>::from("hello"))?;
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Whose limits?
//!
//! Leave reqwest's own `timeout`, `read_timeout` and retries off where the layers do that work: the smaller limit
//! wins, and a body that reqwest ends has a less specific error. `connect_timeout` belongs to reqwest's connector; the
//! classifier treats its error as a failed connection, to be retried. Errors of
//! [`ConnectTimeoutLayer`](tower_buttress::ConnectTimeoutLayer), which fits reqwest's `connector_layer`, go to the
//! fallback instead, because an address that does not answer will not answer the next attempt either.
//!
//! reqwest follows redirects, below the layers. It cannot repeat a body from the layers, which always streams, for a
//! 307 or 308; it then returns the redirect.
//!
//! [reqwest]: https://docs.rs/reqwest

#[cfg(feature = "reqwest-middleware")]
mod middleware;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use reqwest::Client;
use tower_service::Service;

#[cfg(feature = "reqwest-middleware")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest-middleware")))]
pub use self::middleware::{CallOnce, LayerMiddleware, NextService};
use tower_buttress::error::BoxError;

/// A [`reqwest::Client`] that accepts `http` requests and returns `http` responses.
///
/// # Cancel safety
///
/// Dropping the future or the response's body drops the call: HTTP/1.1 closes its connection, HTTP/2 resets its stream.
///
/// # Errors
///
/// reqwest's own, including one for a URI that is not an absolute URL.
///
/// # Cost
///
/// One allocation for a non-empty request body, and one for the response's body: reqwest boxes both.
#[derive(Clone, Debug, Default)]
pub struct ClientService {
    client: Client,
}

pin_project! {
    /// The future of [`ClientService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ClientFuture {
        #[pin]
        call: Option<<Client as Service<reqwest::Request>>::Future>,
        // The error of an invalid request.
        wrong: Option<reqwest::Error>,
    }
}

// === impl ClientService ===

impl ClientService {
    /// Sends requests with `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl From<Client> for ClientService {
    fn from(client: Client) -> Self {
        Self::new(client)
    }
}

impl<B> Service<Request<B>> for ClientService
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = ClientFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> ClientFuture {
        // The incoming version does not apply: an HTTP/1.1 connection would refuse another one.
        if request.version() == Version::HTTP_2 {
            *request.version_mut() = Version::HTTP_11;
        }
        match reqwest::Request::try_from(request.map(body)) {
            Ok(request) => ClientFuture { call: Some(self.client.call(request)), wrong: None },
            Err(wrong) => ClientFuture { call: None, wrong: Some(wrong) },
        }
    }
}

/// Sends an empty body as no body: with unknown length it would be chunked.
fn body<B>(body: B) -> reqwest::Body
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() { reqwest::Body::default() } else { reqwest::Body::wrap(body) }
}

// === impl ClientFuture ===

impl Future for ClientFuture {
    type Output = Result<Response<reqwest::Body>, reqwest::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match (this.call.as_pin_mut(), this.wrong.take()) {
            (Some(call), _) => Poll::Ready(Ok(ready!(call.poll(cx))?.into())),
            (None, Some(wrong)) => Poll::Ready(Err(wrong)),
            // Polled again after completion.
            (None, None) => Poll::Pending,
        }
    }
}

impl fmt::Debug for ClientFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFuture").finish_non_exhaustive()
    }
}
