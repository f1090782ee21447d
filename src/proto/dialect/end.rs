//! How an answer ended, by its own word.

/// How the model says that its answer ended. An answer that does not say it has not ended: it was cut.
///
/// The order is from the best to the worst; an answer of several choices ended as its worst one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum End {
    /// The model had finished.
    Whole,
    /// The caller is to go on: to run a tool, or to ask for the rest.
    Paused,
    /// At a limit of tokens.
    Limit,
    /// The model refused.
    Refused,
    /// A filter of the provider held the rest back.
    Filtered,
    /// For a reason that this crate does not know, or without one where the dialect has to give one. The answer has ended;
    /// whether it is whole cannot be told.
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
