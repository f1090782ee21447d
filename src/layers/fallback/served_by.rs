use std::fmt;
use std::sync::Arc;

use http::Response;

/// Which backup a response came from. In the extensions of what [`FallbackLayer`](crate::FallbackLayer) returns from
/// its backup; what came from the primary carries none.
///
/// ```
/// use http::Response;
/// use tower_buttress::ServedBy;
///
/// let mut response = Response::new(());
/// assert_eq!(ServedBy::of(&response), None);
/// response.extensions_mut().insert(ServedBy::new("eu-west"));
/// assert_eq!(ServedBy::of(&response), Some("eu-west"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServedBy(Arc<str>);

// === impl ServedBy ===

impl ServedBy {
    /// A backup of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The backup that this response came from.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<&str> {
        response.extensions().get().map(Self::as_str)
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
