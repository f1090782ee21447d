use tower_layer::Layer;

use super::service::{RejectionErrors, RejectionsAsErrors};

/// Turns a refusal of the layers inside into a typed error: a [`Rejection`](crate::Rejection) instead of its response.
///
/// # When to use it, and when not
///
/// In a client whose code matches on errors. Not on a server: its callers should receive the response.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{DeadlineLayer, Rejection, RejectionKind, RejectionsAsErrorsLayer, error};
///
/// let service = ServiceBuilder::new()
///     .layer(RejectionsAsErrorsLayer::new())
///     .layer(DeadlineLayer::new(Duration::from_secs(1)))
///     .service(service_fn(|_: Request<()>| {
///         std::future::pending::<Result<Response<Empty<Bytes>>, std::convert::Infallible>>()
///     }));
///
/// let refused = service.oneshot(Request::new(())).await.unwrap_err();
/// let rejection = error::find::<Rejection>(&refused).unwrap();
/// assert_eq!(rejection.kind(), RejectionKind::DeadlineExceeded);
/// # }
/// ```
///
/// # Place in the stack
///
/// Outermost: retries, breakers and fallbacks judge the response.
///
/// # What happens when
///
/// - *The response is a refusal of this crate*: the layer drops it and returns its `Rejection` as an error. No
///   information is lost.
/// - *Any other response*: passes untouched, the upstream's own 5xx included.
/// - *The inner service fails*: its error is boxed.
///
/// # Cancel safety
///
/// Dropping the future drops the inner call.
///
/// # Errors
///
/// A [`BoxError`](crate::error::BoxError): the inner service's, or the `Rejection`; [`error::find`](crate::error::find)
/// finds either.
///
/// # Cost
///
/// One look-up in the response's extensions. An error costs the allocation of its box.
#[derive(Clone, Copy, Debug)]
pub struct RejectionsAsErrorsLayer {
    enabled: bool,
}

// === impl RejectionsAsErrorsLayer ===

impl RejectionsAsErrorsLayer {
    /// Returns a layer that turns refusals into errors.
    #[must_use]
    pub const fn new() -> Self {
        Self { enabled: true }
    }

    /// Returns a layer of the same type that passes refusals on as responses.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { enabled: false }
    }
}

impl Default for RejectionsAsErrorsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for RejectionsAsErrorsLayer {
    type Service = RejectionsAsErrors<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RejectionsAsErrors::new(inner, RejectionErrors(self.enabled))
    }
}
