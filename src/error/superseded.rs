use std::error::Error;
use std::fmt;

/// [`SupersedeLayer`](crate::SupersedeLayer) ended the answer: a newer message of the same conversation came, or the call
/// was cancelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Superseded {}

// === impl Superseded ===

impl Superseded {
    /// An answer that was ended.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a newer message of the conversation replaced this one")
    }
}

impl Error for Superseded {}
