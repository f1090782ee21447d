use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::fleet::{Asking, Share};
use super::key::{Limit, PaceDecision};
use super::permit::{CallCharge, PacePermit};
use super::turns::TurnWait;
use crate::admission::Wait;
use crate::call::{Notice, Notices};
use crate::event::Event;
use crate::policy::micros::{Micros, micros};
use crate::policy::pace::{Demand, Grant, Hold};
use crate::policy::queue::Ticket;
use crate::policy::wait_end::WaitEnd;
use crate::rejection::{Rejection, RejectionKind};
use crate::rt::alarm::Alarms;
use crate::rt::clock;
use crate::rt::per_thread::ThreadArc;
use crate::rt::timer::LazyTimer;
use crate::store::pace::PeerTurn;

/// A wait for room in a limit. Dropping it ends the wait.
#[derive(Debug)]
pub struct PaceWait {
    limit: ThreadArc<Limit>,
    stage: Stage,
    /// On the limit's clock, as all its times.
    end: WaitEnd,
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
    Held(Micros),
    /// It waits until it is the first call of this process to ask, or to ask again.
    Behind(Ticket),
    /// It is asking the other processes.
    Asks(Box<Asking>),
    /// Its turn among the calls of all processes is at this time.
    Turn(Micros),
    /// It waits in the line of this process.
    Line(Ticket),
    Over,
}

/// How far away the turn of a call that asks on arrival may be.
const SOON: Duration = Duration::from_micros(crate::policy::pace::SOON);
/// A turn by another clock may be this much too early for this one.
const SLACK: Micros = 50_000;

// === impl PaceWait ===

impl PaceWait {
    pub(super) fn new(limit: ThreadArc<Limit>, ticket: Ticket, end: WaitEnd, charge: Option<Box<CallCharge>>) -> Self {
        Self::at(Stage::Line(ticket), limit, None, end, charge)
    }

    pub(super) fn for_a_turn(
        limit: ThreadArc<Limit>,
        turn: PeersTurn,
        end: WaitEnd,
        charge: Option<Box<CallCharge>>,
    ) -> Self {
        Self::at(Stage::Held(0), limit, Some(Box::new(turn)), end, charge)
    }

    fn at(
        stage: Stage,
        limit: ThreadArc<Limit>,
        turn: Option<Box<PeersTurn>>,
        end: WaitEnd,
        charge: Option<Box<CallCharge>>,
    ) -> Self {
        limit.count_waiting(1.0);
        Self { limit, stage, end, timer: LazyTimer::default(), charge, turn }
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
            None if self.end.is_deadline => {
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
                let next = self.limit.micros(now).saturating_add(wait);
                let wait = Duration::from_micros(wait);
                if next > self.end.at() {
                    return Err(self.refuse(Some(wait)));
                }
                self.report(wait);
                self.stage = Stage::Held(next);
                return Ok(());
            }
        };
        let asking = Asking::begin(&self.limit, &demand, pause, reach.min(self.patience(now)), now);
        self.stage = asking.map_or(Stage::Turn(0), |asking| Stage::Asks(Box::new(asking)));
        Ok(())
    }

    /// Its turn would come after `wait`, or behind other waiting calls: it gets none yet.
    fn wait_behind(&mut self, wait: Duration) -> Result<(), Rejection> {
        let now = clock::now();
        let joined = self.limit.wait_for_turn(self.call(), wait, now, self.end.at());
        let place = joined.map_err(|longest| self.refuse(Some(longest)))?;
        if let Some(turn) = &mut self.turn {
            turn.place = Some(place);
        }
        self.report(wait);
        self.stage = Stage::Behind(place);
        Ok(())
    }

    fn patience(&self, now: Instant) -> Duration {
        self.end.left(self.limit.micros(now))
    }

    /// The time, and whether the wait is over.
    fn look(&mut self) -> (Instant, bool) {
        let now = clock::now();
        (now, self.end.has_passed(self.limit.micros(now)))
    }

    /// It is woken when its wait is over, unless before, or it has no end.
    fn set_alarm(&self, now: Instant) {
        let end = now.checked_add(self.patience(now)).filter(|_| self.end.at() < Micros::MAX);
        if let Some(end) = end {
            Alarms::set(self.limit.value(), end);
        }
    }

    fn poll_until(&mut self, at: Micros, cx: &mut Context<'_>) -> Poll<()> {
        let now = clock::now();
        let left = Duration::from_micros(at.saturating_sub(self.limit.micros(now)));
        match now.checked_add(left) {
            Some(_) if left.is_zero() => Poll::Ready(()),
            Some(at) => self.timer.poll_until(at, cx),
            None => Poll::Pending,
        }
    }

    /// Whether its turn fell into a pause: it then takes another turn after the pause. The first reservation is not
    /// returned, since the turns after it are taken: calls that got it would coincide with theirs.
    fn loses_its_turn(&mut self, now: Instant) -> bool {
        let Some(turn) = self.turn.as_mut().filter(|turn| turn.share.reserved.is_some()) else { return false };
        match self.limit.hold(turn.tenant, now) {
            Hold::All(wait) | Hold::Own(wait) if wait > SLACK => {
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
        let Stage::Asks(asking) = std::mem::replace(&mut self.stage, Stage::Held(0)) else { return Poll::Pending };
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
        self.stage = Stage::Turn(self.limit.micros(now).saturating_add(micros(wait)));
        Poll::Ready(Ok(()))
    }
}

impl Wait for PaceWait {
    type Permit = PacePermit;

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<PacePermit, Rejection>> {
        loop {
            let ticket = match self.stage {
                Stage::Held(until) => {
                    ready!(self.poll_until(until, cx));
                    self.ask()?;
                    continue;
                }
                Stage::Behind(place) => {
                    let (now, is_over) = self.look();
                    let next = match self.limit.next_turn(place, cx.waker(), now, self.end.at()) {
                        TurnWait::Ask(reach) => {
                            self.ask_within(reach)?;
                            continue;
                        }
                        TurnWait::Alone { processes } => {
                            self.leave_place();
                            self.set_share(Share::alone(processes));
                            self.stage = Stage::Turn(0);
                            continue;
                        }
                        TurnWait::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                        TurnWait::Wait(next) => next,
                    };
                    if is_over {
                        return Poll::Ready(Err(self.refuse(None)));
                    }
                    self.set_alarm(now);
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
                    ready!(self.poll_until(at, cx));
                    let now = clock::now();
                    if self.loses_its_turn(now) {
                        self.ask()?;
                        continue;
                    }
                    self.end.at_least(self.limit.micros(now).saturating_add(SLACK));
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
            let (now, is_over) = self.look();
            if self.loses_its_turn(now) {
                self.limit.forget(ticket, now);
                self.ask()?;
                continue;
            }
            let next = match self.limit.ask(ticket, cx.waker(), now, self.end.at()) {
                PaceDecision::Go(grant) => return Poll::Ready(Ok(self.pass(grant))),
                PaceDecision::TooLong(wait) => return Poll::Ready(Err(self.refuse(Some(wait)))),
                PaceDecision::Again(next) => next,
                PaceDecision::Waits(..) => None,
            };
            if is_over {
                return Poll::Ready(Err(self.refuse(None)));
            }
            self.set_alarm(now);
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
