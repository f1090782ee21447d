/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallEnd {
    /// The answer was forwarded completely.
    Complete,
    /// The service failed, or the body.
    Failed,
    /// The future or the body was dropped before its end.
    Cancelled,
}

// === impl CallEnd ===

#[cfg(any(feature = "metrics", feature = "tracing"))]
impl CallEnd {
    /// In their order.
    #[cfg(feature = "metrics")]
    pub(super) const ALL: [Self; 3] = [Self::Complete, Self::Failed, Self::Cancelled];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
