//! The state of one call, and its further attempts.

use std::error::Error;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Request, Response};
use tower_service::Service;

use super::config::Config;
use crate::body::request::{CallBody, ReadState, Resend};
use crate::call::{Attempt, Attempts, CallInfo, Notice, Notices, RetryReport};
use crate::event::Event;
use crate::policy::retry::{AttemptResult, NotRetried, RetryDecision, UploadState, is_idempotent};
use crate::policy::verdict::{NextStep, Outcome, RequestView, Verdict};
use crate::proto::grpc::{self, Pushback};
use crate::proto::retry_after;
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;

pub(super) struct Session<S> {
    /// Not ready: each attempt after the first waits for it.
    pub(super) service: S,
    config: ThreadArc<Config>,
    resend: Resend,
    /// When the call began, if that matters.
    started: Option<Instant>,
    attempt: u32,
    waited: Duration,
}

/// The decision after an attempt.
enum Decided {
    Retry(Duration),
    /// Return its result; `is_final`: retries of the caller would only repeat it.
    Return {
        is_final: bool,
    },
}

/// Until when to wait, and until when to read the failed answer.
#[derive(Clone, Copy)]
pub(super) struct RetryWait {
    /// `None`: beyond the clock's range.
    pub(super) until: Option<Instant>,
    drain_until: Instant,
}

/// An error that takes longer is not worth its connection: it may hold an HTTP/2 stream or a place in a queue meanwhile.
const MAX_DRAIN: Duration = Duration::from_secs(1);

fn forbids_retry(headers: &HeaderMap) -> bool {
    retry_after::should_retry(headers) == Some(false) || grpc::pushback(headers) == Some(Pushback::Never)
}

// === impl Session ===

impl<S> Session<S> {
    pub(super) fn new(service: S, config: ThreadArc<Config>, resend: Resend) -> Self {
        let started = config.policy.max_elapsed.map(|_| clock::now());
        let session = Self { service, config, resend, started, attempt: 1, waited: Duration::ZERO };
        session.report(false);
        session
    }

    /// Returns the wait before the next attempt; `None` if this was the last. Then the caller gets its result.
    pub(super) fn judge<R, E: Error + 'static>(&mut self, result: &mut Result<Response<R>, E>) -> Option<RetryWait> {
        let head = self.resend.head();
        let request = RequestView::new(&head.method, &head.uri, &head.extensions);
        let verdict = self.config.classifier.classify(&Outcome::of(result).with_request(request));
        let decided = match verdict.next {
            NextStep::Done => Decided::Return { is_final: false },
            _ => self.decide(verdict, &Outcome::of(result)),
        };
        let is_final = match decided {
            Decided::Retry(wait) => return Some(RetryWait::from_now(wait)),
            Decided::Return { is_final } => is_final,
        };
        self.report(is_final);
        if let Ok(response) = result {
            if self.attempt > 1 {
                response.extensions_mut().insert(Attempts(self.attempt));
            }
            if is_final && self.config.mark_exhausted {
                retry_after::forbid_retry(response.headers_mut());
            }
        }
        None
    }

    #[cold]
    fn decide(&mut self, verdict: Verdict, outcome: &Outcome<'_>) -> Decided {
        let now = clock::now();
        let result = AttemptResult {
            verdict,
            status: outcome.status(),
            attempt: self.attempt,
            retry_after: verdict.retry_after().map(|after| after.wait(clock::wall())),
            forbidden: [outcome.headers(), outcome.trailers()].into_iter().flatten().any(forbids_retry),
            idempotent: is_idempotent(&self.resend.head().method, &self.resend.head().headers),
            upload: self.upload(outcome.status().is_some()),
            waited: self.waited,
            remaining: self.resend.remaining(now),
            elapsed: self.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started)),
        };
        let mut decision = self.config.policy.decide(&result, &mut self.config.entropy.rng());
        if let RetryDecision::Retry(_) = decision {
            // Checked last: an attempt that is not retried for another reason costs no budget.
            if !self.config.budget.withdraw(now) {
                decision = RetryDecision::NotRetried(NotRetried::Budget);
            }
        }
        if let RetryDecision::Retry(_) = decision {
            // The connection may still read the body, whatever its answer, and may have read too much just now.
            match self.resend.take_over() {
                ReadState::TooLarge => decision = RetryDecision::NotRetried(NotRetried::BodyTooLarge),
                ReadState::Failed => decision = RetryDecision::NotRetried(NotRetried::BodyFailed),
                ReadState::Unread | ReadState::Partial | ReadState::Whole => {}
            }
        }
        match decision {
            RetryDecision::Return => {}
            RetryDecision::NotRetried(reason) => self.config.emitter.emit(&Event::NotRetried { reason }),
            RetryDecision::Retry(wait) => {
                self.waited = wait;
                let attempt = self.attempt + 1;
                self.config.emitter.emit(&Event::RetryScheduled { attempt, wait });
                Notices::report(&self.resend.head().extensions, || Notice::Retry { attempt, wait });
                return Decided::Retry(wait);
            }
        }
        Decided::Return { is_final: result.is_final(decision) }
    }

    /// Reports the state of the call to a caller that keeps a [`RetryReport`].
    pub(super) fn report(&self, is_final: bool) {
        if let Some(report) = self.resend.head().extensions.get::<RetryReport>() {
            report.set(self.attempt, is_final);
        }
    }

    fn upload(&self, answered: bool) -> UploadState {
        match self.resend.state() {
            ReadState::Unread | ReadState::Whole => UploadState::Repeatable,
            ReadState::Partial if answered => UploadState::CutShort,
            // Without an answer, the sent part is lost with the connection.
            ReadState::Partial => UploadState::Repeatable,
            ReadState::TooLarge => UploadState::TooLarge,
            ReadState::Failed => UploadState::Failed,
        }
    }

    /// Makes the next attempt. `service` is ready.
    pub(super) fn call_again(&mut self) -> S::Future
    where
        S: Service<Request<CallBody>>,
    {
        self.attempt += 1;
        self.report(false);
        let mut request = self.resend.next(clock::now());
        request.extensions_mut().insert(Attempt(self.attempt));
        if let Some(call) = CallInfo::in_extensions(request.extensions()) {
            call.set_attempt(self.attempt);
        }
        if let Some(name) = &self.config.attempt_header {
            request.headers_mut().insert(name, HeaderValue::from(self.attempt));
        }
        self.service.call(request)
    }
}

// === impl RetryWait ===

impl RetryWait {
    fn from_now(wait: Duration) -> Self {
        let now = clock::now();
        Self { until: now.checked_add(wait), drain_until: now.checked_add(MAX_DRAIN).unwrap_or(now) }
    }

    pub(super) fn stops_reading(self) -> Instant {
        self.until.map_or(self.drain_until, |until| until.min(self.drain_until))
    }
}
