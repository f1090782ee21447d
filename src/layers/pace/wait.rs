use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::fleet::{Asking, Share};
use super::key::{Decision, Limit};
use super::peers::PeerTurn;
use super::permit::PacePermit;
use super::shared::{Key, Shared};
use super::usage::Usage;
use crate::admission::Wait;
use crate::call::{Notice, Notices};
use crate::event::Event;
use crate::policy::pace::{Demand, Grant};
use crate::policy::queue::Ticket;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::rt::timer::LazyTimer;

/// A wait for room in a limit. Dropping it ends the wait without a trace.
#[derive(Debug)]
pub struct PaceWait {
    shared: ThreadArc<Shared>,
    key: Arc<Limit>,
    stage: Stage,
    until: Option<Instant>,
    deadline_is_first: bool,
    timer: LazyTimer,
    length: u64,
    usage: Option<Usage>,
    share: Share,
    /// Who is told that it waits, where that is not known from the beginning.
    notices: Option<Notices>,
}

#[derive(Debug)]
enum Stage {
    /// The other processes are asked.
    Asks(Box<Asking>),
    /// Its turn among the calls of all processes comes then.
    Turn {
        at: Instant,
        tenant: u64,
        demand: Demand,
    },
    /// It waits in the line of this process.
    Line(Ticket),
    Over,
}

/// What is spaced by another clock comes so much too early for this one.
const SLACK: Duration = Duration::from_millis(50);

// === impl PaceWait ===

impl PaceWait {
    pub(super) fn new(
        shared: ThreadArc<Shared>,
        key: Arc<Limit>,
        ticket: Ticket,
        until: (Option<Instant>, bool),
        length: u64,
        usage: Option<Usage>,
    ) -> Self {
        Self::at(Stage::Line(ticket), shared, key, until, length, usage)
    }

    /// The other processes are asked first.
    pub(super) fn asking(
        shared: ThreadArc<Shared>,
        key: Arc<Limit>,
        asking: Asking,
        until: (Option<Instant>, bool),
        length: u64,
        usage: Option<Usage>,
        notices: Option<Notices>,
    ) -> Self {
        let mut wait = Self::at(Stage::Asks(Box::new(asking)), shared, key, until, length, usage);
        wait.notices = notices;
        wait
    }

    fn at(
        stage: Stage,
        shared: ThreadArc<Shared>,
        key: Arc<Limit>,
        (until, deadline_is_first): (Option<Instant>, bool),
        length: u64,
        usage: Option<Usage>,
    ) -> Self {
        shared.count_waiting(1.0);
        let (timer, share) = (LazyTimer::default(), Share::default());
        Self { shared, key, stage, until, deadline_is_first, timer, length, usage, share, notices: None }
    }

    /// Tells the call's reader that it waits, once.
    fn report(&mut self, wait: Duration) {
        if let Some(notices) = self.notices.take() {
            notices.push(Notice::Pace { expected: (!wait.is_zero()).then_some(wait) });
        }
    }

    fn is_over(&mut self) -> Stage {
        self.shared.count_waiting(-1.0);
        std::mem::replace(&mut self.stage, Stage::Over)
    }

    fn give_up(&mut self) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        match self.is_over() {
            Stage::Line(ticket) => self.key.forget(ticket, clock::now()),
            Stage::Asks(asking) => asking.give_up(),
            Stage::Turn { .. } | Stage::Over => {}
        }
        // What the others know of it is given back.
        self.share = Share::default();
    }

    /// It was late, or was always to be.
    fn refuse(&mut self, wait: Option<Duration>) -> Rejection {
        self.give_up();
        match wait {
            None if self.deadline_is_first => {
                let kind = RejectionKind::DeadlineExceeded;
                self.shared.config.emitter.emit(&Event::Refused { kind });
                Rejection::new(kind)
            }
            wait => self.shared.refuse(&self.key, wait.unwrap_or_default()),
        }
    }

    fn pass(&mut self, grant: Grant) -> PacePermit {
        self.is_over();
        let (shared, key) = (self.shared.clone(), self.key.clone());
        let share = std::mem::take(&mut self.share);
        PacePermit::new(shared, Key::Held(key), grant, self.length, self.usage.take(), share)
    }

    /// What the other processes say.
    fn poll_asks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        let Stage::Asks(asking) = &mut self.stage else { return Poll::Ready(Ok(())) };
        let turn = match (asking.poll(cx), asking.until) {
            (Poll::Ready(turn), _) => turn,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(until)) => {
                ready!(self.timer.poll_until(until, cx));
                PeerTurn::Alone { processes: 1 }
            }
        };
        if let PeerTurn::TooLong { wait } = turn {
            return Poll::Ready(Err(self.refuse(Some(wait))));
        }
        let Stage::Asks(asking) = std::mem::replace(&mut self.stage, Stage::Over) else { return Poll::Pending };
        let (tenant, demand, now) = (asking.tenant, asking.demand, clock::now());
        self.share = asking.share(turn);
        let wait = if let PeerTurn::Go { wait } = turn { wait } else { Duration::ZERO };
        if !wait.is_zero() {
            self.report(wait);
        }
        let at = now.checked_add(wait).unwrap_or(now);
        self.stage = Stage::Turn { at, tenant, demand: demand.times(self.share.processes) };
        Poll::Ready(Ok(()))
    }
}

impl Wait for PaceWait {
    type Permit = PacePermit;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<PacePermit, Rejection>> {
        loop {
            let ticket = match self.stage {
                Stage::Asks(_) => {
                    if let Err(rejection) = ready!(self.poll_asks(cx)) {
                        return Poll::Ready(Err(rejection));
                    }
                    continue;
                }
                Stage::Turn { at, tenant, demand } => {
                    if at > clock::now() {
                        ready!(self.timer.poll_until(at, cx));
                    }
                    let now = clock::now();
                    self.until = self.until.max(now.checked_add(SLACK));
                    let patience = self.until.map_or(SLACK, |until| until.saturating_duration_since(now));
                    match self.key.arrive(tenant, demand, now, patience) {
                        Decision::Go(grant) => return Poll::Ready(Ok(self.pass(grant))),
                        Decision::Waits(ticket, wait) => {
                            self.report(wait);
                            self.stage = Stage::Line(ticket);
                        }
                        Decision::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                        Decision::Again(_) => return Poll::Pending,
                    }
                    continue;
                }
                Stage::Line(ticket) => ticket,
                Stage::Over => return Poll::Pending,
            };
            let now = clock::now();
            let next = match self.key.ask(ticket, cx.waker(), now, self.until) {
                Decision::Go(grant) => return Poll::Ready(Ok(self.pass(grant))),
                Decision::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                Decision::Again(next) => next,
                Decision::Waits(..) => None,
            };
            if self.until.is_some_and(|until| until <= now) {
                return Poll::Ready(Err(self.refuse(None)));
            }
            let Some(next) = self.until.into_iter().chain(next).min() else { return Poll::Pending };
            ready!(self.timer.poll_until(next, cx));
        }
    }
}

impl Drop for PaceWait {
    fn drop(&mut self) {
        self.give_up();
    }
}
