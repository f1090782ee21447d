//! What is kept of a request until its answer has arrived.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH};
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::config::{Config, NAME};
use super::resume_source::ResumeSource;
use super::session::Session;
use crate::body::request::{CallBody, Resend, head_of};
use crate::call::NoRetry;
use crate::event::Event;
use crate::proto::event_stream::EventStream;
use crate::proto::resume::Recognised;
use crate::proto::{bodiless, digests};
use crate::rt::clock;

/// The state to continue an answer that has not arrived yet.
pub(super) struct PendingStream<S> {
    service: S,
    config: Arc<Config>,
    kept: ResumeSource,
    /// The server's cursor, if it has one.
    recognised: Option<Recognised>,
}

const IDENTITY: HeaderValue = HeaderValue::from_static("identity");

// === impl PendingStream ===

impl<S> PendingStream<S> {
    /// Keeps the parts of a request whose answer may be continued. `None`: it passes unchanged.
    pub(super) fn keep(service: &S, config: &Arc<Config>, request: &mut Request<CallBody>) -> Option<Self>
    where
        S: Clone,
    {
        if request.extensions().get::<NoRetry>().is_some() || bodiless::to_method(request.method()) {
            return None;
        }
        let recognised = config.recognise(request);
        let restarts = config.may_restart(request);
        if recognised.is_none() && !restarts {
            return None;
        }
        // A compressed stream cannot be followed.
        let accepted = request.headers_mut().insert(ACCEPT_ENCODING, IDENTITY);
        if let Some(kept) = source(config, request, recognised.as_ref(), restarts) {
            config.budget.deposit(clock::now);
            let (service, config) = (service.clone(), Arc::clone(config));
            return Some(Self { service, config, kept, recognised });
        }
        let reason = "the request body is larger than the replay limit";
        config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
        // It is not followed.
        match accepted {
            Some(accepted) => request.headers_mut().insert(ACCEPT_ENCODING, accepted),
            None => request.headers_mut().remove(ACCEPT_ENCODING),
        };
        None
    }

    /// Follows the answer, if that is a stream of events.
    pub(super) fn follow<B>(self, response: &mut Response<B>) -> Option<Box<Session<S>>>
    where
        S: Service<Request<CallBody>, Response = Response<B>> + Clone,
        B: Body<Data = Bytes>,
    {
        if !response.status().is_success() {
            return None;
        }
        match EventStream::of(response.headers()) {
            EventStream::Plain => {}
            EventStream::Encoded => {
                let reason = "the event stream is compressed";
                self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
                return None;
            }
            EventStream::No => return None,
        }
        // The rest may have other bytes, and another length, than the original.
        response.headers_mut().remove(CONTENT_LENGTH);
        digests::remove(response.headers_mut());
        Some(Box::new(Session::new(self.service, self.config, self.kept, self.recognised, response)))
    }
}

/// Keeps the source of the requests for the rest; `None` if it is too large.
fn source(
    config: &Config,
    request: &mut Request<CallBody>,
    recognised: Option<&Recognised>,
    restarts: bool,
) -> Option<ResumeSource> {
    let resends = recognised.is_some_and(|recognised| recognised.by.resend);
    let mut kept = None;
    if resends || restarts {
        let resend = Resend::keep(request, config.replay_limit, &config.memory);
        kept = resend.map(|resend| ResumeSource::Request { resend: Box::new(resend), restarts });
    }
    // With a cursor that needs no body, the head alone will do.
    if kept.is_none() && recognised.is_some() && !resends {
        kept = Some(ResumeSource::Head(Box::new(head_of(request))));
    }
    kept
}
