use http::Extensions;

/// The expected token usage of a request, in its extensions.
///
/// [`PaceLayer`](crate::PaceLayer) reserves tokens by it, and settles when the answer reports its usage. Without it, the
/// layer estimates the prompt's tokens from the length of the body, and the answer's from earlier answers.
///
/// ```
/// use http::Request;
/// use tower_buttress::TokenEstimate;
///
/// let estimate = TokenEstimate::new().input(1_200).max_output(4_096);
/// let request = Request::builder().extension(estimate).body(()).unwrap();
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenEstimate {
    /// The tokens of the prompt.
    pub input: Option<u64>,
    /// The most tokens of the answer: `max_tokens` or similar.
    pub max_output: Option<u64>,
}

// === impl TokenEstimate ===

impl TokenEstimate {
    /// Returns an empty estimate.
    #[must_use]
    pub const fn new() -> Self {
        Self { input: None, max_output: None }
    }

    /// Sets the tokens of the prompt.
    #[must_use]
    pub const fn input(mut self, tokens: u64) -> Self {
        self.input = Some(tokens);
        self
    }

    /// Sets the most tokens of the answer.
    #[must_use]
    pub const fn max_output(mut self, tokens: u64) -> Self {
        self.max_output = Some(tokens);
        self
    }

    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }
}
