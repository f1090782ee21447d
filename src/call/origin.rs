//! Which upstream gave an answer, and how to reach the same one again.

use std::fmt;
use std::sync::Arc;

use http::{Extensions, Response};

/// The backup that gave a response. In the extensions of responses that [`FallbackLayer`](crate::FallbackLayer) returns
/// from its backup; responses of the primary carry none.
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
    /// The backup within the backup, if that is a chain of upstreams.
    within: Option<Arc<ServedBy>>,
}

/// Pins a request, in its extensions, to one upstream of a [`FallbackLayer`](crate::FallbackLayer).
///
/// Only the same upstream can continue its work: a stream that is resumed at its own cursor, or an answer that is polled
/// for. The layer returns that upstream's answer whatever its status. Without an answer, a call pinned to the primary
/// ends in its error, and a call pinned to a backup in a 502. Names must be unique in a chain of fallbacks; an unknown
/// name means the primary.
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
    /// Returns the backup with this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), within: None }
    }

    /// Returns the name of the backup that gave this response.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<&str> {
        response.extensions().get().map(Self::as_str)
    }

    /// The name. In a chain, that of the backup that gave the answer.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.within.as_deref().map_or(&self.name, Self::as_str)
    }

    /// Notes in the extensions of a backup's answer that it came through the backup of this name.
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
    /// Pins to the primary.
    #[must_use]
    pub const fn primary() -> Self {
        Self(None)
    }

    /// Pins to the backup of this name.
    #[must_use]
    pub fn backup(name: impl Into<Arc<str>>) -> Self {
        Self(Some(ServedBy::new(name)))
    }

    /// Pins to the upstream that gave this response.
    #[must_use]
    pub fn origin_of<B>(response: &Response<B>) -> Self {
        Self(response.extensions().get().cloned())
    }

    /// For a pin to the backup of this name, returns the pin for the request inside that backup.
    pub(crate) fn through(&self, name: &str) -> Option<Self> {
        let served_by = self.0.as_ref().filter(|served_by| &*served_by.name == name)?;
        Some(Self(served_by.within.as_deref().cloned()))
    }
}
