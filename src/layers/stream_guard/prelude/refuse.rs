//! The refusal that replaces a faulty body.

use bytes::{Bytes, BytesMut};
use http::response::Parts;
use http::{Response, StatusCode};
use http_body::Body;

use super::super::refusal;
use super::super::watch::BodyWatch;
use super::{Decision, PreludeContent, WithheldPrelude};
use crate::error::{BoxError, StreamTruncated, UpstreamError};
use crate::event::{Event, StreamFault};
use crate::policy::verdict::{Health, Matter, NextStep, Verdict};
use crate::proto::dialect::{Fault, Kind, StreamError};
use crate::rejection::{Rejection, RejectionKind};

pub(super) const RETRY: Verdict = Verdict::new(NextStep::retry(None), Health::Failure).with_matter(Matter::Upstream);
pub(super) const NO_MEMORY: Verdict = Verdict::new(NextStep::GiveUp, Health::Ignored).with_matter(Matter::Ours);
pub(super) const ANOTHER: Verdict = Verdict::new(NextStep::TryAnother, Health::Success).with_matter(Matter::Request);

// === impl WithheldPrelude ===

impl<B> WithheldPrelude<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError> + 'static> + Unpin + 'static,
{
    /// Notes the error in the body of a 4xx or 5xx in its extensions.
    pub(super) fn read_error(&mut self) {
        let body = self.joined();
        let (Some(head), Some(fault)) = (&mut self.head, Fault::of_body(&body)) else { return };
        let error = refusal::judged(Some(&fault), Some(head.status), &head.headers, &self.config);
        head.extensions.insert(error);
    }

    fn joined(&self) -> Bytes {
        if let (Some(only), 1) = (self.held.data().next(), self.held.frames()) {
            return only.clone();
        }
        let mut joined = BytesMut::with_capacity(self.held.bytes());
        self.held.data().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }

    pub(super) fn failed(&mut self, err: BoxError) -> Decision {
        match self.content {
            // The upstream's status is the answer, even if its body failed.
            PreludeContent::Error(..) | PreludeContent::Over => Decision::Broken(err),
            PreludeContent::Stream(_) | PreludeContent::Answer(..) => {
                Decision::Reject(Rejection::new(RejectionKind::BodyFailed).with_source(err))
            }
        }
    }

    pub(super) fn refuse_failure(&mut self) -> Decision {
        let (PreludeContent::Stream(stream), Some(head)) = (&self.content, &mut self.head) else {
            return Decision::Release(BodyWatch::Nothing);
        };
        let Some(failure) = stream.state.failure() else { return Decision::Release(BodyWatch::Nothing) };
        let error = refusal::stream_error(&stream.state, failure, &head.headers);
        let body = refusal::body_of(failure.data.clone(), stream.state.kind(), &error);
        self.fault(StreamFault::UpstreamError);
        self.refuse(|head| refusal::of_error(head, error, body))
    }

    pub(super) fn refuse_answer(&mut self, fault: &Fault, kind: Option<Kind>) -> Decision {
        let Some(head) = &self.head else { return Decision::Release(BodyWatch::Nothing) };
        let error = refusal::judged(Some(fault), None, &head.headers, &self.config);
        let body = refusal::body_of(self.joined(), kind, &error);
        self.fault(StreamFault::UpstreamError);
        self.refuse(|head| refusal::of_error(head, error, body))
    }

    pub(super) fn refuse_truncated(&mut self, truncated: StreamTruncated) -> Decision {
        self.fault(StreamFault::Truncated);
        self.refuse(|head| refusal::of_truncated(head, truncated))
    }

    /// Refuses for a reason that the upstream has not named.
    pub(super) fn refuse_as(&mut self, code: &'static str, message: &'static str, verdict: Verdict) -> Decision {
        let kind = match &self.content {
            PreludeContent::Stream(stream) => stream.state.kind(),
            PreludeContent::Answer(answer) => answer.dialect.kind(),
            PreludeContent::Error(..) | PreludeContent::Over => None,
        };
        let body = StreamError::of_status(502).code(code).message(message).body(kind);
        let error = UpstreamError::new(StatusCode::BAD_GATEWAY, verdict).with_names(Some(code), None);
        let error = error.with_known_name(Some(code));
        self.refuse(|head| refusal::of_error(head, error.with_message(message), body.into()))
    }

    fn refuse(&mut self, refuse: impl FnOnce(Parts) -> Response<Bytes>) -> Decision {
        // The head moves into the refusal; an empty one replaces it.
        match self.head.replace(Response::new(()).into_parts().0) {
            Some(head) => Decision::Refuse(refuse(head)),
            None => Decision::Release(BodyWatch::Nothing),
        }
    }

    fn fault(&self, fault: StreamFault) {
        self.config.emitter.emit(&Event::StreamFailed { fault });
    }
}
