//! How an answer ended, as the model reports it.

/// How the model reports that its answer ended. An answer without such a report was truncated.
///
/// Ordered from the best to the worst; an answer of several choices ended as its worst one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum End {
    /// The model had finished.
    Whole,
    /// The caller must continue: run a tool, or ask for the rest.
    Paused,
    /// At a token limit.
    Limit,
    /// The model refused.
    Refused,
    /// A filter of the provider blocked the rest.
    Filtered,
    /// For a reason that this crate does not know, or without one where the dialect requires one. The answer has ended;
    /// whether it is complete is unknown.
    Unknown,
}

// === impl End ===

impl End {
    /// A stable name, for logs and metrics: `"whole"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Paused => "paused",
            Self::Limit => "limit",
            Self::Refused => "refused",
            Self::Filtered => "filtered",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable() {
        let all = [End::Whole, End::Paused, End::Limit, End::Refused, End::Filtered, End::Unknown];
        assert_eq!(all.map(End::as_str), ["whole", "paused", "limit", "refused", "filtered", "unknown"]);
    }
}
