use std::fmt;
use std::time::Duration;

use http::{Extensions, Response};

/// In a response's extensions: it was not made for this request. The upstreams gave no answer, and
/// [`LastGoodLayer`](crate::LastGoodLayer) returned an earlier one, or a text of the operator's.
///
/// No layer keeps such an answer.
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
    /// What it is the answer to.
    pub kind: StaleKind,
    /// How long ago it was given.
    pub age: Duration,
}

/// What an answer that was not made for a request is the answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaleKind {
    /// The same request.
    Exact,
    /// The same request, in another spelling of its last message.
    Normalized,
    /// A request that differs in its last message, which an embedder finds similar.
    Similar,
    /// None: it is a text of the operator's.
    Template,
}

// === impl Stale ===

impl Stale {
    /// An answer of this kind and age.
    #[must_use]
    pub const fn new(kind: StaleKind, age: Duration) -> Self {
        Self { kind, age }
    }

    /// Whether, and how, this response is stale.
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
