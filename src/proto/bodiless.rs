//! The answers that have no body, whatever their headers say (RFC 9110, sections 6.4.1 and 9.3; RFC 9112, 6.3).

use http::{Method, StatusCode};

/// The answer to such a request is only a head, or a tunnel follows it.
#[inline]
pub(crate) fn to_method(method: &Method) -> bool {
    matches!(*method, Method::HEAD | Method::CONNECT)
}

/// An answer with this status is only a head.
#[inline]
pub(crate) fn with_status(status: StatusCode) -> bool {
    use StatusCode as Is;
    matches!(status, Is::SWITCHING_PROTOCOLS | Is::NO_CONTENT | Is::RESET_CONTENT | Is::NOT_MODIFIED)
}
