//! The state of one stream, and its continuations.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use tower_service::Service;

use super::config::{Config, NAME};
use super::pending_end::PendingEnd;
use super::reply::Reply;
use super::resume_source::ResumeSource;
use crate::body::ending::Ending;
use crate::body::request::{CallBody, share_of};
use crate::call::{Notice, Notices, PinTo, Reservation};
use crate::error::{self, BoxError, StreamTruncated, UpstreamError};
use crate::event::Event;
use crate::policy::resume::{Aside, Continuations, Cut, Followed, NotResumed, ResumedBy, StreamFollower};
use crate::policy::verdict::NextStep;
use crate::proto::dialect::Kind;
use crate::proto::digests;
use crate::proto::resume::Recognised;
use crate::rt::clock;
use crate::rt::deadline::Deadline;
use crate::rt::ready::ReadyCall;
use crate::rt::timer::LazyTimer;

/// A stream that is followed, and continued when it breaks.
pub struct Session<S: Service<Request<CallBody>>> {
    service: S,
    config: Arc<Config>,
    kept: ResumeSource,
    /// The upstream of the stream: only there it can continue.
    origin: PinTo,
    ending: Option<Ending>,
    follower: StreamFollower,
    held: Reservation,
    continuations: Continuations,
    /// The end that the caller gets if the stream is not continued.
    pending_end: PendingEnd,
    phase: Phase<S>,
    /// A continuation is being read that has not brought a new event yet.
    is_unproven: bool,
    /// How the stream continues; after a restart it stays that.
    by: ResumedBy,
    /// The server refuses to send what follows the cursor.
    is_cursor_refused: bool,
    /// When it began, and when its last data came, if a restart is possible.
    times: Option<(Instant, Instant)>,
    /// Frames to forward.
    out: VecDeque<Frame<Bytes>>,
}

enum Phase<S: Service<Request<CallBody>>> {
    Reading,
    /// Waits for the next request.
    Waiting(Instant, LazyTimer),
    Asking(Pin<Box<ReadyCall<S, Request<CallBody>>>>),
    /// Only the frames to forward are left, and then the error.
    Over,
}

/// The next step.
pub(super) enum NextFrame<B> {
    /// Forward this frame.
    Give(Frame<Bytes>),
    /// Nothing yet.
    More,
    /// Stop following the stream; forward this first.
    Aside(Frame<Bytes>),
    /// The inner body is not read any more.
    Stop,
    /// Continue reading from this body.
    Read(B),
    /// End the body.
    End(Option<BoxError>),
}

// === impl Session ===

impl<S: Service<Request<CallBody>>> fmt::Debug for Session<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl<S: Service<Request<CallBody>> + Clone> Session<S> {
    pub(super) fn new<B>(
        service: S,
        config: Arc<Config>,
        kept: ResumeSource,
        recognised: Option<Recognised>,
        response: &Response<B>,
    ) -> Self {
        let head = kept.head();
        let kind = Kind::of_path(head.uri.path());
        let held = share_of(&config.memory, &head.headers, &head.extensions);
        let continuations = Continuations::new(config.attempts);
        let remember = matches!(kept, ResumeSource::Request { restarts: true, .. }).then_some(config.max_prefix);
        Self {
            service,
            config,
            kept,
            origin: PinTo::origin_of(response),
            ending: Ending::of(response).cloned(),
            follower: StreamFollower::new(recognised, kind, remember),
            held,
            continuations,
            pending_end: PendingEnd::None,
            phase: Phase::Reading,
            is_unproven: false,
            by: ResumedBy::Cursor,
            is_cursor_refused: false,
            times: remember.map(|_| clock::now()).map(|now| (now, now)),
            out: VecDeque::new(),
        }
    }

    /// Whether to read the inner body.
    pub(super) fn reads(&self) -> bool {
        matches!(self.phase, Phase::Reading) && self.out.is_empty()
    }

    /// Handles a frame.
    pub(super) fn frame<B>(&mut self, frame: Frame<Bytes>) -> NextFrame<B> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(mut trailers) => {
                // They apply to the rest alone, not to the caller's stream.
                if let Some(trailers) = trailers.trailers_mut().filter(|_| self.follower.is_rest()) {
                    digests::remove(trailers);
                }
                return self.end(Some(trailers));
            }
        };
        if let Some((_, last)) = &mut self.times {
            *last = clock::now();
        }
        let in_pending_end = self.pending_end.held();
        let read = self.follower.read(&data, |bytes| self.held.set(bytes.saturating_add(in_pending_end)));
        if let (Some(ending), Some(usage)) = (&self.ending, self.follower.take_usage()) {
            let restarts = self.by == ResumedBy::VerifiedRestart && self.is_unproven;
            if restarts { ending.note_other_usage(usage) } else { ending.note_usage(usage) }
        }
        if self.follower.take_progress() {
            self.progressed();
        }
        match read {
            Followed::All => NextFrame::Give(Frame::data(data)),
            Followed::Part(data) if data.is_empty() => NextFrame::More,
            Followed::Part(data) => NextFrame::Give(Frame::data(data)),
            Followed::Aside(data, why) => {
                if why == Aside::TooLarge {
                    let reason = "an event is too large to be withheld";
                    self.config.emitter.emit(&Event::Bypassed { layer: NAME, reason });
                }
                NextFrame::Aside(Frame::data(data))
            }
            Followed::Wrong(reason) => self.not_resumed(reason),
        }
    }

    /// Notes an event of the rest.
    #[cold]
    fn progressed(&mut self) {
        self.continuations.progressed();
        if let PendingEnd::End(..) = self.pending_end {
            // The withheld end comes before the data since then.
            self.pending_end = PendingEnd::Error(self.follower.truncated().into());
        }
        if std::mem::take(&mut self.is_unproven) {
            if let (Some(ending), ResumedBy::VerifiedRestart) = (&self.ending, self.by) {
                ending.swap_usage();
            }
            self.config.emitter.emit(&Event::StreamResumed { by: self.by });
        }
    }

    /// Handles the end without an error.
    pub(super) fn end<B>(&mut self, trailers: Option<Frame<Bytes>>) -> NextFrame<B> {
        // The guard inside may accept an answer without a reason for its end.
        let is_known = !self.follower.is_rest() && self.ending.as_ref().is_some_and(|ending| ending.get().is_some());
        let may_end = self.follower.may_end() || is_known;
        let held = self.follower.take_held();
        if may_end {
            return self.finish(held, trailers);
        }
        if !self.is_unproven {
            self.pending_end = PendingEnd::End(held, trailers);
        }
        self.go_on(Cut::default())
    }

    /// Handles a broken stream.
    pub(super) fn failed<B>(&mut self, err: BoxError) -> NextFrame<B> {
        if self.follower.is_over() {
            // The guard saw only the rest; what it missed came before the cut.
            let in_rest = self.follower.is_rest() && self.follower.has_ended();
            if in_rest && error::find::<StreamTruncated>(&err).is_some() {
                return self.finish(Bytes::new(), None);
            }
            self.phase = Phase::Over;
            return NextFrame::End(Some(err));
        }
        let advised = error::find::<UpstreamError>(&err).map(|err| (err.verdict().next, err.retry_after()));
        let cut = Cut {
            advised: advised.map(|(next, _)| next),
            retry_after: advised.and_then(|(_, after)| after).map(|after| after.wait(clock::wall())),
            remaining: None,
        };
        // The caller must not get half an event.
        drop(self.follower.take_held());
        if !self.is_unproven {
            self.pending_end = PendingEnd::Error(err);
        }
        self.go_on(cut)
    }

    /// Ends after the last data.
    fn finish<B>(&mut self, rest: Bytes, trailers: Option<Frame<Bytes>>) -> NextFrame<B> {
        if let (Some(ending), Some(end)) = (&self.ending, self.follower.ended()) {
            ending.set(end);
        }
        self.pending_end = PendingEnd::None;
        self.over(rest, trailers)
    }

    fn over<B>(&mut self, rest: Bytes, trailers: Option<Frame<Bytes>>) -> NextFrame<B> {
        self.phase = Phase::Over;
        self.out.extend((!rest.is_empty()).then(|| Frame::data(rest)));
        self.out.extend(trailers);
        NextFrame::Stop
    }

    /// Asks for the rest, or gives up. The guard of the first answer does not see whether the rest has ids. Gemini's has
    /// none, and must not be marked: its clients accept only the heartbeats of streams without ids.
    fn go_on<B>(&mut self, cut: Cut) -> NextFrame<B> {
        let bears_no_ids = Kind::of_path(self.kept.head().uri.path()) == Some(Kind::Gemini);
        if let Some(ending) = self.ending.as_ref().filter(|_| !bears_no_ids) {
            ending.note_splice();
        }
        let now = clock::now();
        let remaining = Deadline::remaining_for_attempt(&self.kept.head().extensions, now);
        let retry_after = cut.retry_after.max(self.follower.reconnection_time());
        let mut cut = Cut { remaining, retry_after, ..cut };
        if self.by == ResumedBy::VerifiedRestart {
            return self.not_resumed(NotResumed::RestartSpent);
        }
        if self.is_cursor_refused || self.follower.position().is_none() {
            // Several answers are refused before another call is billed.
            if !self.follower.is_comparable() || self.kept.asks_for_several() {
                return self.not_resumed(match self.follower.by() {
                    _ if self.is_cursor_refused => NotResumed::Refused,
                    Some(_) => NotResumed::NoCursor,
                    None => NotResumed::NotComparable,
                });
            }
            // Another answer takes about as long to the same point, and is billed even if the deadline ends it.
            let took = self.times.map_or(Duration::ZERO, |(began, last)| last.saturating_duration_since(began));
            if remaining.is_some_and(|remaining| remaining < took / 2) {
                return self.not_resumed(NotResumed::Deadline);
            }
            self.by = ResumedBy::VerifiedRestart;
            // Another upstream may serve what this one cannot.
            cut.advised = cut.advised.filter(|next| !(self.config.other_model && *next == NextStep::TryAnother));
        }
        match self.continuations.next(&cut, &self.config.backoff, &mut self.config.entropy.rng()) {
            Err(reason) => self.not_resumed(reason),
            // Checked last: a stream that is not continued for another reason costs no budget.
            Ok(_) if !self.config.budget.withdraw(now) => self.not_resumed(NotResumed::Budget),
            Ok(wait) => self.wait(now, wait),
        }
    }

    fn wait<B>(&mut self, now: Instant, wait: Duration) -> NextFrame<B> {
        self.held.set(self.pending_end.held());
        Notices::report(&self.kept.head().extensions, || Notice::Resume {});
        match now.checked_add(wait).filter(|_| !wait.is_zero()) {
            Some(at) => {
                self.phase = Phase::Waiting(at, LazyTimer::default());
                NextFrame::Stop
            }
            None => self.ask(now),
        }
    }

    fn ask<B>(&mut self, now: Instant) -> NextFrame<B> {
        let request = match self.by {
            ResumedBy::Cursor => self.kept.rest(&self.follower, &self.origin, now),
            ResumedBy::VerifiedRestart => {
                let origin = (!self.config.other_model).then_some(&self.origin);
                self.kept.same(origin, now)
            }
        };
        let Some(request) = request else { return self.not_resumed(NotResumed::NotRepeatable) };
        self.phase = Phase::Asking(Box::pin(ReadyCall::new(self.service.clone(), request)));
        NextFrame::Stop
    }

    /// Handles the answer to the request for the rest.
    fn answered<B>(&mut self, response: Response<B>) -> NextFrame<B> {
        let is_foreign = PinTo::origin_of(&response) != self.origin;
        let restarts = self.by == ResumedBy::VerifiedRestart;
        match Reply::of(&response) {
            Reply::Stream if !is_foreign || restarts && self.config.other_model => {
                if restarts {
                    self.follower.begin_restart(self.config.other_model, is_foreign);
                } else {
                    self.follower.begin_rest();
                }
                self.is_unproven = true;
                self.phase = Phase::Reading;
                NextFrame::Read(response.into_body())
            }
            Reply::Later { retry_after } if !restarts => self.go_on(Cut { retry_after, ..Cut::default() }),
            Reply::NoCursor if !restarts => {
                // It has lost the answer, or never stored it: a restart may still work.
                self.is_cursor_refused = true;
                self.go_on(Cut::default())
            }
            _ => self.not_resumed(NotResumed::Refused),
        }
    }

    /// The caller gets the result that it would have without this layer.
    #[cold]
    fn not_resumed<B>(&mut self, reason: NotResumed) -> NextFrame<B> {
        self.config.emitter.emit(&Event::NotResumed { reason });
        match std::mem::take(&mut self.pending_end) {
            PendingEnd::End(rest, trailers) => self.over(rest, trailers),
            pending_end => {
                self.pending_end = pending_end;
                self.over(Bytes::new(), None)
            }
        }
    }
}

impl<S, B> Session<S>
where
    S: Service<Request<CallBody>, Response = Response<B>> + Clone,
{
    /// Proceeds without the inner body.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<NextFrame<B>> {
        if let Some(frame) = self.out.pop_front() {
            return Poll::Ready(NextFrame::Give(frame));
        }
        Poll::Ready(match &mut self.phase {
            Phase::Reading => NextFrame::More,
            Phase::Waiting(at, timer) => {
                ready!(timer.poll_until(*at, cx));
                self.ask(clock::now())
            }
            Phase::Asking(call) => match ready!(call.as_mut().poll(cx)) {
                Ok(response) => self.answered(response),
                Err(_) => self.go_on(Cut::default()),
            },
            Phase::Over => NextFrame::End(match std::mem::take(&mut self.pending_end) {
                PendingEnd::Error(err) => Some(err),
                PendingEnd::None | PendingEnd::End(..) => None,
            }),
        })
    }
}
