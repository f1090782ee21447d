//! The recorded request, and the requests made from it.

use std::time::Instant;

use http::Request;
use http::request::Parts;

use crate::body::request::{CallBody, Resend};
use crate::call::{AsksForRest, NoRetry, PinTo};
use crate::policy::resume::StreamFollower;
use crate::proto::prompt;
use crate::proto::resume::{Rest, rest_of};
use crate::rt::deadline::Deadline;

/// The source of requests for the rest.
pub(super) enum ResumeSource {
    Head(Box<Parts>),
    Request {
        resend: Box<Resend>,
        /// Whether a verified restart is possible.
        restarts: bool,
    },
}

// === impl ResumeSource ===

impl ResumeSource {
    pub(super) fn head(&self) -> &Parts {
        match self {
            Self::Head(head) => head,
            Self::Request { resend, .. } => resend.head(),
        }
    }

    /// Returns the request for the data after the forwarded part.
    pub(super) fn rest(&self, follower: &StreamFollower, origin: &PinTo, now: Instant) -> Option<Request<CallBody>> {
        let (mark, by) = (follower.position()?, follower.by()?);
        let (mut head, body, whole) = match self {
            kept if !by.resend => (kept.head().clone(), CallBody::empty(), None),
            Self::Request { resend, .. } if resend.take_over().is_repeatable() => {
                let (head, body) = resend.next(now).into_parts();
                (head, body, resend.whole_body())
            }
            _ => return None,
        };
        Deadline::refresh_headers(&mut head, now);
        let rest = rest_of(&mut head, by, &mark, follower.id(), whole.as_ref())?;
        head.extensions.insert(origin.clone());
        // This layer retries itself: layers inside would only multiply the attempts.
        head.extensions.insert(NoRetry);
        head.extensions.insert(AsksForRest);
        let body = match rest {
            Rest::Nothing => CallBody::empty(),
            Rest::Same => body,
            Rest::Changed(changed) => changed.into(),
        };
        Some(Request::from_parts(head, body))
    }

    /// Whether the request asks for several answers, as far as it was recorded.
    pub(super) fn asks_for_several(&self) -> bool {
        match self {
            Self::Head(_) => false,
            Self::Request { resend, .. } => resend.whole_body().is_some_and(|body| prompt::asks_for_several(&body)),
        }
    }

    /// Returns the same request once more, to this upstream if given.
    pub(super) fn same(&self, origin: Option<&PinTo>, now: Instant) -> Option<Request<CallBody>> {
        let Self::Request { resend, restarts: true } = self else { return None };
        if !resend.take_over().is_repeatable() {
            return None;
        }
        let mut request = resend.next(now);
        if let Some(origin) = origin {
            request.extensions_mut().insert(origin.clone());
        }
        Some(request)
    }
}
