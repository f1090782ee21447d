//! The task that feeds a log here with the answer to a call that another process makes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tower_buttress::error::LeaderGone;
use tower_buttress::store::{BodyPart, Fingerprint, Head, Lease, MemoryLease, Recorder};

use super::wire::{Damaged, Decoder, HeadRecord, Record};
use crate::backend::{Ask, Backend, BackendError, Flight, Heard, Offered, Outcome, Piece, Process, Subscription, Want};

pub(super) struct Follower<B> {
    backend: B,
    flight: Flight,
    owner: Process,
    lease: Duration,
    /// A caller came back to the answer: whose its key is does not matter.
    is_return: bool,
    /// How old the flight was when it was found, and when that was.
    age: (Duration, Instant),
    feed: Feed,
    watch: LeaderWatch,
}

/// The log here, and what of it was read.
pub(super) struct Feed {
    pub(super) recorder: Recorder,
    pub(super) memory: Option<MemoryLease>,
    pub(super) decoder: Decoder,
    /// How much of the log was read.
    pub(super) read: u64,
    pub(super) has_head: bool,
}

/// What was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// There is more to come.
    More,
    /// The answer is whole.
    Whole,
    /// The call failed.
    Failed,
}

/// Why it is not followed any more.
enum Ended {
    Whole,
    Failed,
    Damaged,
    /// The leader is gone: the key is free for another.
    LeaderGone,
    /// The leader is there, and does not share the answer any longer.
    Forsaken,
    /// No caller here reads it.
    Unread,
    /// It cannot be heard of the leader: nothing is known of it.
    CutOff,
}

/// What is known of the process that makes the call.
#[derive(Debug)]
struct LeaderWatch {
    heard: Instant,
    has_been_heard: bool,
    asked: Instant,
    /// Since when no process has had its inbox.
    absent: Option<Instant>,
    /// A process whose inbox no one has had for this long is gone.
    absence: Duration,
    /// Since when the key has been nobody's.
    keyless: Option<Instant>,
    unreachable: Option<Instant>,
    /// When messages were last missed here.
    gap: Option<Instant>,
    /// How often in a row nobody read it here.
    unread: u32,
}

const TICK: Duration = Duration::from_millis(250);

/// A leader that says nothing for this long is asked again.
const SILENCE: Duration = Duration::from_secs(3);

/// Until the first word: the message that asked for it may have been lost.
const FIRST_SILENCE: Duration = Duration::from_millis(500);

/// A process whose inbox no one has had for this long is gone: another makes the call, and its callers wait for that.
/// One that lives knows within a second that its connection is of no use (`PING_EVERY`, `PING_TIMEOUT`), and has another then.
const ABSENCE: Duration = Duration::from_millis(1_500);

/// The same for a caller that came back: no other process can make this call. A process that has lost its connection takes up to
/// 2 s until it tries again, and a second for that.
const ABSENCE_OF_ANSWER: Duration = Duration::from_secs(5);

/// After a restart of Redis, everybody has this long to come back.
const RETURN: Duration = Duration::from_secs(2);

/// Without Redis a caller that has nothing yet goes on by itself after this long.
const UNREACHABLE_BEFORE_HEAD: Duration = Duration::from_secs(1);
const UNREACHABLE_AFTER_HEAD: Duration = Duration::from_secs(10);

/// As much is read at once. With what of a record was there before it is what a follower holds beside its log.
const CHUNK: usize = 64 * 1024;

// === impl Follower ===

impl<B: Backend> Follower<B> {
    #[allow(clippy::too_many_arguments, reason = "each is another thing, and this is the only caller's call")]
    pub(super) fn spawn(
        backend: B,
        flight: Flight,
        payload: Fingerprint,
        owner: Process,
        age: Duration,
        recorder: Recorder,
        memory: MemoryLease,
        lease: Duration,
    ) {
        let now = Instant::now();
        let feed = Feed::new(recorder, Some(memory), Decoder::new(flight.key, payload));
        let watch = LeaderWatch::new(now, ABSENCE);
        let follower = Self { backend, flight, owner, lease, is_return: false, age: (age, now), feed, watch };
        tokio::spawn(follower.run());
    }

    /// Feeds the log of a caller that came back to an answer.
    pub(super) fn return_to(backend: B, offered: Offered, recorder: Recorder, lease: Duration) {
        let now = Instant::now();
        let Offered { flight, payload, owner, age, .. } = offered;
        let feed = Feed::new(recorder, None, Decoder::new(flight.key, payload));
        let watch = LeaderWatch::new(now, ABSENCE_OF_ANSWER);
        let follower = Self { backend, flight, owner, lease, is_return: true, age: (age, now), feed, watch };
        tokio::spawn(follower.run());
    }

    async fn run(mut self) {
        let ended = match self.follow().await {
            Ok(ended) => ended,
            Err(Damaged) => Ended::Damaged,
        };
        let Self { backend, flight, feed, is_return, .. } = self;
        if matches!(ended, Ended::LeaderGone) && !is_return {
            // Only where it is still that leader's.
            let _ = backend.settle(flight, Outcome::Free).await;
        }
        let Feed { recorder, memory, .. } = feed;
        // First: who reads the end finds the replay, or a key that is free.
        drop(memory);
        match ended {
            Ended::Whole => recorder.finish(),
            Ended::Failed => recorder.fail("the call failed in the process that made it"),
            Ended::Damaged if is_return => recorder.fail(LeaderGone::new()),
            Ended::Damaged => recorder.fail("what the backend holds is no whole answer to this request"),
            Ended::CutOff => recorder.fail(LeaderGone::unreachable()),
            Ended::LeaderGone | Ended::Forsaken | Ended::Unread => recorder.fail(LeaderGone::new()),
        }
    }

    async fn follow(&mut self) -> Result<Ended, Damaged> {
        // Before anything is read, so that nothing falls in between. Without it, which says nothing of the leader, the log is
        // read with each tick.
        let mut pieces = self.backend.listen(self.flight).await.ok();
        if self.is_left() {
            return Ok(Ended::Unread);
        }
        self.ask().await;
        if let Some(ended) = self.catch_up().await? {
            return Ok(ended);
        }
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = tokio::select! {
                biased;
                heard = next(&mut pieces) => self.on_heard(heard).await?,
                _ = tick.tick() => self.on_tick(&mut pieces).await?,
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    async fn on_heard(&mut self, heard: Option<Heard>) -> Result<Option<Ended>, Damaged> {
        match heard {
            Some(Heard::Message(message)) => match Piece::decode(message) {
                Some(Piece::Bytes { offset, bytes }) => {
                    self.watch.on_heard();
                    self.on_bytes(offset, &bytes).await
                }
                // All of it may be there.
                Some(Piece::Forsaken) => Ok(self.catch_up().await?.or(Some(Ended::Forsaken))),
                Some(Piece::CaughtUp { length }) => {
                    self.watch.on_heard();
                    let ended = if length > self.feed.read { self.catch_up().await? } else { None };
                    if self.feed.read >= length {
                        self.feed.recorder.caught_up();
                    } else if ended.is_none() {
                        self.ask().await;
                    }
                    Ok(ended)
                }
                None => Err(Damaged),
            },
            Some(Heard::Gap) => {
                self.watch.gap = Some(Instant::now());
                self.ask().await;
                self.catch_up().await
            }
            None => Ok(Some(Ended::LeaderGone)),
        }
    }

    async fn on_bytes(&mut self, offset: u64, bytes: &Bytes) -> Result<Option<Ended>, Damaged> {
        let known = self.feed.read.saturating_sub(offset);
        if offset > self.feed.read {
            return self.catch_up().await;
        }
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        self.take(&bytes[known..]).await
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<Option<Ended>, Damaged> {
        Ok(match self.feed.take(bytes, self.age).await? {
            Fed::More => None,
            Fed::Whole => Some(Ended::Whole),
            Fed::Failed => Some(Ended::Failed),
        })
    }

    /// Reads what is in the log.
    async fn catch_up(&mut self) -> Result<Option<Ended>, Damaged> {
        loop {
            if self.is_left() {
                return Ok(Some(Ended::Unread));
            }
            let Ok(bytes) = self.backend.read(self.flight, self.feed.read, CHUNK).await else {
                // The next message, or the next tick, brings it back here.
                return Ok(None);
            };
            if !bytes.is_empty() {
                self.watch.heard = Instant::now();
            }
            let ended = self.take(&bytes).await?;
            if ended.is_some() || bytes.len() < CHUNK {
                return Ok(ended);
            }
        }
    }

    /// Whether the caller who came back is gone. No other reads this log, now or later.
    fn is_left(&self) -> bool {
        self.is_return && self.feed.recorder.log().listeners() == 0
    }

    /// Asks the leader to share the answer.
    async fn ask(&mut self) {
        let now = Instant::now();
        let asked = if self.is_return {
            self.backend.ask(self.owner, Ask::Return(self.flight)).await
        } else {
            self.backend.want(self.owner, Want(self.flight)).await
        };
        self.watch.on_asked(now, &asked);
    }

    async fn on_tick(&mut self, pieces: &mut Option<Subscription>) -> Result<Option<Ended>, Damaged> {
        if self.is_left() || self.watch.is_unread(self.feed.recorder.log().listeners()) {
            return Ok(Some(Ended::Unread));
        }
        if !self.watch.is_silent(Instant::now()) {
            return Ok(None);
        }
        if pieces.is_none() {
            *pieces = self.backend.listen(self.flight).await.ok();
        }
        self.ask().await;
        if let Some(ended) = self.catch_up().await? {
            return Ok(Some(ended));
        }
        if self.is_return {
            let now = Instant::now();
            let is_mute = self.watch.is_mute(now, self.lease);
            // Where nothing can be heard here, its silence says nothing.
            let is_cut_off = self.watch.is_cut_off(now, self.feed.has_head) || is_mute && pieces.is_none();
            let is_gone = self.watch.is_gone(now, self.lease) || is_mute;
            return Ok(if is_cut_off { Some(Ended::CutOff) } else { is_gone.then_some(Ended::LeaderGone) });
        }
        // A leader that is suspended has an inbox, and no lease any more.
        let holder = self.backend.holder(self.flight.key).await;
        let now = Instant::now();
        match holder {
            Ok(Some(token)) if token != self.flight.token => {
                // What it wrote last may have come before that.
                let is_quiet = pieces.as_ref().is_none_or(Subscription::is_quiet);
                if is_quiet { Ok(Some(Ended::LeaderGone)) } else { Ok(None) }
            }
            Ok(holder) => {
                self.watch.on_holder(now, holder.is_some());
                Ok(self.watch.is_gone(now, self.lease).then_some(Ended::LeaderGone))
            }
            Err(_) => Ok(self.watch.is_cut_off(now, self.feed.has_head).then_some(Ended::CutOff)),
        }
    }
}

/// What is heard next; pending where nothing can be.
async fn next(pieces: &mut Option<Subscription>) -> Option<Heard> {
    match pieces {
        Some(pieces) => pieces.next().await,
        None => std::future::pending().await,
    }
}

// === impl LeaderWatch ===

impl LeaderWatch {
    fn new(now: Instant, absence: Duration) -> Self {
        Self {
            heard: now,
            has_been_heard: false,
            asked: now,
            absent: None,
            absence,
            keyless: None,
            unreachable: None,
            gap: None,
            unread: 0,
        }
    }

    fn on_heard(&mut self) {
        self.heard = Instant::now();
        self.has_been_heard = true;
        (self.absent, self.keyless, self.unreachable) = (None, None, None);
    }

    fn on_asked(&mut self, now: Instant, asked: &Result<u64, BackendError>) {
        self.asked = now;
        match asked {
            Ok(0) => _ = self.absent.get_or_insert(now),
            Ok(_) => self.absent = None,
            Err(_) => {}
        }
        match asked {
            // The leader may come back a moment later than this process.
            Ok(_) if self.unreachable.take().is_some() => self.gap = Some(now),
            Ok(_) => {}
            Err(_) => _ = self.unreachable.get_or_insert(now),
        }
        if asked.is_err() {
            (self.absent, self.keyless) = (None, None);
        }
    }

    fn on_holder(&mut self, now: Instant, held: bool) {
        if held {
            self.keyless = None;
        } else {
            self.keyless.get_or_insert(now);
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        let has_trouble = self.absent.or(self.keyless).or(self.unreachable).is_some();
        let limit = if self.has_been_heard && !has_trouble { SILENCE } else { FIRST_SILENCE };
        now.saturating_duration_since(self.heard.max(self.asked)) >= limit
    }

    /// Whether the leader has had the time that it takes to come back, and has not.
    fn is_gone(&self, now: Instant, lease: Duration) -> bool {
        let since = |since: Option<Instant>| since.map(|since| now.saturating_duration_since(since));
        let has_returned = since(self.gap).is_none_or(|gap| gap >= RETURN);
        // A leader that lives claims a key that was forgotten again when it renews its lease.
        let keyless = since(self.keyless).is_some_and(|keyless| keyless >= lease / 2);
        let absent = since(self.absent).is_some_and(|absent| absent >= self.absence);
        has_returned && (keyless || absent)
    }

    /// Whether the leader has given no sign of life for as long as a lease: it is suspended.
    fn is_mute(&self, now: Instant, lease: Duration) -> bool {
        self.unreachable.is_none() && now.saturating_duration_since(self.heard) >= lease
    }

    fn is_cut_off(&self, now: Instant, has_head: bool) -> bool {
        let limit = if has_head { UNREACHABLE_AFTER_HEAD } else { UNREACHABLE_BEFORE_HEAD };
        self.unreachable.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    fn is_unread(&mut self, listeners: usize) -> bool {
        self.unread = if listeners == 0 { self.unread + 1 } else { 0 };
        self.unread >= 4
    }
}

// === impl Feed ===

impl Feed {
    pub(super) fn new(recorder: Recorder, memory: Option<MemoryLease>, decoder: Decoder) -> Self {
        Self { recorder, memory, decoder, read: 0, has_head: false }
    }

    /// Writes what these bytes say, as fast as it is read here. `age`: how long ago the flight was claimed, and as of when.
    pub(super) async fn take(&mut self, bytes: &[u8], age: (Duration, Instant)) -> Result<Fed, Damaged> {
        self.read += bytes.len() as u64;
        self.decoder.push(bytes);
        while let Some(record) = self.decoder.next()? {
            match record {
                Record::Head(head) => {
                    self.has_head = true;
                    self.recorder.head(head_of(head, age));
                }
                Record::Part(part) => self.part(part).await,
                Record::End => return Ok(Fed::Whole),
                Record::Fail => return Ok(Fed::Failed),
            }
        }
        Ok(Fed::More)
    }

    async fn part(&mut self, part: BodyPart) {
        self.recorder.ready().await;
        self.recorder.part(part);
        let held = self.recorder.held_bytes();
        if self.memory.as_mut().is_some_and(|memory| !memory.resize(held)) {
            self.recorder.stop_recording();
        }
    }
}

fn head_of(head: HeadRecord, (age, found): (Duration, Instant)) -> Head {
    let now = Instant::now();
    let age = (age + now.saturating_duration_since(found)).saturating_sub(head.after);
    let HeadRecord { status, version, headers, served_by, attempts, .. } = head;
    let head = Head::new(status, version, headers, now.into_std()).with_age(age).with_attempts(attempts);
    match served_by {
        Some(backup) => head.with_served_by(backup),
        None => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_outage_the_leader_has_time_to_come_back() {
        let (start, lease) = (Instant::now(), Duration::from_secs(10));
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = LeaderWatch::new(start, ABSENCE);
        watch.gap = Some(start);
        watch.on_asked(start, &Err(BackendError::Unreachable));
        // Redis answers again, and the leader does not listen yet.
        for ms in [5_000, 5_500, 6_000, 6_500] {
            watch.on_asked(at(ms), &Ok(0));
            assert!(!watch.is_gone(at(ms), lease), "{ms}");
        }
        watch.on_asked(at(7_000), &Ok(0));
        assert!(watch.is_gone(at(7_000), lease));
    }

    #[test]
    fn a_process_that_connects_again_is_not_gone_for_those_who_come_back() {
        let (start, lease) = (Instant::now(), Duration::from_secs(10));
        for (absence, gone_after) in [(ABSENCE, 1_500), (ABSENCE_OF_ANSWER, 5_000)] {
            let mut watch = LeaderWatch::new(start, absence);
            for ms in (0..10_000).step_by(500) {
                let now = start + Duration::from_millis(ms);
                watch.on_asked(now, &Ok(0));
                assert_eq!(watch.is_gone(now, lease), ms >= gone_after, "{ms}");
            }
        }
    }
}
