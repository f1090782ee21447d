//! What a caller inside this process can switch off for one call.

/// In a request's extensions: this call is made once, whatever the settings of
/// [`RetryAfterBackoffLayer`](crate::RetryAfterBackoffLayer), [`ResumeLayer`](crate::ResumeLayer) and `StructuredOutputLayer`
/// (feature `schema`).
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

/// In a request's extensions: no backup is asked for this call, whatever the settings of
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

/// In a request's extensions: [`DedupLayer`](crate::DedupLayer) and [`LastGoodLayer`](crate::LastGoodLayer) neither keep the
/// answer to this call nor give it one that was kept, and the call is not joined with another.
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

/// In a request's extensions: it asks for the rest of an answer, of which a caller has the beginning.
#[cfg(feature = "llm")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsksForRest;
