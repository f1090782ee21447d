//! What is kept of a request, and the requests that are made of it.

use std::time::Instant;

use http::Request;
use http::request::Parts;

use crate::body::request::{CallBody, Resend};
use crate::call::{AsksForRest, NoRetry, PinTo};
use crate::policy::resume::StreamFollower;
use crate::proto::prompt;
use crate::proto::resume::{Rest, rest_of};
use crate::rt::deadline::Deadline;

/// What the request for the rest is made of.
pub(super) enum ResumeSource {
    Head(Box<Parts>),
    Request {
        resend: Box<Resend>,
        /// Whether the answer may be made anew.
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

    /// The request for what follows what was handed on.
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
        // It is this layer that asks again: what is inside would only multiply that.
        head.extensions.insert(NoRetry);
        head.extensions.insert(AsksForRest);
        let body = match rest {
            Rest::Nothing => CallBody::empty(),
            Rest::Same => body,
            Rest::Changed(changed) => changed.into(),
        };
        Some(Request::from_parts(head, body))
    }

    /// Whether the request asks for several answers, as far as it was kept.
    pub(super) fn asks_for_several(&self) -> bool {
        match self {
            Self::Head(_) => false,
            Self::Request { resend, .. } => resend.whole_body().is_some_and(|body| prompt::asks_for_several(&body)),
        }
    }

    /// The request for another answer: the same once more, to this upstream where one is given.
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
