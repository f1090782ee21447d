use http::{Request, Response};

/// The number of an attempt, from 1. In the request's extensions below
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer).
///
/// The first attempt carries none, so a call without a retry pays nothing: read it with [`of`](Self::of).
///
/// ```
/// use http::Request;
/// use tower_buttress::Attempt;
///
/// let mut request = Request::new(());
/// assert_eq!(Attempt::of(&request), Attempt(1));
/// request.extensions_mut().insert(Attempt(2));
/// assert_eq!(Attempt::of(&request), Attempt(2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

/// The number of attempts that a response took. In the response's extensions outside
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer).
///
/// A response to the first attempt carries none: read it with [`of`](Self::of).
///
/// ```
/// use http::Response;
/// use tower_buttress::Attempts;
///
/// assert_eq!(Attempts::of(&Response::new(())), Attempts(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempts(pub u32);

// === impl Attempt ===

impl Attempt {
    /// Returns the attempt number of this request.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or(Self(1))
    }
}

// === impl Attempts ===

impl Attempts {
    /// Returns the number of attempts that this response took.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Self {
        response.extensions().get().copied().unwrap_or(Self(1))
    }
}
