use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::config::ProfileChooser;
use super::service::TimeoutProfileService;
use crate::policy::timeout_profile::TimeoutProfile;

/// Chooses the [`TimeoutProfile`] of each request, by its path, a header or its extensions.
///
/// # When to use it, and when not
///
/// Where one stack serves quick and slow calls. An application that makes its own requests can put a profile into their
/// extensions without this layer.
///
/// # Example
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::{DeadlineLayer, TimeoutProfile, TimeoutProfileLayer};
///
/// let service = ServiceBuilder::new()
///     .layer(TimeoutProfileLayer::new(|head| match head.uri.path() {
///         "/v1/embeddings" => Some(TimeoutProfile::FAST),
///         path if path.contains("thinking") => Some(TimeoutProfile::EXTENDED_THINKING),
///         _ => None,
///     }))
///     .layer(DeadlineLayer::new(Duration::from_secs(90)))
///     .service(service_fn(|_: Request<()>| async {
///         tokio::time::sleep(Duration::from_secs(60)).await;
///         Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
///     }));
///
/// let status = async |path: &str| {
///     service.clone().oneshot(Request::post(path).body(()).unwrap()).await.unwrap().status()
/// };
/// assert_eq!(status("/v1/chat").await, 200);
/// // The limit for embeddings is 30 s.
/// assert_eq!(status("/v1/embeddings").await, 504);
/// # }
/// ```
///
/// # Place in the stack
///
/// Outside of the layers whose limits it sets: [`DeadlineLayer`](crate::DeadlineLayer) is the outermost of them.
///
/// # What happens when
///
/// - *The closure returns a profile*: it replaces a profile in the request's extensions.
/// - *It returns `None`*: the profile in the request's extensions applies, else the layers' own limits.
/// - *A layer inside is disabled*: it stays off, whatever the profile says.
/// - The request and the response pass untouched.
///
/// # Cancel safety
///
/// The future is the inner service's.
///
/// # Errors
///
/// The inner service's, unchanged.
///
/// # Cost
///
/// One call of the closure, and one entry in the request's extensions where it returns a profile.
#[derive(Clone, Debug)]
pub struct TimeoutProfileLayer {
    choose: Option<ProfileChooser>,
}

// === impl TimeoutProfileLayer ===

impl TimeoutProfileLayer {
    /// Calls `choose` with the head of each request. `None` leaves the limits as they are.
    #[must_use]
    pub fn new(choose: impl Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync + 'static) -> Self {
        Self { choose: Some(ProfileChooser(Arc::new(choose))) }
    }

    /// A layer of the same type that passes everything through.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { choose: None }
    }
}

impl<S> Layer<S> for TimeoutProfileLayer {
    type Service = TimeoutProfileService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TimeoutProfileService::new(inner, self.choose.clone())
    }
}
