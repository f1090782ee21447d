use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;

use super::fleet::Share;
use super::key::Limit;
use super::report::paused;
use super::usage::{TokenCount, Used};
use crate::admission::{Permit, PermitEnd, Watch};
use crate::policy::pace::estimate::tokens_of;
use crate::policy::pace::{Demand, Grant};
use crate::policy::verdict::{Classifier, Health, Outcome, Verdict};
use crate::proto::rate_limit::{exhausted, quotas};
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;

/// The charge of a call, until its usage is known.
#[derive(Debug)]
pub struct PacePermit {
    limit: ThreadArc<Limit>,
    grant: Grant,
    /// `None`: it is one request, of limits of this process alone, its tokens are not counted, and the classifier does not
    /// read it.
    charge: Option<Box<CallCharge>>,
    state: State,
}

/// What a call has reserved.
#[derive(Debug)]
pub(super) struct CallCharge {
    /// Before it is scaled to this process's part of shared rates.
    pub(super) demand: Demand,
    /// `None`: tokens are not counted.
    pub(super) tokens: Option<TokenCount>,
    pub(super) share: Share,
    /// Set if the classifier reads the request.
    pub(super) classifier: Option<Classifier>,
}

// A byte would be copied with its neighbours, piece by piece.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The upstream has not been called.
    Unsent,
    /// There is no head yet.
    Sent,
    Served,
    /// It was ended before its head: the upstream's progress is unknown.
    Ended,
    /// The upstream used nothing: it refused, or was not asked.
    Refused,
    /// The same, and the limit knows about it.
    Throttled,
}

// === impl Charge ===

impl CallCharge {
    /// Of one request in a limit that is open.
    #[cold]
    pub(super) fn judged_by(classifier: Classifier) -> Box<Self> {
        let (demand, tokens, share) = (Demand::REQUEST, None, Share::default());
        Box::new(Self { demand, tokens, share, classifier: Some(classifier) })
    }
}

// === impl PacePermit ===

impl PacePermit {
    #[inline]
    pub(super) fn new(limit: ThreadArc<Limit>, grant: Grant, charge: Option<Box<CallCharge>>) -> Self {
        limit.count_in_flight(1.0);
        Self { limit, grant, charge, state: State::Unsent }
    }

    /// What it took of the limits.
    fn demand(&self) -> Demand {
        self.charge.as_ref().map_or(Demand::REQUEST, |charge| charge.demand.times(charge.share.processes))
    }

    fn classify(&self, outcome: &Outcome<'_>) -> Verdict {
        let of_call = self.charge.as_ref().and_then(|charge| charge.classifier.as_ref());
        of_call.unwrap_or(&self.limit.config().classifier).classify(outcome)
    }

    fn tokens(&mut self) -> Option<&mut TokenCount> {
        self.charge.as_mut()?.tokens.as_mut()
    }

    /// The call was not sent: all of it is returned.
    fn give_back(&mut self) {
        self.limit.give_back(&self.grant, &self.demand(), false, clock::now);
        self.charge = None;
    }

    /// The upstream is overloaded. Its answer says until when, or which limit is exhausted.
    #[cold]
    fn throttled(&mut self, headers: &HeaderMap, after: Option<crate::proto::retry_after::RetryAfter>) {
        self.state = State::Refused;
        if self.limit.config().max_pause.is_zero() {
            return self.limit.give_back(&self.grant, &self.demand(), true, clock::now);
        }
        self.state = State::Throttled;
        let hint = after.map(|after| after.wait(clock::wall()));
        let hint = hint.or_else(|| exhausted(&quotas(headers, clock::wall()))).filter(|hint| !hint.is_zero());
        if let Some(pause) = self.limit.throttled(&self.grant, &self.demand(), hint, clock::now()) {
            paused(&self.limit, pause);
        }
    }

    /// Returns the reservation beyond the usage.
    fn settle(&mut self, is_whole: bool, has_left: bool) {
        // Without token counts it was one request, even if it failed.
        let Some(charge) = self.charge.take() else { return };
        let CallCharge { demand: asked, tokens, share: Share { reserved: shared, processes: parts }, .. } = *charge;
        let Some(tokens) = tokens else { return shared.into_iter().for_each(|reserved| reserved.keep()) };
        let reserved = asked.times(parts);
        if matches!(self.state, State::Refused | State::Throttled) {
            // A limit on requests counts failed ones too.
            let used = Demand { requests: asked.requests, ..Demand::default() };
            shared.into_iter().for_each(|shared| shared.settle(&used));
            if self.state == State::Refused {
                self.limit.settle(&self.grant, &reserved, &used.times(parts), None, clock::now());
            }
            return;
        }
        let TokenCount { length, max_output, usage, upload } = tokens;
        let Used { input: reported, output, bytes, has_ended, text } = usage.end();
        let input = reported.unwrap_or_else(|| match upload.bytes().filter(|_| length == 0) {
            // Its length was unknown, and is known by now.
            Some(sent) => asked.input.min(tokens_of(sent)),
            None => asked.input,
        });
        let is_whole = is_whole && self.state != State::Ended;
        let known = reported.zip(output).filter(|_| is_whole);
        let is_said = has_ended && output.is_some();
        let guess = match text {
            // The bytes bound the number of tokens: each has at least one byte, and its event many more.
            0 if is_whole => asked.output,
            0 => asked.output.min(tokens_of(bytes)),
            text => tokens_of(text),
        };
        let output = match output {
            // Some streams report usage at their start, when the answer has hardly begun.
            Some(reported) if !is_whole => reported.max(tokens_of(text)),
            reported => reported.unwrap_or(guess),
        };
        // If a caller asks for much and leaves before the usage is reported, its account may have been charged all of it.
        let is_limited = !self.limit.config().is_upstream();
        let has_left = has_left || self.state == State::Ended;
        let output = if is_limited && has_left && !is_said {
            output.max(self.limit.unsaid_output(&self.grant, asked.output, max_output, clock::now()))
        } else {
            output
        };
        let used = Demand { requests: asked.requests, input, output };
        shared.into_iter().for_each(|shared| shared.settle(&used));
        // A part of a rate shows nothing about the length of answers.
        let learned = known.filter(|_| parts == 1).map(|_| length);
        self.limit.settle(&self.grant, &reserved, &used.times(parts), learned, clock::now());
    }

    /// Whether the end of the body matters.
    fn is_held(&self) -> bool {
        self.charge.as_ref().is_some_and(|charge| charge.tokens.is_some()) || self.limit.config().concurrency.is_some()
    }
}

impl Permit for PacePermit {
    const READS: bool = true;

    #[inline]
    fn sent(&mut self) {
        self.state = State::Sent;
    }

    fn head<B: Body>(&mut self, response: &mut Response<B>, has_body: bool) -> Watch {
        let config = self.limit.config();
        match Rejection::of(response).map(Rejection::kind) {
            None => {
                let verdict = self.classify(&Outcome::head(response));
                if config.reads_limits() && !response.headers().is_empty() {
                    let quotas = quotas(response.headers(), clock::wall());
                    self.limit.observe(&quotas, config.learn, clock::now());
                }
                if verdict.health == Health::Throttled && config.is_upstream() {
                    self.throttled(response.headers(), verdict.retry_after());
                } else {
                    self.limit.served(&self.grant);
                    let is_error = response.status().is_client_error() || response.status().is_server_error();
                    self.state = if is_error { State::Refused } else { State::Served };
                    if !is_error {
                        self.limit.prove();
                    }
                }
            }
            // A call that this layer held back was not sent.
            Some(
                RejectionKind::CircuitOpen
                | RejectionKind::QueueFull
                | RejectionKind::Paced
                | RejectionKind::ConversationBusy,
            ) => {
                self.state = State::Refused;
                self.give_back();
            }
            Some(kind) => {
                self.state = if kind == RejectionKind::Superseded { State::Ended } else { State::Served };
                self.limit.give_back(&self.grant, &self.demand(), true, clock::now);
            }
        }
        if self.limit.config().shows_limits() {
            self.limit.show_limits(response.headers_mut());
        }
        if let (true, Some(tokens)) = (has_body, self.tokens()) {
            tokens.usage.head(response);
        }
        if self.is_held() { Watch::Body } else { Watch::Nothing }
    }

    #[inline]
    fn bytes(&mut self, data: &Bytes) {
        if let Some(tokens) = self.tokens() {
            tokens.usage.read(data);
        }
    }

    fn end(mut self, end: PermitEnd<'_>) {
        if let State::Unsent | State::Sent = self.state {
            let was_sent = self.state == State::Sent;
            let was_sent = match end {
                PermitEnd::Failed(err) => was_sent && !self.classify(&Outcome::failure(err)).not_executed,
                _ => was_sent,
            };
            if was_sent {
                self.limit.give_back(&self.grant, &self.demand(), true, clock::now);
                if self.tokens().is_some_and(|tokens| tokens.upload.is_cut_short()) {
                    // It was one request, and no upstream works on a part of a prompt.
                    self.state = State::Refused;
                }
            } else {
                self.give_back();
            }
        }
        self.settle(matches!(end, PermitEnd::Head | PermitEnd::Complete), matches!(end, PermitEnd::Dropped));
        if self.limit.config().concurrency.is_some() {
            self.limit.leave(clock::now());
            self.limit.count_in_flight(-1.0);
        }
    }
}
