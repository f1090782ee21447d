use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use super::service::TimeoutProfileService;
use crate::policy::timeout_profile::TimeoutProfile;

/// Chooses the [`TimeoutProfile`] of each request: by its path, a header, or what the caller put into its extensions.
///
/// # When to use it, and when not
///
/// Where one stack serves quick and slow calls. Who makes the request by hand can put a profile into its extensions
/// without this layer.
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
/// // 30 s are enough for an embedding.
/// assert_eq!(status("/v1/embeddings").await, 504);
/// # }
/// ```
///
/// # Place in the stack
///
/// Outside of the layers that it sets limits for: [`DeadlineLayer`](crate::DeadlineLayer) is the outermost of them.
///
/// # What happens when
///
/// - *The closure returns `None`*: the limits that the layers were built with hold, or the profile that is in the
///   request's extensions already.
/// - *A layer is disabled*: it stays off.
/// - Everything else passes untouched.
///
/// # Cancel safety
///
/// The future is that of the service inside.
///
/// # Errors
///
/// Those of the service inside.
///
/// # Cost
///
/// The closure, and one entry in the request's extensions where it returns a profile.
#[derive(Clone)]
pub struct TimeoutProfileLayer {
    choose: Option<Choose>,
}

pub(super) type Choose = Arc<dyn Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync>;

// === impl TimeoutProfileLayer ===

impl TimeoutProfileLayer {
    /// Asks `choose` for the limits of each request.
    #[must_use]
    pub fn new(choose: impl Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync + 'static) -> Self {
        Self { choose: Some(Arc::new(choose)) }
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

impl fmt::Debug for TimeoutProfileLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutProfileLayer").field("enabled", &self.choose.is_some()).finish()
    }
}
