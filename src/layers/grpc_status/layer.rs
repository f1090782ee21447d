use tower_layer::Layer;

use super::service::{GrpcStatus, GrpcStatuses};

/// Ends a gRPC stream that reaches a time limit of this crate with a status.
///
/// A limit that is reached before the head is a refusal, which gRPC callers already get as a status. After the first
/// message a body can only fail, which resets the stream: the caller reads `INTERNAL` or `UNKNOWN`. Instead of the error,
/// this layer writes the trailers of a gRPC server: `DEADLINE_EXCEEDED` for a [`DeadlineLayer`](crate::DeadlineLayer),
/// `UNAVAILABLE` for an [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
///
/// # When to use it, and when not
///
/// On a gRPC server or proxy, and around a gRPC client, with either of those layers. The preset
/// [`grpc_client`](crate::presets::grpc_client) has it. Not for gRPC-Web, which sends its trailers inside the body.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, channel::Channel};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{DeadlineLayer, GrpcStatusLayer};
///
/// // A stream that stays open and sends nothing.
/// let upstream = service_fn(|_: Request<()>| async {
///     let (sender, body) = Channel::<Bytes>::new(1);
///     tokio::spawn(async move { std::future::pending::<()>().await; drop(sender) });
///     Ok::<_, Infallible>(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
/// });
///
/// let service = ServiceBuilder::new()
///     .layer(GrpcStatusLayer::new())
///     .layer(DeadlineLayer::new(Duration::from_secs(30)))
///     .service(upstream);
///
/// let body = service.oneshot(Request::new(())).await.unwrap().into_body();
/// let trailers = body.collect().await.unwrap().trailers().unwrap().clone();
/// assert_eq!(trailers["grpc-status"], "4", "DEADLINE_EXCEEDED");
/// # }
/// ```
///
/// # Place in the stack
///
/// Outermost, so that every other layer sees the error itself.
///
/// # What happens when
///
/// - *The body fails for another reason* (the upstream reset the stream): the error passes unchanged. gRPC clients map
///   the code of a reset to a more exact status.
/// - *The response is not gRPC* (a proxy's HTML page), *or is gRPC-Web*: it passes untouched.
/// - *The stream ends in the middle of a message*: a client reports the incomplete message, or the status. It does not
///   take the stream for complete.
/// - *The caller drops the future or the body*: the layer drops the inner one.
///
/// # Cancel safety
///
/// Dropping the future that polls the body loses nothing: the layer holds no frame.
///
/// # Errors
///
/// The inner service's, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// It reads the response's content type. No allocation, clock or timer.
#[derive(Clone, Copy, Debug)]
pub struct GrpcStatusLayer {
    enabled: bool,
}

// === impl GrpcStatusLayer ===

impl GrpcStatusLayer {
    /// Returns a layer that ends streams with a status when they reach a time limit.
    #[must_use]
    pub const fn new() -> Self {
        Self { enabled: true }
    }

    /// Returns a layer of the same type that passes everything through.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { enabled: false }
    }

    pub(crate) const fn is_enabled(&self) -> bool {
        self.enabled
    }
}

impl Default for GrpcStatusLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for GrpcStatusLayer {
    type Service = GrpcStatus<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GrpcStatus::new(inner, GrpcStatuses(self.enabled))
    }
}
