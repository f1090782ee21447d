use std::fmt;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendError {
    /// Redis is unreachable, or did not answer in time. The operation may have been done.
    Unreachable,
    /// Redis refused: out of memory, or no permission.
    Refused(String),
}

// === impl BackendError ===

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("the backend is unreachable"),
            Self::Refused(why) => write!(f, "the backend refused: {why}"),
        }
    }
}

impl std::error::Error for BackendError {}
