//! [reqwest]'s client as a service of `http` requests, for the layers of this crate to go around.
//!
//! `reqwest::Client` is a `Service` of requests of its own type, which layers that read and repeat `http` requests cannot
//! use. [`ClientService`] takes and gives `http`'s types, and streams in both directions.
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
//! Leave reqwest's own `timeout`, `read_timeout` and retries off where the layers do that work: the smaller limit wins,
//! and a body that reqwest ends fails with an error that says less. `connect_timeout` belongs to the connector, and so to
//! reqwest: the classifier takes it for a connection that did not come about, to be tried again.
//! [`ConnectTimeoutLayer`](tower_buttress::ConnectTimeoutLayer), which fits its `connector_layer`, is told apart, since an address
//! that does not answer will not answer the next attempt either: then it is the fallback's turn.
//!
//! Redirects are followed by reqwest, below the layers. To reqwest, every body that comes through them is one that
//! streams, which it cannot send again for a 307 or 308: then the redirect is the answer.
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

/// A [`reqwest::Client`] that is called with `http` requests, and answers with `http` responses.
///
/// # Cancel safety
///
/// Dropping the future or the response's body drops the call: HTTP/1.1 closes its connection, HTTP/2 resets its stream.
///
/// # Errors
///
/// reqwest's own. A URI that is no absolute URL is one of them.
///
/// # Cost
///
/// One allocation for a body that is not empty, and one for the response's: reqwest boxes both.
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
        // What is wrong with the request.
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
        // How it came in is not how it must go out: an HTTP/1.1 connection would refuse it.
        if request.version() == Version::HTTP_2 {
            *request.version_mut() = Version::HTTP_11;
        }
        match reqwest::Request::try_from(request.map(body)) {
            Ok(request) => ClientFuture { call: Some(self.client.call(request)), wrong: None },
            Err(wrong) => ClientFuture { call: None, wrong: Some(wrong) },
        }
    }
}

/// An empty body is none: of unknown length it would be sent in chunks.
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
            // Polled again after it was over.
            (None, None) => Poll::Pending,
        }
    }
}

impl fmt::Debug for ClientFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientFuture").finish_non_exhaustive()
    }
}
