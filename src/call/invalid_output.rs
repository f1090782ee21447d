use std::fmt;

use http::{Extensions, Response};

/// Marks a response, in its extensions: the answer does not have the form that the request asked for, and asking again
/// did not help.
///
/// `StructuredOutputLayer` (feature `schema`) sets it. Classifiers see it: [`Standard`](crate::verdict::Standard) then
/// asks another upstream. If that is no better, the caller gets this answer, as a 200.
///
/// ```
/// use http::Response;
/// use tower_buttress::{InvalidOutput, OutputFault};
///
/// let mut response = Response::new("Sorry, I do not know.");
/// assert_eq!(InvalidOutput::of(&response), None);
/// response.extensions_mut().insert(InvalidOutput::new(OutputFault::Syntax));
/// assert_eq!(InvalidOutput::of(&response).unwrap().fault, OutputFault::Syntax);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidOutput {
    /// The fault.
    pub fault: OutputFault,
}

/// The fault of an answer that should be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutputFault {
    /// It is not JSON, or contains several values.
    Syntax,
    /// It is JSON, but does not match the schema.
    Schema,
    /// It is empty.
    Empty,
}

// === impl InvalidOutput ===

impl InvalidOutput {
    /// Returns an answer's mark with this fault.
    #[must_use]
    pub const fn new(fault: OutputFault) -> Self {
        Self { fault }
    }

    /// Returns the fault of this response, if it is marked.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Option<Self> {
        Self::in_extensions(response.extensions())
    }

    pub(crate) fn in_extensions(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }
}

// === impl OutputFault ===

impl OutputFault {
    /// A stable name, for logs and metrics: `"schema"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Schema => "schema",
            Self::Empty => "empty",
        }
    }
}

impl fmt::Display for OutputFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "the answer is not JSON",
            Self::Schema => "the answer does not match the schema",
            Self::Empty => "the answer is empty",
        })
    }
}
