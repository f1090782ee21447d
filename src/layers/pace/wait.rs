use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::fleet::{Asking, Share};
use super::key::{Limit, PaceDecision};
use super::permit::{CallCharge, PacePermit};
use super::turns::TurnWait;
use crate::admission::Wait;
use crate::call::{Notice, Notices};
use crate::event::Event;
use crate::policy::micros::Micros;
use crate::policy::pace::{Demand, Grant, Hold};
use crate::policy::queue::Ticket;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::rt::timeout::Timeout;
use crate::rt::timer::LazyTimer;
use crate::store::pace::PeerTurn;

/// A wait for room in a limit. Dropping it ends the wait.
#[derive(Debug)]
pub struct PaceWait {
    limit: ThreadArc<Limit>,
    stage: Stage,
    until: Option<Instant>,
    deadline_is_first: bool,
    timeout: Timeout,
    /// For its next turn.
    timer: LazyTimer,
    charge: Option<Box<CallCharge>>,
    /// Set if the rates are shared with other processes.
    turn: Option<Box<PeersTurn>>,
}

/// A call that takes its turn among those of all processes.
#[derive(Debug)]
pub(super) struct PeersTurn {
    pub(super) tenant: u64,
    pub(super) demand: Demand,
    /// Gets a notice of the wait.
    pub(super) notices: Option<Notices>,
    /// Its place while it waits to ask for a turn, or to get one.
    pub(super) place: Option<Ticket>,
    /// Its share of the rates, once it has a turn.
    pub(super) share: Share,
}

#[derive(Debug)]
enum Stage {
    /// It asks the other processes at this time.
    Held(Instant),
    /// It waits until it is the first call of this process to ask, or to ask again.
    Behind(Ticket),
    /// It is asking the other processes.
    Asks(Box<Asking>),
    /// Its turn among the calls of all processes is at this time.
    Turn(Instant),
    /// It waits in the line of this process.
    Line(Ticket),
    Over,
}

/// How far away the turn of a call that asks on arrival may be.
const SOON: Duration = Duration::from_micros(crate::policy::pace::SOON);
/// A turn by another clock may be this much too early for this one.
const SLACK: Duration = Duration::from_millis(50);
const SLACK_MICROS: Micros = 50_000;

// === impl PaceWait ===

impl PaceWait {
    pub(super) fn new(
        limit: ThreadArc<Limit>,
        ticket: Ticket,
        until: (Option<Instant>, bool),
        charge: Option<Box<CallCharge>>,
    ) -> Self {
        Self::at(Stage::Line(ticket), limit, None, until, charge)
    }

    pub(super) fn for_a_turn(
        limit: ThreadArc<Limit>,
        turn: PeersTurn,
        until: (Option<Instant>, bool),
        charge: Option<Box<CallCharge>>,
    ) -> Self {
        Self::at(Stage::Held(clock::now()), limit, Some(Box::new(turn)), until, charge)
    }

    fn at(
        stage: Stage,
        limit: ThreadArc<Limit>,
        turn: Option<Box<PeersTurn>>,
        (until, deadline_is_first): (Option<Instant>, bool),
        charge: Option<Box<CallCharge>>,
    ) -> Self {
        limit.count_waiting(1.0);
        let (timeout, timer) = (Timeout::default(), LazyTimer::default());
        Self { limit, stage, until, deadline_is_first, timeout, timer, charge, turn }
    }

    /// Its tenant and its demand.
    fn call(&self) -> (u64, Demand) {
        self.turn.as_ref().map_or_else(Default::default, |turn| (turn.tenant, turn.demand))
    }

    /// Reports the wait to the call's reader, once.
    fn report(&mut self, wait: Duration) {
        if let Some(notices) = self.turn.as_mut().and_then(|turn| turn.notices.take()) {
            notices.push(Notice::Pace { expected: (!wait.is_zero()).then_some(wait) });
        }
    }

    fn is_over(&mut self) -> Stage {
        self.limit.count_waiting(-1.0);
        std::mem::replace(&mut self.stage, Stage::Over)
    }

    fn give_up(&mut self) {
        if matches!(self.stage, Stage::Over) {
            return;
        }
        match self.is_over() {
            Stage::Line(ticket) => self.limit.forget(ticket, clock::now()),
            Stage::Asks(asking) => asking.give_up(),
            Stage::Held(_) | Stage::Behind(_) | Stage::Turn(_) | Stage::Over => {}
        }
        self.leave_place();
        // Returns its reservation at the other processes.
        self.set_share(Share::default());
    }

    fn leave_place(&mut self) {
        if let Some(place) = self.turn.as_mut().and_then(|turn| turn.place.take()) {
            self.limit.leave_turns(place);
        }
    }

    fn set_share(&mut self, share: Share) {
        if let Some(turn) = &mut self.turn {
            turn.share = share;
        }
    }

    /// It waited too long, or would have.
    fn refuse(&mut self, wait: Option<Duration>) -> Rejection {
        let waiter = if let Stage::Line(ticket) = self.stage { self.limit.waiter(ticket) } else { None };
        let is_behind = matches!(self.stage, Stage::Behind(_));
        self.give_up();
        let turn = || is_behind.then(|| self.limit.expected_turn(self.call().0, clock::now()));
        match wait {
            None if self.deadline_is_first => {
                let kind = RejectionKind::DeadlineExceeded;
                self.limit.config().emitter.emit(&Event::Refused { kind });
                Rejection::new(kind)
            }
            wait => {
                let expected =
                    || waiter.map(|(tenant, demand)| self.limit.expected_wait(tenant, &demand, clock::now()));
                self.limit.refuse(wait.or_else(expected).or_else(turn).unwrap_or_default())
            }
        }
    }

    fn pass(&mut self, grant: Grant) -> PacePermit {
        self.is_over();
        if let (Some(charge), Some(turn)) = (&mut self.charge, &mut self.turn) {
            charge.share = std::mem::take(&mut turn.share);
        }
        PacePermit::new(self.limit.clone(), grant, self.charge.take())
    }

    /// Asks the other processes, if only common reasons hold the call back, and no call of this process waits to ask.
    fn ask(&mut self) -> Result<(), Rejection> {
        if self.limit.waiting_for_turns() > 0 { self.wait_behind(Duration::ZERO) } else { self.ask_within(SOON) }
    }

    /// Asks for a turn, at most this far away.
    fn ask_within(&mut self, reach: Duration) -> Result<(), Rejection> {
        let now = clock::now();
        let (tenant, demand) = self.call();
        let pause = match self.limit.hold(tenant, now) {
            Hold::None => Duration::ZERO,
            Hold::All(pause) => Duration::from_micros(pause),
            Hold::Own(wait) => {
                self.leave_place();
                let wait = Duration::from_micros(wait);
                let next = now.checked_add(wait).filter(|next| self.until.is_none_or(|until| *next <= until));
                let Some(next) = next else { return Err(self.refuse(Some(wait))) };
                self.report(wait);
                self.stage = Stage::Held(next);
                return Ok(());
            }
        };
        let asking = Asking::begin(&self.limit, &demand, pause, reach.min(self.patience(now)), now);
        self.stage = asking.map_or(Stage::Turn(now), |asking| Stage::Asks(Box::new(asking)));
        Ok(())
    }

    /// Its turn would come after `wait`, or behind other waiting calls: it gets none yet.
    fn wait_behind(&mut self, wait: Duration) -> Result<(), Rejection> {
        let now = clock::now();
        let joined = self.limit.wait_for_turn(self.call(), wait, now, self.until);
        let place = joined.map_err(|longest| self.refuse(Some(longest)))?;
        if let Some(turn) = &mut self.turn {
            turn.place = Some(place);
        }
        self.report(wait);
        self.stage = Stage::Behind(place);
        Ok(())
    }

    fn patience(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(now))
    }

    /// Whether its turn fell into a pause: it then takes another turn after the pause. The first reservation is not
    /// returned, since the turns after it are taken: calls that got it would coincide with theirs.
    fn loses_its_turn(&mut self, now: Instant) -> bool {
        let Some(turn) = self.turn.as_mut().filter(|turn| turn.share.reserved.is_some()) else { return false };
        match self.limit.hold(turn.tenant, now) {
            Hold::All(wait) | Hold::Own(wait) if wait > SLACK_MICROS => {
                if let Some(reserved) = turn.share.reserved.take() {
                    reserved.keep();
                }
                true
            }
            _ => false,
        }
    }

    /// Polls for the other processes' answer.
    fn poll_asks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Rejection>> {
        let Stage::Asks(asking) = &mut self.stage else { return Poll::Ready(Ok(())) };
        let turn = match (asking.poll(cx), asking.until) {
            (Poll::Ready(turn), _) => turn,
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(until)) => {
                ready!(self.timer.poll_until(until, cx));
                asking.late_turn()
            }
        };
        let now = clock::now();
        let Stage::Asks(asking) = std::mem::replace(&mut self.stage, Stage::Held(now)) else { return Poll::Pending };
        self.set_share(asking.share(turn));
        let place = self.turn.as_ref().and_then(|turn| turn.place);
        let wait = match turn {
            PeerTurn::Go { wait } => wait,
            PeerTurn::Alone { processes } => {
                self.limit.release_turns(processes);
                Duration::ZERO
            }
            PeerTurn::TooLong { wait } if wait > self.patience(now) => {
                return Poll::Ready(Err(self.refuse(Some(wait))));
            }
            PeerTurn::TooLong { wait } => {
                let Some(place) = place else { return Poll::Ready(self.wait_behind(wait)) };
                self.limit.postpone_turn(place, wait, now);
                self.stage = Stage::Behind(place);
                return Poll::Ready(Ok(()));
            }
        };
        if let Some(place) = self.turn.as_mut().and_then(|turn| turn.place.take()) {
            self.limit.serve_turn(place, wait, now);
        }
        if !wait.is_zero() {
            self.report(wait);
        }
        self.stage = Stage::Turn(now.checked_add(wait).unwrap_or(now));
        Poll::Ready(Ok(()))
    }
}

impl Wait for PaceWait {
    type Permit = PacePermit;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<PacePermit, Rejection>> {
        loop {
            let ticket = match self.stage {
                Stage::Held(until) => {
                    if until > clock::now() {
                        ready!(self.timer.poll_until(until, cx));
                    }
                    self.ask()?;
                    continue;
                }
                Stage::Behind(place) => {
                    let now = clock::now();
                    let next = match self.limit.next_turn(place, cx.waker(), now) {
                        TurnWait::Ask(reach) => {
                            self.ask_within(reach)?;
                            continue;
                        }
                        TurnWait::Alone { processes } => {
                            self.leave_place();
                            self.set_share(Share::alone(processes));
                            self.stage = Stage::Turn(now);
                            continue;
                        }
                        TurnWait::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                        TurnWait::Wait(next) => next,
                    };
                    if self.until.is_some_and(|until| self.timeout.poll_until(until, cx).is_ready()) {
                        return Poll::Ready(Err(self.refuse(None)));
                    }
                    let Some(next) = next else { return Poll::Pending };
                    ready!(self.timer.poll_until(next, cx));
                    continue;
                }
                Stage::Asks(_) => {
                    if let Err(rejection) = ready!(self.poll_asks(cx)) {
                        return Poll::Ready(Err(rejection));
                    }
                    continue;
                }
                Stage::Turn(at) => {
                    if at > clock::now() {
                        ready!(self.timer.poll_until(at, cx));
                    }
                    let now = clock::now();
                    if self.loses_its_turn(now) {
                        self.ask()?;
                        continue;
                    }
                    self.until = self.until.map(|until| until.max(now.checked_add(SLACK).unwrap_or(until)));
                    let patience = self.patience(now);
                    let (tenant, demand) = self.call();
                    let processes = self.turn.as_ref().map_or(1, |turn| turn.share.processes);
                    match self.limit.arrive(tenant, demand.times(processes), now, patience) {
                        PaceDecision::Go(grant) => return Poll::Ready(Ok(self.pass(grant))),
                        PaceDecision::Waits(ticket, wait) => {
                            self.report(wait);
                            self.stage = Stage::Line(ticket);
                        }
                        PaceDecision::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                        PaceDecision::Again(_) => return Poll::Pending,
                    }
                    continue;
                }
                Stage::Line(ticket) => ticket,
                Stage::Over => return Poll::Pending,
            };
            let now = clock::now();
            if self.loses_its_turn(now) {
                self.limit.forget(ticket, now);
                self.ask()?;
                continue;
            }
            let next = match self.limit.ask(ticket, cx.waker(), now, self.until) {
                PaceDecision::Go(grant) => return Poll::Ready(Ok(self.pass(grant))),
                PaceDecision::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                PaceDecision::Again(next) => next,
                PaceDecision::Waits(..) => None,
            };
            if self.until.is_some_and(|until| self.timeout.poll_until(until, cx).is_ready()) {
                return Poll::Ready(Err(self.refuse(None)));
            }
            let Some(next) = next else { return Poll::Pending };
            ready!(self.timer.poll_until(next, cx));
        }
    }
}

impl Drop for PaceWait {
    fn drop(&mut self) {
        self.give_up();
    }
}
