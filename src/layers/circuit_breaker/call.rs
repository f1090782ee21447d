//! One call, from its permit to the end of its body.
//!
//! ```text
//!          first data, or a head without a body            the body ends
//! Waiting ─────────────────────────────────────▶ Streaming ─────────────▶ Over
//!    │ failed: it counts                            │ failed: its success is taken back
//!    │ dropped: it counts if it waited too long     │ dropped: its success stands
//! ```

use std::error::Error;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;

use super::caller;
use super::classification::{needs_trailers, of_error, of_head, of_missing_trailers, of_trailers};
use super::permit::Permit;
use super::shard::{CounterShard, Nanos};
use crate::body::boxed::Polled;
use crate::body::observed::{BodyObserver, Outcome};
use crate::policy::breaker::{CallResult, Caller, Counted};
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::verdict::{Classifier, Health};
use crate::rt::clock;

/// Says exactly once what came of a call, whatever happens to it.
#[derive(Debug)]
pub(super) struct Call {
    phase: Phase,
    classifier: Classifier,
    request: RequestFacts,
    /// When it began, where it matters how long it takes.
    started: Nanos,
    /// Since when it waits for its first data; of a stream, when data last was evidence of life.
    since: Nanos,
    /// Whether the inner body had nothing when it was last polled.
    pending: bool,
    /// A gRPC stream that ends without trailers has failed.
    needs_trailers: bool,
    /// What the trailers said, if it was no success.
    trailers: Option<Box<CallResult>>,
}

#[derive(Debug)]
enum Phase {
    Waiting(Permit),
    Streaming(Arc<CounterShard>, Counted),
    Over,
}

/// What is to be known of a request that has been sent on.
#[derive(Clone, Copy, Debug)]
struct RequestFacts {
    caller: Caller,
    /// The limit for the first byte that the request itself names.
    first_byte: Option<Duration>,
    /// Whether it was wholly sent when the call began.
    sent: bool,
    /// Whether its answer has no body that is read.
    for_head: bool,
}

/// Counts the call as failed, unless it is [disarmed](Self::disarm): what ran meanwhile has panicked.
struct PanicGuard<'a>(&'a mut Call);

/// Data of one stream is evidence of life this often.
const EVIDENCE: Duration = Duration::from_secs(1);

// === impl Call ===

impl Call {
    #[inline]
    pub(super) fn new<B: Body>(permit: Permit, classifier: Classifier, request: &Request<B>) -> Self {
        let shard = &permit.shard;
        let started = if shard.limits().has_slow() { shard.nanos(clock::now()) } else { Nanos::NONE };
        Self {
            request: RequestFacts {
                caller: caller::of(request),
                first_byte: request.extensions().get().map(|profile: &TimeoutProfile| profile.first_byte),
                sent: request.body().is_end_stream(),
                for_head: matches!(*request.method(), Method::HEAD | Method::CONNECT),
            },
            phase: Phase::Waiting(permit),
            classifier,
            started,
            since: Nanos::NONE,
            pending: false,
            needs_trailers: false,
            trailers: None,
        }
    }

    /// Runs a part of the call that may panic, and then has failed.
    #[inline]
    pub(super) fn run<T>(call: &mut Option<Self>, run: impl FnOnce() -> T) -> T {
        let guard = call.as_mut().map(PanicGuard);
        let result = run();
        if let Some(guard) = guard {
            guard.disarm();
        }
        result
    }

    /// Polls what the call waits for. While it waits for its first data, that is waiting for the upstream.
    #[inline]
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let guard = PanicGuard(self);
        let polled = poll(cx);
        guard.disarm();
        if polled.is_pending() {
            self.waits();
        }
        polled
    }

    #[inline]
    fn waits(&mut self) {
        self.pending = true;
        if let (Phase::Waiting(permit), true) = (&self.phase, self.since.is_none()) {
            self.since = permit.shard.nanos(clock::now());
            permit.shard.begin_wait(self.since);
        }
    }

    /// The head is here. Returns the call if its body is to be observed.
    #[inline]
    pub(super) fn head<B: Body>(mut self, response: &Response<B>) -> Option<Self> {
        use StatusCode as Is;
        let result = of_head(&self.classifier, response);
        let bodiless = self.request.for_head
            || matches!(
                response.status(),
                Is::SWITCHING_PROTOCOLS | Is::NO_CONTENT | Is::RESET_CONTENT | Is::NOT_MODIFIED
            );
        // What is known from the head needs no body: its caller may not want to read it.
        if result.health != Health::Success || bodiless || response.body().is_end_stream() {
            self.settle(result);
            return None;
        }
        self.needs_trailers = needs_trailers(&self.classifier, response);
        Some(self)
    }

    /// There will be no head.
    #[cold]
    pub(super) fn fail(mut self, err: &(dyn Error + 'static)) {
        let result = of_error(&self.classifier, err);
        self.settle(result);
    }

    /// The call has succeeded or failed, and was waiting until now.
    #[inline]
    fn settle(&mut self, result: CallResult) {
        if result.health == Health::Ignored && !result.answered {
            // Our own side ended it.
            return self.give_up();
        }
        let Phase::Waiting(Permit { shard, grant }) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let now = clock::now();
        let waited = self.end_wait(&shard, now);
        let slow = self.is_slow(&shard, now);
        let counted = shard.settle(grant, CallResult { slow, ..result }, waited, now);
        if result.health == Health::Success {
            self.since = shard.nanos(now);
            self.phase = Phase::Streaming(shard, counted);
        }
    }

    /// Its caller, or a limit of time on our side, ended it before its first data.
    #[cold]
    fn give_up(&mut self) {
        let Phase::Waiting(Permit { shard, grant }) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let now = clock::now();
        let waited = self.end_wait(&shard, now);
        let patience = shard.limits().patience(self.request.first_byte);
        if self.request.sent && !waited.is_zero() && waited >= patience {
            shard.give_up(grant, self.request.caller, self.is_slow(&shard, now), waited, now);
        } else if !grant.is_call() {
            shard.give_back(grant);
        }
    }

    /// How long it has waited for its first data.
    fn end_wait(&self, shard: &CounterShard, now: Instant) -> Duration {
        if self.since.is_none() {
            return Duration::ZERO;
        }
        shard.end_wait(self.since);
        shard.nanos(now).elapsed_since(self.since).as_duration()
    }

    fn is_slow(&self, shard: &CounterShard, now: Instant) -> bool {
        !self.started.is_none() && shard.limits().is_slow(shard.nanos(now).elapsed_since(self.started))
    }

    /// The call is over with this result.
    #[inline]
    fn conclude(&mut self, result: CallResult) {
        if matches!(self.phase, Phase::Waiting(_)) { self.settle(result) } else { self.finish(result) }
    }

    /// The body is over, of a call that had succeeded.
    fn finish(&mut self, result: CallResult) {
        let Phase::Streaming(shard, counted) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let by_length = !self.started.is_none() && shard.limits().by_whole_body();
        if result == CallResult::SUCCESS && !by_length {
            return;
        }
        let now = clock::now();
        let slow = if by_length { self.is_slow(&shard, now) } else { counted.slow };
        shard.finish(counted, CallResult { slow, ..result }, now);
    }

    /// What the end of the body says.
    fn end(&self) -> CallResult {
        match &self.trailers {
            Some(said) => **said,
            None if self.needs_trailers => of_missing_trailers(&self.classifier),
            None => CallResult::SUCCESS,
        }
    }
}

impl BodyObserver for Call {
    #[inline]
    fn poll(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Polled) -> Polled {
        Self::poll(self, cx, poll)
    }

    #[inline]
    fn data(&mut self, empty: bool) {
        let waited = mem::replace(&mut self.pending, false);
        match &self.phase {
            _ if empty => {}
            Phase::Waiting(_) => self.settle(CallResult::SUCCESS),
            Phase::Streaming(shard, _) if waited => {
                let now = shard.nanos(clock::now());
                if now.elapsed_since(self.since).as_duration() >= EVIDENCE {
                    shard.hear(now);
                    self.since = now;
                }
            }
            _ => {}
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        let result = of_trailers(&self.classifier, trailers);
        self.needs_trailers = false;
        self.trailers = (result != CallResult::SUCCESS).then(|| Box::new(result));
    }

    #[inline]
    fn over(&mut self, outcome: Outcome<'_>) {
        let result = match outcome {
            Outcome::Complete => self.end(),
            Outcome::Failed(err) => of_error(&self.classifier, &**err),
            Outcome::Dropped => return,
        };
        self.conclude(result);
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Waiting(_)) {
            self.give_up();
        }
    }
}

// === impl PanicGuard ===

impl PanicGuard<'_> {
    /// There was no panic.
    #[inline]
    fn disarm(self) {
        mem::forget(self);
    }
}

impl Drop for PanicGuard<'_> {
    #[cold]
    fn drop(&mut self) {
        self.0.conclude(CallResult::UNANSWERED);
    }
}
