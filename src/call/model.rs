use std::sync::Arc;

use http::{Extensions, Request};

/// In a request's extensions: the name of the model that it asks for.
///
/// Layers that keep something per model look for it here, such as
/// [`CircuitBreakerLayer::key_by_model`](crate::CircuitBreakerLayer::key_by_model). Set it where the request's body is read
/// anyway, for example in the closure of an [`InspectRequestLayer`](crate::InspectRequestLayer). Callers choose the name: a
/// layer believes it only within bounds.
///
/// ```
/// use http::Request;
/// use tower_buttress::Model;
///
/// let request = Request::builder().extension(Model::new("gpt-5-mini")).body(()).unwrap();
/// assert_eq!(Model::of(&request), Some("gpt-5-mini"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Model(Arc<str>);

// === impl Model ===

impl Model {
    /// A model of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name of the model that this request asks for, if it is known.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Option<&str> {
        Self::in_extensions(request.extensions())
    }

    pub(crate) fn in_extensions(extensions: &Extensions) -> Option<&str> {
        extensions.get().map(Self::as_str)
    }

    /// The model's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
