use std::fmt;

/// Why an operation had no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// It cannot be reached, or did not answer in time. The operation may have been done.
    Unreachable,
    /// It was reached, and refused: it has no memory left, or no permission was given.
    Refused(String),
}

// === impl BackendError ===

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the backend cannot be reached"),
            Self::Refused(why) => write!(f, "the backend refused: {why}"),
        }
    }
}

impl std::error::Error for BackendError {}
