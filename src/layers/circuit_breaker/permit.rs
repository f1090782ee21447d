//! One call, from its permit to the end of its body.
//!
//! ```text
//!          first data, or a head without a body            the body ends
//! Waiting ─────────────────────────────────────▶ Streaming ─────────────▶ Over
//!    │ failed: it counts                            │ failed: its success is taken back
//!    │ dropped: it counts if it waited too long     │ dropped: its success stands
//! ```

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use http_body::Body;

use super::breaker_set::NewModel;
use super::caller;
use super::circuit::{CircuitPermit, CounterShard, SettledCall};
use super::classification::{needs_trailers, of_error, of_head, of_missing_trailers, of_trailers};
use super::counters::{Counters, Nanos};
use crate::admission::{self, PermitEnd, Watch};
use crate::body::request::Upload;
use crate::policy::breaker::{CallResult, Caller, Counted};
use crate::policy::timeout_profile::TimeoutProfile;
use crate::policy::verdict::{Classifier, Health};
use crate::rt::cancellation::Cancellation;
use crate::rt::clock;

/// Held by one call: counts its result.
#[derive(Debug)]
// What each frame reads and writes stands first.
#[repr(C)]
pub struct BreakerPermit {
    phase: Phase,
    /// Since when it waits for its first data; of a stream, when data last was evidence of life.
    since: Nanos,
    /// Whether the inner body had nothing when it was last polled.
    pending: bool,
    /// Whether the inner service has been called.
    sent: bool,
    needs_trailers: bool,
    classifier: Classifier,
    caller: Caller,
    /// Tells whether a layer outside has cancelled the call on purpose.
    cancellation: Option<Cancellation>,
    /// The first-byte limit of the request itself.
    first_byte: Option<Duration>,
    upload: Upload,
    /// Learned when the upstream serves it.
    learns: Option<Box<NewModel>>,
    /// When it began, where it matters how long it takes.
    started: Nanos,
    /// What the trailers said, if it was no success.
    trailers: Option<Box<CallResult>>,
}

#[derive(Debug)]
enum Phase {
    Waiting(CircuitPermit),
    Streaming(Arc<CounterShard>, Counted),
    Over,
}

/// Data of one stream is evidence of life this often.
const EVIDENCE: Duration = Duration::from_secs(1);

// === impl BreakerPermit ===

impl BreakerPermit {
    #[inline]
    pub(super) fn new<B>(
        permit: CircuitPermit,
        classifier: Classifier,
        request: &mut Request<B>,
        learns: Option<Box<NewModel>>,
    ) -> Self
    where
        B: Body + 'static,
    {
        let counters = &permit.shard.counters;
        let started = if counters.limits().has_slow() { counters.nanos(clock::now()) } else { Nanos::NONE };
        Self {
            phase: Phase::Waiting(permit),
            classifier: classifier.for_call(request),
            caller: caller::of(request),
            cancellation: request.extensions().get().cloned(),
            first_byte: request.extensions().get().map(|profile: &TimeoutProfile| profile.first_byte),
            upload: Upload::watch(request.body_mut()),
            learns,
            started,
            since: Nanos::NONE,
            sent: false,
            pending: false,
            needs_trailers: false,
            trailers: None,
        }
    }

    /// The call has succeeded or failed, and was waiting until now.
    #[inline]
    fn settle(&mut self, result: CallResult) {
        if result.health == Health::Ignored && !result.answered {
            // Our own side ended it.
            return self.dropped();
        }
        let Phase::Waiting(CircuitPermit { shard, grant }) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let now = clock::now();
        let waited = self.end_wait(&shard.counters, now);
        let slow = self.is_slow(&shard.counters, now);
        let (result, caller) = (CallResult { slow, ..result }, self.caller);
        let counted = shard.settle(SettledCall { grant, result, caller, waited, now });
        if result.health == Health::Success {
            self.since = shard.counters.nanos(now);
            self.phase = Phase::Streaming(shard, counted);
        }
    }

    /// The caller, or a time limit outside, has cancelled the call before its first data.
    #[cold]
    fn dropped(&mut self) {
        let Phase::Waiting(CircuitPermit { shard, grant }) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let now = clock::now();
        let counters = &shard.counters;
        self.end_wait(counters, now);
        let patience = counters.limits().patience(self.first_byte);
        // A newer message cancelled it; it was not slow.
        let is_cancelled = self.cancellation.as_ref().is_some_and(Cancellation::is_cancelled);
        match self.waited_for_upstream(counters, now).filter(|waited| *waited >= patience && !is_cancelled) {
            Some(waited) => shard.cancel(grant, self.caller, self.is_slow(counters, now), waited, now),
            None if !grant.is_call() => shard.give_back(grant),
            None => {}
        }
    }

    /// How long the upstream has had the complete request; `None` if it has not, or that is unknown.
    fn waited_for_upstream(&self, counters: &Counters, now: Instant) -> Option<Duration> {
        let since = match &self.upload {
            _ if self.since.is_none() => return None,
            Upload::AtOnce => self.since,
            Upload::Watched(watch) => counters.nanos(watch.sent_since()?).max(self.since),
            Upload::Unknown => return None,
        };
        Some(counters.nanos(now).elapsed_since(since).as_duration())
    }

    /// Ends the wait for the first data, and returns its duration.
    fn end_wait(&self, counters: &Counters, now: Instant) -> Duration {
        if self.since.is_none() {
            return Duration::ZERO;
        }
        counters.end_wait(self.since);
        counters.nanos(now).elapsed_since(self.since).as_duration()
    }

    fn is_slow(&self, counters: &Counters, now: Instant) -> bool {
        !self.started.is_none() && counters.limits().is_slow(counters.nanos(now).elapsed_since(self.started))
    }

    /// Counts the result of the call.
    #[inline]
    fn conclude(&mut self, result: CallResult) {
        if matches!(self.phase, Phase::Waiting(_)) { self.settle(result) } else { self.finish(result) }
    }

    /// Counts the end of the body of a call that had succeeded.
    fn finish(&mut self, result: CallResult) {
        let Phase::Streaming(shard, counted) = mem::replace(&mut self.phase, Phase::Over) else { return };
        let by_length = !self.started.is_none() && shard.counters.limits().by_whole_body();
        if result == CallResult::SUCCESS && !by_length {
            return;
        }
        let now = clock::now();
        let slow = if by_length { self.is_slow(&shard.counters, now) } else { counted.slow };
        shard.finish(counted, CallResult { slow, ..result }, now);
    }

    /// Judges the end of the body.
    fn at_end(&self) -> CallResult {
        match &self.trailers {
            Some(said) => **said,
            None if self.needs_trailers => of_missing_trailers(&self.classifier),
            None => CallResult::SUCCESS,
        }
    }
}

impl admission::Permit for BreakerPermit {
    /// A wait for the first data is a wait for the upstream.
    #[inline]
    fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let polled = poll(cx);
        if polled.is_pending() {
            self.pending = true;
            if let (Phase::Waiting(permit), true, true) = (&self.phase, self.sent, self.since.is_none()) {
                let counters = &permit.shard.counters;
                self.since = counters.nanos(clock::now());
                counters.begin_wait(self.since);
            }
        }
        polled
    }

    #[inline]
    fn sent(&mut self) {
        self.sent = true;
    }

    #[inline]
    fn head<B: Body>(&mut self, response: &mut Response<B>, has_body: bool) -> Watch {
        let result = of_head(&self.classifier, response);
        if let Some(model) = self.learns.take().filter(|_| response.status().is_success()) {
            model.learn();
        }
        // A result that the head decides needs no body: the caller may not read it.
        if result.health != Health::Success || !has_body {
            self.settle(result);
            return Watch::Nothing;
        }
        self.needs_trailers = needs_trailers(&self.classifier, response);
        Watch::Body
    }

    #[inline]
    fn data(&mut self, is_empty: bool) {
        let waited = mem::replace(&mut self.pending, false);
        match &self.phase {
            _ if is_empty => {}
            Phase::Waiting(_) => self.settle(CallResult::SUCCESS),
            Phase::Streaming(shard, _) if waited => {
                let counters = &shard.counters;
                let now = counters.nanos(clock::now());
                if now.elapsed_since(self.since).as_duration() >= EVIDENCE {
                    counters.note_sign_of_life(now);
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
    fn end(mut self, end: PermitEnd<'_>) {
        match end {
            // Already counted.
            PermitEnd::Head => {}
            PermitEnd::Complete => self.conclude(self.at_end()),
            PermitEnd::Failed(err) => self.conclude(of_error(&self.classifier, err)),
            PermitEnd::Broken(err) => self.conclude(of_error(&self.classifier, &**err)),
            PermitEnd::Panicked => self.conclude(CallResult::UNANSWERED),
            PermitEnd::Dropped => self.dropped(),
        }
    }
}
