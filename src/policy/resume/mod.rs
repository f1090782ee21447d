//! Decides whether and how a broken stream can continue.

#[cfg(feature = "llm")]
mod continuations;
#[cfg(feature = "llm")]
mod follow;
#[cfg(feature = "llm")]
mod history;
#[cfg(feature = "llm")]
mod order;
#[cfg(feature = "llm")]
mod position;
#[cfg(feature = "llm")]
mod restart;
#[cfg(feature = "llm")]
mod withheld;

#[cfg(feature = "llm")]
pub(crate) use self::continuations::{Continuations, Cut};
#[cfg(feature = "llm")]
pub(crate) use self::follow::StreamFollower;
#[cfg(feature = "llm")]
pub(crate) use self::withheld::{Aside, Followed};

use std::fmt;

/// How a broken stream was continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResumedBy {
    /// By the server's own cursor: it is the same answer.
    Cursor,
    /// By a second answer to the same request that begins with the caller's part of the first.
    VerifiedRestart,
}

/// Why a broken stream was not continued, although it might have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotResumed {
    /// The caller's last event is not at a cursor.
    NoCursor,
    /// The upstream itself reported that the answer failed.
    UpstreamFailed,
    /// All permitted continuations brought nothing.
    NoProgress,
    /// The retry budget is spent.
    Budget,
    /// The call's deadline leaves too little time.
    Deadline,
    /// The upstream did not answer the request for the rest with a stream.
    Refused,
    /// The upstream sent something else than the rest: a repeated event, a gap, or another answer.
    Contradicted,
    /// The request cannot be sent: its body was not recorded, or the cursor cannot be written into it.
    NotRepeatable,
    /// There is no cursor, and the caller's part cannot be compared with another answer: a tool call, content other than
    /// text, several choices, or more than is remembered.
    NotComparable,
    /// The new answer does not begin with the caller's part.
    Diverged,
    /// Another model gave the new answer.
    OtherModel,
    /// The new answer broke too, and a call gets only one.
    RestartSpent,
}

// === impl ResumedBy ===

impl ResumedBy {
    /// A stable name, for metrics: `"cursor"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cursor => "cursor",
            Self::VerifiedRestart => "verified-restart",
        }
    }
}

impl fmt::Display for ResumedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cursor => "by the server's cursor",
            Self::VerifiedRestart => "by a new answer with the same beginning",
        })
    }
}

// === impl NotResumed ===

impl NotResumed {
    /// A stable name, for metrics: `"no-progress"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCursor => "no-cursor",
            Self::UpstreamFailed => "upstream-failed",
            Self::NoProgress => "no-progress",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Contradicted => "contradicted",
            Self::NotRepeatable => "not-repeatable",
            Self::NotComparable => "not-comparable",
            Self::Diverged => "diverged",
            Self::OtherModel => "other-model",
            Self::RestartSpent => "restart-spent",
        }
    }
}

impl fmt::Display for NotResumed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCursor => "the caller's last event is not at a cursor",
            Self::UpstreamFailed => "the upstream said that the answer failed",
            Self::NoProgress => "the continuations brought nothing",
            Self::Budget => "the retry budget is spent",
            Self::Deadline => "the call's deadline leaves too little time",
            Self::Refused => "the upstream did not answer with the rest",
            Self::Contradicted => "the upstream did not send the rest of the same answer",
            Self::NotRepeatable => "the request for the rest cannot be made",
            Self::NotComparable => "the caller's part cannot be compared with another answer",
            Self::Diverged => "the new answer does not begin with the caller's part",
            Self::OtherModel => "another model gave the new answer",
            Self::RestartSpent => "the new answer broke too",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable() {
        for (by, name, text) in [
            (ResumedBy::Cursor, "cursor", "by the server's cursor"),
            (ResumedBy::VerifiedRestart, "verified-restart", "by a new answer with the same beginning"),
        ] {
            assert_eq!((by.as_str(), by.to_string().as_str()), (name, text));
        }
        for (why, name, text) in [
            (NotResumed::NoCursor, "no-cursor", "at a cursor"),
            (NotResumed::UpstreamFailed, "upstream-failed", "the answer failed"),
            (NotResumed::NoProgress, "no-progress", "brought nothing"),
            (NotResumed::Budget, "budget", "is spent"),
            (NotResumed::Deadline, "deadline", "leaves too little time"),
            (NotResumed::Refused, "refused", "with the rest"),
            (NotResumed::Contradicted, "contradicted", "of the same answer"),
            (NotResumed::NotRepeatable, "not-repeatable", "cannot be made"),
            (NotResumed::NotComparable, "not-comparable", "cannot be compared"),
            (NotResumed::Diverged, "diverged", "does not begin with"),
            (NotResumed::OtherModel, "other-model", "another model"),
            (NotResumed::RestartSpent, "restart-spent", "broke too"),
        ] {
            assert_eq!(why.as_str(), name);
            assert!(why.to_string().contains(text), "{why}");
        }
    }
}
