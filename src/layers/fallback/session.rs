//! One call, and the state for calling the backup.

use std::error::Error;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Request, Response};

use super::config::{Config, NAME};
#[cfg(feature = "schema")]
use crate::body::output_usage::OutputUsage;
use crate::body::request::{CallBody, ReadState, Resend};
use crate::call::{Authenticated, Notice, Notices, ServedBy};
use crate::event::Event;
use crate::policy::fallback::Trust;
use crate::policy::verdict::{Matter, NextStep, Outcome, RequestView};
use crate::proto::{credentials, digests};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;

pub(super) struct Session<Bk> {
    config: ThreadArc<Config<Bk>>,
    resend: Resend,
    reason: Reason,
    /// The usage of an answer of the backup's that is not returned.
    #[cfg(feature = "schema")]
    pub(super) spent: Option<OutputUsage>,
}

/// Why the backup is asked.
#[derive(Clone, Copy)]
enum Reason {
    /// The primary failed, for this cause.
    Failed(Matter),
    /// The call is pinned to it.
    Pinned,
}

const ANOTHER_CREDENTIAL: &str = "the backup has another credential, and the caller could provoke this failure";

// === impl Session ===

impl<Bk> Session<Bk> {
    pub(super) fn new(config: ThreadArc<Config<Bk>>, resend: Resend) -> Self {
        Self::with(config, resend, Reason::Failed(Matter::Upstream))
    }

    pub(super) fn pinned(config: ThreadArc<Config<Bk>>, resend: Resend) -> Self {
        Self::with(config, resend, Reason::Pinned)
    }

    fn with(config: ThreadArc<Config<Bk>>, resend: Resend, reason: Reason) -> Self {
        Self {
            config,
            resend,
            reason,
            #[cfg(feature = "schema")]
            spent: None,
        }
    }

    /// Whether to ask the backup after this result of the primary.
    pub(super) fn needs_backup<R, E: Error + 'static>(&mut self, result: &Result<Response<R>, E>) -> bool {
        let verdict = self.config.classifier.classify(&Outcome::of(result).with_request(self.request_view()));
        self.reason = Reason::Failed(verdict.matter);
        let failed = matches!(verdict.next, NextStep::TryAnother | NextStep::Retry { .. });
        // The primary's connection may still read the body, whatever its answer.
        failed && self.may_ask(verdict.matter) && self.can_resend(Resend::take_over)
    }

    /// Whether the backup may be asked for this cause, with its credential.
    #[cold]
    fn may_ask(&self, matter: Matter) -> bool {
        let allowed = self.trust().allows(matter);
        if !allowed {
            self.bypass(ANOTHER_CREDENTIAL);
        }
        allowed
    }

    fn trust(&self) -> Trust {
        let head = self.resend.head();
        Trust {
            own: self.config.own_credentials,
            // Without a credential nothing is forwarded: the backup's own service adds its credential.
            forwarded: self.config.forward_credentials && credentials::has_any(&head.headers, &head.uri),
            authenticated: Authenticated::is_in(&head.extensions),
        }
    }

    /// Whether the request can still be sent, given the state of its body; reports why not.
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
        self.bypass(reason);
        false
    }

    /// A copy of the request body to be read first, if the request is to be rewritten.
    pub(super) fn to_rewrite(&self) -> Option<CallBody> {
        self.config.rewrite.as_ref().map(|_| self.resend.body())
    }

    /// Returns the backup, not ready yet.
    pub(super) fn backup(&self) -> Option<Bk>
    where
        Bk: Clone,
    {
        self.config.backup()
    }

    /// Returns the request for the backup; `None` if a rewrite has added a credential that must not be used.
    pub(super) fn request(&self) -> Option<Request<CallBody>> {
        let (mut head, body) = self.resend.next(clock::now()).into_parts();
        if !self.config.forward_credentials {
            credentials::withhold(&mut head);
        }
        let request = match (&self.config.rewrite, self.resend.whole_body()) {
            (Some(rewrite), Some(data)) => {
                let before = data.clone();
                // The caller's digests are valid only if the rewrite does not change the body. The rewrite may set new
                // ones.
                let digests = digests::take(&mut head.headers);
                let mut request = (rewrite.0)(Request::from_parts(head, data));
                let length = request.body().len();
                if *request.body() == before {
                    digests::restore(request.headers_mut(), digests);
                }
                if length != before.len() && request.headers().contains_key(CONTENT_LENGTH) {
                    request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
                }
                request.headers_mut().remove(TRANSFER_ENCODING);
                let (head, body) = request.into_parts();
                if !self.may_send(&head) {
                    self.bypass(ANOTHER_CREDENTIAL);
                    return None;
                }
                Request::from_parts(head, body.into())
            }
            _ => Request::from_parts(head, body),
        };
        if let Reason::Failed(_) = self.reason {
            self.config.emitter.emit(&Event::FallbackUsed { to: self.config.name.clone() });
            Notices::report(request.extensions(), || Notice::Fallback { to: self.config.name.clone() });
        }
        Some(request)
    }

    /// Whether the backup may be asked with the credentials in this head after the rewrite.
    fn may_send(&self, rewritten: &Parts) -> bool {
        match self.reason {
            Reason::Pinned => true,
            Reason::Failed(matter) => {
                let forwarded = credentials::are_equal(self.resend.head(), rewritten);
                let trust = self.trust();
                Trust { forwarded: trust.forwarded && forwarded, ..trust }.allows(matter)
            }
        }
    }

    /// Returns the backup's answer, if it serves the call or the call is pinned to it.
    pub(super) fn served<R, E>(&mut self, result: Result<Response<R>, E>) -> Option<Response<R>> {
        #[cfg(feature = "schema")]
        let spent = result.as_ref().ok().and_then(|response| OutputUsage::of(response.extensions()));
        let accepted = |response: &Response<R>| match self.reason {
            Reason::Pinned => true,
            Reason::Failed(_) => {
                let outcome = Outcome::head(response).with_request(self.request_view());
                self.config.classifier.classify(&outcome).next == NextStep::Done
            }
        };
        let Some(mut response) = result.ok().filter(accepted) else {
            self.config.emitter.emit(&Event::BackupFailed { name: self.config.name.clone() });
            #[cfg(feature = "schema")]
            {
                self.spent = spent;
            }
            return None;
        };
        ServedBy::mark(response.extensions_mut(), &self.config.name);
        Some(response)
    }

    fn request_view(&self) -> RequestView<'_> {
        let head = self.resend.head();
        RequestView::new(&head.method, &head.uri, &head.extensions)
    }

    /// How long a request that is to be rewritten may take to arrive.
    pub(super) fn read_timeout(&self) -> Duration {
        self.config.read_timeout
    }

    pub(super) fn bypass(&self, reason: &'static str) {
        self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
    }
}
