use tower_layer::Layer;

use super::service::{AnyError, ConvertsErrors};

/// Wraps the error of the service inside in a [`BoxedError`](crate::error::BoxedError).
///
/// # When to use it, and when not
///
/// Around a service that fails with a [`BoxError`](crate::error::BoxError), which does not implement
/// [`Error`](std::error::Error): the retry, fallback and breaker layers, and the [presets](crate::presets), require an
/// error that does. Not needed if the error implements it: it then reaches the caller with its own type.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::io;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::error::{self, BoxError, BoxedError};
/// use tower_buttress::{AnyErrorLayer, CallBody, RetryAfterBackoffLayer};
///
/// let upstream = service_fn(|_: Request<CallBody>| async {
///     let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
///     Err::<Response<Full<Bytes>>, BoxError>(refused.into())
/// });
/// let service = ServiceBuilder::new()
///     .layer(RetryAfterBackoffLayer::new())
///     .layer(AnyErrorLayer::new())
///     .service(upstream);
///
/// let failed: BoxedError = service.oneshot(Request::new(CallBody::empty())).await.unwrap_err();
/// assert!(error::find::<io::Error>(&BoxError::from(failed)).is_some());
/// # }
/// ```
///
/// # Place in the stack
///
/// Innermost: directly around the service.
///
/// # Cancel safety
///
/// Dropping the future drops the call.
///
/// # Errors
///
/// Those of the service inside, as [`BoxedError`](crate::error::BoxedError); [`error::find`](crate::error::find) finds
/// the original error.
///
/// # Cost
///
/// One allocation per failed call, unless the error is already boxed.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyErrorLayer {}

// === impl AnyErrorLayer ===

impl AnyErrorLayer {
    /// Returns a layer for services with any error.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for AnyErrorLayer {
    type Service = AnyError<S>;

    fn layer(&self, inner: S) -> AnyError<S> {
        AnyError::new(inner, ConvertsErrors)
    }
}
