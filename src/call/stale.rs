use std::fmt;
use std::time::Duration;

use http::{Extensions, Response};

/// Marks a response, in its extensions, that was not made for this request: the upstreams gave no answer, and
/// [`LastGoodLayer`](crate::LastGoodLayer) returned an earlier one, or a text of the operator's.
///
/// No layer stores such a response.
///
/// ```
/// use std::time::Duration;
/// use http::Response;
/// use tower_buttress::{Stale, StaleKind};
///
/// let mut response = Response::new(());
/// assert_eq!(Stale::of(&response), None);
/// response.extensions_mut().insert(Stale::new(StaleKind::Exact, Duration::from_secs(40)));
/// assert_eq!(Stale::of(&response).unwrap().age, Duration::from_secs(40));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stale {
    /// What the response was an answer to.
    pub kind: StaleKind,
    /// The age of the answer.
    pub age: Duration,
}

/// What a stale response was an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaleKind {
    /// The same request.
    Exact,
    /// The same request, with another spelling of its last message.
    Normalized,
    /// A request that differs in its last message, which an embedder judged similar.
    Similar,
    /// No request: the operator's text.
    Template,
}

// === impl Stale ===

impl Stale {
    /// Returns a mark of this kind and age.
    #[must_use]
    pub const fn new(kind: StaleKind, age: Duration) -> Self {
        Self { kind, age }
    }

    /// Returns the mark of this response, if it is stale.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<Self> {
        Self::in_extensions(response.extensions())
    }

    pub(crate) fn in_extensions(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }
}

// === impl StaleKind ===

impl StaleKind {
    /// A stable name, for headers, logs and metrics: `"exact"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Normalized => "normalized",
            Self::Similar => "similar",
            Self::Template => "template",
        }
    }
}

impl fmt::Display for StaleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
