//! Switches layers off for one call of this process.

/// Limits a call to one attempt, in the request's extensions, whatever the settings of
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer), [`ResumeLayer`](crate::ResumeLayer) and
/// `StructuredOutputLayer` (feature `schema`).
///
/// ```
/// use http::Request;
/// use tower_buttress::NoRetry;
///
/// let request = Request::builder().extension(NoRetry).body(()).unwrap();
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoRetry;

/// Forbids a backup for a call, in the request's extensions, whatever the settings of
/// [`FallbackLayer`](crate::FallbackLayer).
///
/// ```
/// use http::Request;
/// use tower_buttress::NoFallback;
///
/// let request = Request::builder().extension(NoFallback).body(()).unwrap();
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoFallback;

/// Forbids storing and sharing the answer to a call, in the request's extensions: [`DedupLayer`](crate::DedupLayer) and
/// [`LastGoodLayer`](crate::LastGoodLayer) neither store it nor return a stored one, and the call does not join another.
///
/// ```
/// use http::Request;
/// use tower_buttress::NoStore;
///
/// let request = Request::builder().extension(NoStore).body(()).unwrap();
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoStore;

/// Marks a request, in its extensions, for the rest of an answer whose beginning a caller has.
#[cfg(feature = "llm")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsksForRest;
