//! Which upstream an answer came from, and how to reach the same one again.

use std::fmt;
use std::sync::Arc;

use http::{Extensions, Response};

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
pub struct ServedBy {
    name: Arc<str>,
    /// Where the backup is a chain of upstreams itself: which of its backups.
    within: Option<Arc<ServedBy>>,
}

/// In a request's extensions: it goes to this upstream of a [`FallbackLayer`](crate::FallbackLayer), and to no other.
///
/// What an upstream began only the same upstream can continue: a stream that is resumed at its own cursor, or an answer
/// that is polled for. The answer of that upstream is returned whatever it says; if there is none, a pinned call to the
/// primary ends in its error, and one to a backup in a 502. Names must be unique in a chain of fallbacks; a name that no
/// layer knows means the primary.
///
/// ```
/// use http::{Request, Response};
/// use tower_buttress::{PinTo, ServedBy};
///
/// let mut first = Response::new("half an answer");
/// first.extensions_mut().insert(ServedBy::new("eu-west"));
///
/// let rest = Request::get("/v1/responses/1").extension(PinTo::origin_of(&first)).body(()).unwrap();
/// assert_eq!(rest.extensions().get(), Some(&PinTo::backup("eu-west")));
/// assert_eq!(PinTo::origin_of(&Response::new(())), PinTo::primary());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PinTo(Option<ServedBy>);

// === impl ServedBy ===

impl ServedBy {
    /// A backup of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), within: None }
    }

    /// The backup that this response came from.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<&str> {
        response.extensions().get().map(Self::as_str)
    }

    /// Its name. In a chain, that of the backup which gave the answer.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.within.as_deref().map_or(&self.name, Self::as_str)
    }

    /// Says in the extensions of a backup's answer that it came through the backup of this name.
    pub(crate) fn mark(extensions: &mut Extensions, name: &Arc<str>) {
        let within = extensions.remove::<Self>().map(Arc::new);
        extensions.insert(Self { name: name.clone(), within });
    }
}

impl fmt::Display for ServedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl PinTo ===

impl PinTo {
    /// The upstream that no backup stands in for.
    #[must_use]
    pub const fn primary() -> Self {
        Self(None)
    }

    /// The backup of this name.
    #[must_use]
    pub fn backup(name: impl Into<Arc<str>>) -> Self {
        Self(Some(ServedBy::new(name)))
    }

    /// The upstream that this response came from.
    #[must_use]
    pub fn origin_of<B>(response: &Response<B>) -> Self {
        Self(response.extensions().get().cloned())
    }

    /// Where it is pinned to the backup of this name: what the request to it is pinned to.
    pub(crate) fn through(&self, name: &str) -> Option<Self> {
        let served_by = self.0.as_ref().filter(|served_by| &*served_by.name == name)?;
        Some(Self(served_by.within.as_deref().cloned()))
    }
}
