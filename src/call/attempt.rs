use http::{Request, Response};

/// Which attempt a request is, from 1. In the request's extensions below
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer).
///
/// The first attempt carries none, so that a call that succeeds at once costs nothing: ask with [`of`](Self::of).
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

/// How many attempts a response took. In the response's extensions outside of
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer).
///
/// A response to the first attempt carries none: ask with [`of`](Self::of).
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
    /// Which attempt this request is.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or(Self(1))
    }
}

// === impl Attempts ===

impl Attempts {
    /// How many attempts this response took.
    #[must_use]
    pub fn of<B>(response: &Response<B>) -> Self {
        response.extensions().get().copied().unwrap_or(Self(1))
    }
}
