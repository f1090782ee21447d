//! One call: what it takes to make it elsewhere.

use std::error::Error;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Request, Response};

use super::layer::{Config, NAME};
use super::served_by::ServedBy;
use crate::body::request::CallBody;
use crate::body::request::ReadState;
use crate::body::request::Resend;
use crate::event::Event;
use crate::policy::verdict::{NextStep, Outcome};
use crate::proto::credentials;
use crate::rt::clock;

pub(super) struct Session<Bk> {
    config: Arc<Config<Bk>>,
    resend: Resend,
}

// === impl Session ===

impl<Bk> Session<Bk> {
    pub(super) fn new(config: Arc<Config<Bk>>, resend: Resend) -> Self {
        Self { config, resend }
    }

    /// Whether somebody else should be asked.
    pub(super) fn needs_backup<R, E: Error + 'static>(&self, result: &Result<Response<R>, E>) -> bool {
        let verdict = self.config.classifier.classify(&Outcome::of(result));
        match verdict.next {
            NextStep::Done | NextStep::GiveUp => false,
            // Whoever waits for its answer, the primary's connection may still be reading.
            NextStep::TryAnother | NextStep::Retry { .. } => self.can_resend(Resend::take_over),
        }
    }

    /// Whether the request can still be sent to somebody else, after the body has come so far; says why not.
    #[cold]
    pub(super) fn can_resend(&self, state: impl FnOnce(&Resend) -> ReadState) -> bool {
        let reason = if self.resend.remaining(clock::now()).is_some_and(|left| left.is_zero()) {
            "the deadline of the call has passed"
        } else {
            match state(&self.resend) {
                ReadState::TooLarge => "the request body is larger than the replay limit",
                ReadState::Failed => "the request body failed",
                _ => return true,
            }
        };
        self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
        false
    }

    /// A copy of the request body to be read whole first, where the request is to be rewritten.
    pub(super) fn to_rewrite(&self) -> Option<CallBody> {
        self.config.rewrite.as_ref().map(|_| self.resend.body())
    }

    /// The backup, not ready yet.
    pub(super) fn backup(&self) -> Option<Bk>
    where
        Bk: Clone,
    {
        let backup = self.config.backup();
        if backup.is_some() {
            self.config.emitter.emit(&Event::FallbackUsed { to: self.config.name.clone() });
        }
        backup
    }

    /// The request as the backup is to see it.
    pub(super) fn request(&self) -> Request<CallBody> {
        let (mut head, body) = self.resend.next(clock::now()).into_parts();
        if !self.config.forward_credentials {
            credentials::withhold(&mut head);
        }
        match (&self.config.rewrite, self.resend.whole_body()) {
            (Some(rewrite), Some(data)) => {
                let before = data.len();
                let mut request = (rewrite.0)(Request::from_parts(head, data));
                // The length that the caller gave is not that of what is sent now.
                if request.body().len() != before && request.headers().contains_key(CONTENT_LENGTH) {
                    let length = HeaderValue::from(request.body().len());
                    request.headers_mut().insert(CONTENT_LENGTH, length);
                }
                request.headers_mut().remove(TRANSFER_ENCODING);
                request.map(CallBody::from)
            }
            _ => Request::from_parts(head, body),
        }
    }

    /// The backup's answer, if it serves the call.
    pub(super) fn served<R, E>(&self, result: Result<Response<R>, E>) -> Option<Response<R>> {
        let is_done =
            |response: &Response<R>| self.config.classifier.classify(&Outcome::head(response)).next == NextStep::Done;
        let Some(mut response) = result.ok().filter(is_done) else {
            self.config.emitter.emit(&Event::BackupFailed { name: self.config.name.clone() });
            return None;
        };
        // In a chain, the one that did it has put its name there.
        if response.extensions().get::<ServedBy>().is_none() {
            response.extensions_mut().insert(ServedBy::new(self.config.name.clone()));
        }
        Some(response)
    }
}
