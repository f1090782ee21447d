use tower_layer::Layer;

use super::service::GrpcStatus;

/// Ends a gRPC stream that reaches one of our limits with a status.
///
/// A limit that is reached before the head is a refusal, which gRPC callers get as a status already. Once messages have
/// gone out, a body can only fail, and that resets the stream: a caller reads `INTERNAL`, or `UNKNOWN`. This layer writes
/// the trailers instead that a gRPC server would have written: `DEADLINE_EXCEEDED` for a
/// [`DeadlineLayer`](crate::DeadlineLayer), `UNAVAILABLE` for an [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
///
/// # When to use it, and when not
///
/// On a gRPC server or proxy, and around a gRPC client, wherever one of those two layers is. The preset
/// [`grpc_client`](crate::presets::grpc_client) has it. Not for gRPC-Web, which has its trailers inside the body.
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
/// // A stream that says nothing, for ever.
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
/// Outermost: it sees what no layer will act on any more.
///
/// # What happens when
///
/// - *The body fails for another reason* (the upstream's stream was reset): it fails. Every gRPC client has a table for
///   that, and reads more from the reset than we could say.
/// - *The response is no gRPC* (a proxy's HTML page), *or gRPC-Web*: it passes untouched.
/// - *The stream is ended in the middle of a message*: a client then reports the message that is not whole, or the status.
///   It never takes the stream for whole.
/// - *The caller drops the future or the body*: so is what is inside.
///
/// # Cancel safety
///
/// Polling the body and going away loses nothing: no frame is held.
///
/// # Errors
///
/// The service's own, unchanged. The body's error is a [`BoxError`](crate::error::BoxError): the inner body's.
///
/// # Cost
///
/// A look at the response's content type. No allocation, clock or timer.
#[derive(Clone, Copy, Debug)]
pub struct GrpcStatusLayer {
    enabled: bool,
}

// === impl GrpcStatusLayer ===

impl GrpcStatusLayer {
    /// A layer that writes the status of streams that reach a limit.
    #[must_use]
    pub const fn new() -> Self {
        Self { enabled: true }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { enabled: false }
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
        GrpcStatus::new(inner, self.enabled)
    }
}
