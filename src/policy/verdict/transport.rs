//! Judges an error by the chain of its sources.
//!
//! # Why a feature for hyper's own errors?
//!
//! An [`io::Error`] distinguishes a refused connection from a broken one, and needs only the standard library, in hyper's
//! errors and in others'. Only hyper's own types say more: that a connector failed in another way (name resolution, TLS),
//! that a request never left its queue, that a peer refused a stream. Tower layers should not depend on hyper; an
//! application with a hyper client turns on the feature `hyper`, which also covers the crates built on it (hyper-util,
//! reqwest, tonic).

use std::error::Error;
use std::io;

use super::{Health, Matter, NextStep, Verdict};
use crate::error::{self, ConnectElapsed, DeadlineExceeded};
use crate::policy::upstream_error::UpstreamError;

/// No answer came, or it broke off: whether the request was executed is unknown.
const BROKEN: Verdict = Verdict::new(NextStep::Retry { after: None }, Health::Failure);
/// The request never reached a server that could have executed it.
const UNSENT: Verdict = BROKEN.not_executed();
/// A retry at the same endpoint will not help.
const UNREACHABLE: Verdict = UNSENT.with_next(NextStep::TryAnother);
/// The caller's side of the call failed.
const CALLERS: Verdict = Verdict::new(NextStep::GiveUp, Health::Ignored);
/// Its time is over.
const TOO_LATE: Verdict = CALLERS.with_matter(Matter::Ours);

#[cold]
pub(super) fn classify(err: &(dyn Error + 'static)) -> Verdict {
    if error::find::<ConnectElapsed>(err).is_some() {
        return UNREACHABLE;
    }
    if error::find::<DeadlineExceeded>(err).is_some() {
        return TOO_LATE;
    }
    if let Some(reported) = error::find::<UpstreamError>(err) {
        return reported.verdict();
    }
    #[cfg(feature = "reqwest")]
    if error::chain(err).any(was_never_a_request) {
        return CALLERS.not_executed();
    }
    #[cfg(feature = "tonic")]
    if let Some(verdict) = of_tonic(err) {
        return verdict;
    }
    #[cfg(feature = "hyper")]
    if let Some(verdict) = error::chain(err).find_map(of_hyper) {
        return verdict;
    }
    // Only connect(2) says so.
    let refused = |err: &io::Error| err.kind() == io::ErrorKind::ConnectionRefused;
    if error::chain(err).filter_map(|err| err.downcast_ref()).any(refused) { UNSENT } else { BROKEN }
}

/// Whether reqwest could not build a request, for example from a URI without a host.
#[cfg(feature = "reqwest")]
fn was_never_a_request(err: &(dyn Error + 'static)) -> bool {
    // It returns the inner error's sources instead of the inner error.
    #[cfg(feature = "reqwest-middleware")]
    if let Some(reqwest_middleware::Error::Reqwest(err)) = err.downcast_ref() {
        return err.is_builder();
    }
    err.downcast_ref().is_some_and(reqwest::Error::is_builder)
}

/// tonic's error for a connector's error of any kind, or for its own timer.
#[cfg(feature = "tonic")]
fn of_tonic(err: &(dyn Error + 'static)) -> Option<Verdict> {
    let unsent = error::find::<tonic::ConnectError>(err).map(|_| UNSENT);
    unsent.or_else(|| error::find::<tonic::TimeoutExpired>(err).map(|_| TOO_LATE))
}

/// The verdict on one link of the chain, if it is hyper's and says more than that something broke.
#[cfg(feature = "hyper")]
fn of_hyper(err: &(dyn Error + 'static)) -> Option<Verdict> {
    if let Some(err) = err.downcast_ref::<hyper_util::client::legacy::Error>() {
        // A request that the client refuses to send (HTTP/2 over another connection, no host in its URI) has no source;
        // all its other errors have one.
        let refused = err.source().is_none().then_some(CALLERS.not_executed());
        return if err.is_connect() { Some(UNSENT) } else { refused };
    }
    if let Some(err) = err.downcast_ref::<hyper::Error>() {
        // Dropped from the queue of a connection, before it was written.
        let unsent = (err.is_canceled() || err.is_closed()).then_some(UNSENT);
        // Or the request's own body failed: its sender was dropped.
        return unsent.or((err.is_user() && !was_abandoned(err)).then_some(CALLERS));
    }
    let err = err.downcast_ref::<h2::Error>()?;
    // Reset by the sender, not by the peer or the protocol: its body failed, and h2 gives no cause.
    if err.is_reset() && !err.is_remote() && !err.is_library() {
        return Some(CALLERS);
    }
    // RFC 9113 8.7: a refused stream, and a stream beyond the last that a GOAWAY names, were not processed. (For streams
    // that the peer may have processed, h2 reports a broken connection.)
    let unprocessed = err.is_go_away() || err.reason() == Some(h2::Reason::REFUSED_STREAM);
    (err.is_remote() && unprocessed).then_some(UNSENT)
}

/// The connection broke while the request waited for its turn. hyper reports that as a user error, with no method to
/// distinguish it.
#[cfg(feature = "hyper")]
fn was_abandoned(err: &hyper::Error) -> bool {
    err.source().is_some_and(|why| why.to_string() == "runtime dropped the dispatch task")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::error::BoxError;

    fn of(err: impl Into<BoxError>) -> Verdict {
        let err = error::BoxedError::new(err.into());
        classify(&err)
    }

    #[test]
    fn a_refused_connection_has_carried_nothing() {
        assert_eq!(of(io::Error::from(io::ErrorKind::ConnectionRefused)), UNSENT);
        assert_eq!(of(io::Error::from(io::ErrorKind::ConnectionReset)), BROKEN);
        assert_eq!(of("anything"), BROKEN);
        let wrapped = io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(of(wrapped), UNSENT, "also as a source");
    }

    #[test]
    fn errors_of_this_crate_say_what_they_mean() {
        assert_eq!(of(ConnectElapsed::new(Duration::from_secs(1))), UNREACHABLE);
        assert_eq!(of(DeadlineExceeded::new(Duration::from_secs(1))), TOO_LATE);
        let reported = UpstreamError::new(StatusCode::BAD_GATEWAY, CALLERS);
        assert_eq!(of(reported), CALLERS);
    }

    #[cfg(feature = "hyper")]
    #[test]
    fn a_stream_is_reset_by_its_sender_where_its_body_failed() {
        assert_eq!(of(h2::Error::from(h2::Reason::REFUSED_STREAM)), BROKEN, "told by no peer");
        assert_eq!(of(h2::Error::from(h2::Reason::CANCEL)), BROKEN);
    }
}
