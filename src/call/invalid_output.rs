use std::fmt;

use http::{Extensions, Response};

/// In a response's extensions: the answer is not in the form that the request asked for, and asking again did not help.
///
/// `StructuredOutputLayer` (feature `schema`) sets it. A classifier sees it: for [`Standard`](crate::verdict::Standard), another
/// upstream is to be asked. If that does no better, the caller is given this answer, as the 200 that it is.
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
    /// What is wrong with it.
    pub fault: OutputFault,
}

/// What is wrong with an answer that was to be JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OutputFault {
    /// It is no JSON, or has several values in it.
    Syntax,
    /// It is JSON, and not what the schema describes.
    Schema,
    /// It is empty.
    Empty,
}

// === impl InvalidOutput ===

impl InvalidOutput {
    /// An answer with this fault.
    #[must_use]
    pub const fn new(fault: OutputFault) -> Self {
        Self { fault }
    }

    /// Whether, and how, this response is not in the form that was asked for.
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
            Self::Syntax => "the answer is no JSON",
            Self::Schema => "the answer is not what the schema describes",
            Self::Empty => "the answer is empty",
        })
    }
}
