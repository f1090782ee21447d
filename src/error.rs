//! The errors of a *body* or a *connection*: one small struct each, boxed as a [`BoxError`]; [`find`] finds it again.
//!
//! A refusal before the head is a response, not an error (see [`Rejection`](crate::Rejection)). After the head was sent
//! no status can be set, so a body ends with one of these errors.
//!
//! ```
//! use std::time::Duration;
//! use tower_buttress::error::{self, BoxError, IdleBodyElapsed};
//!
//! let failed: BoxError = IdleBodyElapsed::new(Duration::from_secs(15)).into();
//! // However deeply hyper, axum or reqwest wrapped it:
//! let wrapped: BoxError = std::io::Error::other(failed).into();
//!
//! let cause = error::find::<IdleBodyElapsed>(&wrapped).unwrap();
//! assert_eq!(cause.after, Duration::from_secs(15));
//! ```

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

pub(crate) use self::rounded::Rounded;
pub use self::stream::{FirstContentElapsed, StreamTruncated};
pub use self::superseded::Superseded;
pub use crate::policy::upstream_error::UpstreamError;

mod rounded;
mod stream;
mod superseded;

/// The error of this crate's bodies, and of most fallible tower services.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The upstream sent nothing for longer than [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdleBodyElapsed {
    /// The silence that was allowed.
    pub after: Duration,
}

/// The call's [`Deadline`](crate::Deadline) passed while its body was still being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadlineExceeded {
    /// The budget that the call had when [`DeadlineLayer`](crate::DeadlineLayer) saw it.
    pub budget: Duration,
}

/// The upstream of an event stream sent nothing for longer than
/// [`SseHeartbeatLayer::max_silence`](crate::SseHeartbeatLayer::max_silence), while heartbeats went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSilent {
    /// The silence that was allowed.
    pub after: Duration,
}

/// The upstream's answer was not an event stream, but the layer had already sent the head of one
/// ([`before_headers`](crate::SseHeartbeatLayer::before_headers)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnexpectedResponse {
    /// Its status.
    pub status: StatusCode,
}

/// No connection was made within the limit of [`ConnectTimeoutLayer`](crate::ConnectTimeoutLayer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectElapsed {
    /// The time that was allowed.
    pub after: Duration,
}

/// The client accepted no data for longer than [`WriteTimeout`](crate::WriteTimeout) allows. It comes inside an
/// [`io::Error`]; [`find`] finds it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteElapsed {
    /// The time that was allowed.
    pub after: Duration,
}

/// An earlier attempt kept reading the request body after a retry had taken it over, or the body failed.
///
/// This ends the request that an earlier attempt is still sending. No caller sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayUnavailable {}

/// A [`BoxError`] that is an [`Error`].
///
/// `BoxError` does not implement `Error`, which the retry, fallback and breaker layers require. Wrap it in this type:
/// `Display` shows the inner error, and [`find`] looks through it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// use std::io;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_buttress::RetryAfterBackoffLayer;
/// use tower_buttress::error::{self, BoxedError, BoxError};
///
/// let upstream = service_fn(|_request| async {
///     let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
///     Err::<Response<Full<Bytes>>, BoxError>(refused.into())
/// });
/// let service = ServiceBuilder::new()
///     .layer(RetryAfterBackoffLayer::new())
///     .map_err(BoxedError::new)
///     .service(upstream);
///
/// let request = Request::new(Full::<Bytes>::default());
/// let failed: BoxError = service.oneshot(request).await.unwrap_err().into();
/// assert!(error::find::<io::Error>(&failed).is_some());
/// # }
/// ```
#[derive(Debug)]
pub struct BoxedError(BoxError);

/// A reader of a shared call ([`DedupLayer`](crate::DedupLayer)) was too slow: the layer cut it off, so the other readers
/// need not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DedupLagged {
    /// How long the other readers waited for it.
    pub after: Duration,
}

/// The process that made a shared call ([`DedupLayer`](crate::DedupLayer)) is gone, or became unreachable.
///
/// A store that several processes share ([`Store::HANDS_OVER`](crate::store::Store::HANDS_OVER)) ends the logs of callers
/// in other processes with this error. Callers that have no head yet claim again, and one of them makes the call anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaderGone {
    /// Whether the process is only unreachable from here. It may still run, and become reachable again.
    pub is_unreachable: bool,
}

/// The error of a shared call ([`DedupLayer`](crate::DedupLayer)), for one of its readers.
///
/// `Display` shows the original error, and [`find`] finds it.
#[derive(Clone, Debug)]
pub struct SharedError(Arc<dyn Error + Send + Sync>);

/// A setting that cannot work, found when a layer was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidConfig {
    setting: &'static str,
    reason: &'static str,
}

/// Returns the first error of type `E` in `err` or in the chain of its sources.
///
/// Takes a [`BoxError`], a `dyn Error`, or anything that dereferences to one. Looks into [`io::Error`]s too, whose
/// `source()` skips the error they were made from.
#[must_use]
pub fn find<E: Error + 'static>(err: &(impl Chain + ?Sized)) -> Option<&E> {
    chain(err.head()).find_map(|err| err.downcast_ref())
}

/// Iterates over `err`, its source, the source of that, and so on.
pub(crate) fn chain<'a>(err: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(err), |&err| match err.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => err.source(),
    })
}

/// The argument of [`find`]. Sealed: boxed and unboxed `dyn Error`s.
pub trait Chain: sealed::Sealed {
    #[doc(hidden)]
    fn head(&self) -> &(dyn Error + 'static);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::BoxError {}
    impl Sealed for dyn std::error::Error + Send + Sync {}
    impl Sealed for dyn std::error::Error {}
}

impl Chain for BoxError {
    fn head(&self) -> &(dyn Error + 'static) {
        &**self
    }
}

impl Chain for dyn Error + Send + Sync {
    fn head(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl Chain for dyn Error {
    fn head(&self) -> &(dyn Error + 'static) {
        self
    }
}

// === impl IdleBodyElapsed ===

impl IdleBodyElapsed {
    /// An upstream that was silent for `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl fmt::Display for IdleBodyElapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream sent nothing for {}", Rounded(self.after))
    }
}

impl Error for IdleBodyElapsed {}

// === impl DeadlineExceeded ===

impl DeadlineExceeded {
    /// A call that did not finish within `budget`.
    #[must_use]
    pub const fn new(budget: Duration) -> Self {
        Self { budget }
    }
}

impl fmt::Display for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the call did not finish within its budget of {}", Rounded(self.budget))
    }
}

impl Error for DeadlineExceeded {}

// === impl StreamSilent ===

impl StreamSilent {
    /// An upstream that was silent for `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl fmt::Display for StreamSilent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream sent nothing for {}, heartbeats or not", Rounded(self.after))
    }
}

impl Error for StreamSilent {}

// === impl UnexpectedResponse ===

impl UnexpectedResponse {
    /// An answer with this status.
    #[must_use]
    pub const fn new(status: StatusCode) -> Self {
        Self { status }
    }
}

impl fmt::Display for UnexpectedResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream answered {} where an event stream was expected", self.status.as_u16())
    }
}

impl Error for UnexpectedResponse {}

// === impl ConnectElapsed ===

impl ConnectElapsed {
    /// A connection that was not made within `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl fmt::Display for ConnectElapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no connection within {}", Rounded(self.after))
    }
}

impl Error for ConnectElapsed {}

// === impl WriteElapsed ===

impl WriteElapsed {
    /// A client that accepted no data for `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl fmt::Display for WriteElapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the client accepted no data for {}", Rounded(self.after))
    }
}

impl Error for WriteElapsed {}

// === impl ReplayUnavailable ===

impl ReplayUnavailable {
    /// A body that was taken over, or that failed.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl fmt::Display for ReplayUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this copy of the request body is no longer available")
    }
}

impl Error for ReplayUnavailable {}

// === impl BoxedError ===

impl BoxedError {
    /// Wraps `err`.
    #[must_use]
    pub const fn new(err: BoxError) -> Self {
        Self(err)
    }
}

impl From<BoxError> for BoxedError {
    fn from(err: BoxError) -> Self {
        Self::new(err)
    }
}

impl fmt::Display for BoxedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for BoxedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

// === impl LeaderGone ===

impl LeaderGone {
    /// A call whose process is gone.
    #[must_use]
    pub const fn new() -> Self {
        Self { is_unreachable: false }
    }

    /// A call whose process cannot be reached from here.
    #[must_use]
    pub const fn unreachable() -> Self {
        Self { is_unreachable: true }
    }
}

impl fmt::Display for LeaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_unreachable {
            true => "the process that made the shared call cannot be reached",
            false => "the process that made the shared call is gone",
        })
    }
}

impl Error for LeaderGone {}

// === impl DedupLagged ===

impl DedupLagged {
    /// A reader that delayed the others for `after`.
    #[must_use]
    pub const fn new(after: Duration) -> Self {
        Self { after }
    }
}

impl fmt::Display for DedupLagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this reader was too slow: the other readers of the shared answer waited {}", Rounded(self.after))
    }
}

impl Error for DedupLagged {}

// === impl SharedError ===

impl SharedError {
    /// Makes `err` cloneable.
    #[must_use]
    pub fn new(err: impl Into<BoxError>) -> Self {
        Self(Arc::from(err.into()))
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

// === impl InvalidConfig ===

impl InvalidConfig {
    /// `setting` cannot be used as given, because of `reason`.
    #[must_use]
    pub const fn new(setting: &'static str, reason: &'static str) -> Self {
        Self { setting, reason }
    }

    /// The setting that is wrong.
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.reason)
    }
}

impl Error for InvalidConfig {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrap(BoxError);

    impl fmt::Display for Wrap {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl Error for Wrap {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn a_cause_is_found_through_wrappers_and_io_errors() {
        let cause: BoxError = ConnectElapsed::new(Duration::from_secs(5)).into();
        let err: BoxError = Wrap(io::Error::other(Wrap(cause)).into()).into();
        assert!(find::<ConnectElapsed>(&err).is_some());
        assert!(find::<ConnectElapsed>(&*err).is_some());
        assert!(find::<IdleBodyElapsed>(&err).is_none());
    }
}
