//! One call: what it takes to make it again, and how far it has come.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;

use super::attempt::{Attempt, Attempts};
use super::layer::Config;
use crate::body::replay::{Head, Progress, Replay, ReplayBody};
use crate::event::Event;
use crate::policy::retry::{AttemptResult, Decision, IDEMPOTENCY_KEY, NotRetried, Upload};
use crate::policy::verdict::{NextStep, Outcome, Verdict};
use crate::proto::retry_after;
use crate::rt::clock;
use crate::rt::deadline::Deadline;

pub(super) struct Session<S, B> {
    /// Not ready: each attempt but the first asks it.
    pub(super) service: S,
    config: Arc<Config>,
    head: Head,
    replay: Replay<B>,
    attempt: u32,
    waited: Duration,
}

// === impl Session ===

impl<S, B> Session<S, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    pub(super) fn new(service: S, config: Arc<Config>, head: Head, replay: Replay<B>) -> Self {
        Self { service, config, head, replay, attempt: 1, waited: Duration::ZERO }
    }

    /// The wait before the next attempt; `None` where this was the last. Then the result is what the caller gets.
    pub(super) fn judge<R, E: Error + 'static>(&mut self, result: &mut Result<Response<R>, E>) -> Option<Duration> {
        let verdict = self.config.classifier.classify(&Outcome::of(result));
        let decision =
            if verdict.next == NextStep::Done { Decision::Return } else { self.decide(verdict, result.is_ok()) };
        if let Decision::Retry(wait) = decision {
            return Some(wait);
        }
        if let Ok(response) = result {
            if self.attempt > 1 {
                response.extensions_mut().insert(Attempts(self.attempt));
            }
            if self.config.mark_exhausted && decision == Decision::NotRetried(NotRetried::AttemptsSpent) {
                retry_after::forbid_retry(response.headers_mut());
            }
        }
        None
    }

    #[cold]
    fn decide(&mut self, verdict: Verdict, answered: bool) -> Decision {
        let now = clock::now();
        let finished = AttemptResult {
            verdict,
            attempt: self.attempt,
            asked: verdict.retry_after().map(|after| after.wait(clock::wall())),
            idempotent: self.head.method.is_idempotent() || self.head.has(&IDEMPOTENCY_KEY),
            upload: self.upload(answered),
            waited: self.waited,
            remaining: Deadline::remaining_for_attempt(&self.head.extensions, now),
        };
        let mut decision = self.config.policy.decide(&finished, now, &mut self.config.entropy.rng());
        if let Decision::Retry(_) = decision {
            // Whoever waits for its answer, the connection may still be reading, and may have gone too far just now.
            match self.replay.take_over() {
                Progress::TooLarge => decision = Decision::NotRetried(NotRetried::BodyTooLarge),
                Progress::Failed => decision = Decision::NotRetried(NotRetried::BodyFailed),
                Progress::Unread | Progress::Partial | Progress::Whole => {}
            }
        }
        match decision {
            Decision::Return => {}
            Decision::NotRetried(reason) => self.config.emitter.emit(&Event::NotRetried { reason }),
            Decision::Retry(wait) => {
                self.waited = wait;
                self.config.emitter.emit(&Event::RetryScheduled { attempt: self.attempt + 1, wait });
            }
        }
        decision
    }

    fn upload(&self, answered: bool) -> Upload {
        match self.replay.progress() {
            Progress::Unread | Progress::Whole => Upload::Repeatable,
            Progress::Partial if answered => Upload::CutShort,
            // Nobody answered: what of it was sent is lost with the connection.
            Progress::Partial => Upload::Repeatable,
            Progress::TooLarge => Upload::TooLarge,
            Progress::Failed => Upload::Failed,
        }
    }

    /// The next attempt. `service` is ready.
    pub(super) fn call_again(&mut self) -> S::Future
    where
        S: tower_service::Service<Request<ReplayBody<B>>>,
    {
        self.attempt += 1;
        let mut head = self.head.restore();
        Deadline::refresh_headers(&mut head, clock::now());
        head.extensions.insert(Attempt(self.attempt));
        if let Some(name) = &self.config.attempt_header {
            head.headers.insert(name, HeaderValue::from(self.attempt));
        }
        self.service.call(Request::from_parts(head, self.replay.copy()))
    }
}
