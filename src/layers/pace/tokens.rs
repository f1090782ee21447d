use http::Extensions;

/// In a request's extensions: what it will take of a limit of tokens, as far as that is known before it is sent.
///
/// [`PaceLayer`](crate::PaceLayer) reserves by it, and settles when the answer says what was used. Without it, the tokens of
/// a prompt are guessed from the length of its body, and those of the answer from the answers before.
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
    /// Tokens of the prompt.
    pub input: Option<u64>,
    /// The most tokens that the answer may have: `max_tokens` and its like.
    pub max_output: Option<u64>,
}

// === impl TokenEstimate ===

impl TokenEstimate {
    /// Nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { input: None, max_output: None }
    }

    /// Tokens of the prompt.
    #[must_use]
    pub const fn input(mut self, tokens: u64) -> Self {
        self.input = Some(tokens);
        self
    }

    /// The most tokens that the answer may have.
    #[must_use]
    pub const fn max_output(mut self, tokens: u64) -> Self {
        self.max_output = Some(tokens);
        self
    }

    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or_default()
    }
}
