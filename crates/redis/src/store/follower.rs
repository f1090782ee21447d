//! The task that fills a local log with the answer to a call of another process.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tower_buttress::error::LeaderGone;
use tower_buttress::store::{Fingerprint, MemoryLease, Recorder};

use super::feed::{Fed, Feed};
use super::watch::{ABSENCE, ABSENCE_OF_ANSWER, LeaderWatch};
use super::wire::{Damaged, Decoder};
use crate::backend::{Ask, Backend, Delivery, Flight, FlightEnd, Offered, Piece, Process, Subscription, Want};

pub(super) struct Follower<B> {
    backend: B,
    flight: Flight,
    owner: Process,
    lease: Duration,
    /// Whether a caller came back to the answer; it reads on even if another call holds the key by now.
    is_return: bool,
    /// The age of the flight when it was found, and when that was.
    age: (Duration, Instant),
    feed: Feed,
    watch: LeaderWatch,
}

/// Why a follower ends.
enum FollowEnd {
    Whole,
    Failed,
    Damaged,
    /// The leader is gone: the key is free.
    LeaderGone,
    /// The leader no longer shares the answer.
    Forsaken,
    /// No local caller reads the answer.
    Unread,
    /// Redis is unreachable, so the leader's state is unknown.
    CutOff,
}

const TICK: Duration = Duration::from_millis(250);

/// The read size. With a partial record it is all that a follower holds beside its log.
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

    /// Fills the log of a caller that came back to an answer.
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
            Err(Damaged) => FollowEnd::Damaged,
        };
        let Self { backend, flight, feed, is_return, .. } = self;
        if matches!(ended, FollowEnd::LeaderGone) && !is_return {
            // Only if that leader still holds it.
            let _ = backend.settle(flight, FlightEnd::Free).await;
        }
        let Feed { recorder, memory, .. } = feed;
        // First, so that a caller that reads the end and repeats the request finds the replay or a free key.
        drop(memory);
        match ended {
            FollowEnd::Whole => recorder.finish(),
            FollowEnd::Failed => recorder.fail("the call failed in the process that made it"),
            FollowEnd::Damaged if is_return => recorder.fail(LeaderGone::new()),
            FollowEnd::Damaged => recorder.fail("the stored answer is incomplete or belongs to another request"),
            FollowEnd::CutOff => recorder.fail(LeaderGone::unreachable()),
            FollowEnd::LeaderGone | FollowEnd::Forsaken | FollowEnd::Unread => recorder.fail(LeaderGone::new()),
        }
    }

    async fn follow(&mut self) -> Result<FollowEnd, Damaged> {
        // Before the first read, so that no bytes are missed. If this process cannot subscribe, it reads the log with
        // each tick.
        let mut pieces = self.backend.listen(self.flight).await.ok();
        if self.is_left() {
            return Ok(FollowEnd::Unread);
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
                delivery = next(&mut pieces) => self.on_delivery(delivery).await?,
                _ = tick.tick() => self.on_tick(&mut pieces).await?,
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    async fn on_delivery(&mut self, delivery: Option<Delivery>) -> Result<Option<FollowEnd>, Damaged> {
        match delivery {
            Some(Delivery::Message(message)) => match Piece::decode(message) {
                Some(Piece::Bytes { offset, bytes }) => {
                    self.watch.on_delivery();
                    self.on_bytes(offset, &bytes).await
                }
                // The leader no longer shares it, but may have written all of it.
                Some(Piece::Forsaken) => Ok(self.catch_up().await?.or(Some(FollowEnd::Forsaken))),
                Some(Piece::CaughtUp { length }) => {
                    self.watch.on_delivery();
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
            Some(Delivery::Gap) => {
                self.watch.gap = Some(Instant::now());
                self.ask().await;
                self.catch_up().await
            }
            None => Ok(Some(FollowEnd::LeaderGone)),
        }
    }

    async fn on_bytes(&mut self, offset: u64, bytes: &Bytes) -> Result<Option<FollowEnd>, Damaged> {
        let known = self.feed.read.saturating_sub(offset);
        if offset > self.feed.read {
            return self.catch_up().await;
        }
        let known = usize::try_from(known).unwrap_or(usize::MAX).min(bytes.len());
        self.take(&bytes[known..]).await
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<Option<FollowEnd>, Damaged> {
        Ok(match self.feed.take(bytes, self.age).await? {
            Fed::More => None,
            Fed::Whole => Some(FollowEnd::Whole),
            Fed::Failed => Some(FollowEnd::Failed),
        })
    }

    /// Reads what is in the log.
    async fn catch_up(&mut self) -> Result<Option<FollowEnd>, Damaged> {
        loop {
            if self.is_left() {
                return Ok(Some(FollowEnd::Unread));
            }
            let Ok(bytes) = self.backend.read(self.flight, self.feed.read, CHUNK).await else {
                // Repeated with the next message or tick.
                return Ok(None);
            };
            if !bytes.is_empty() {
                self.watch.received = Instant::now();
            }
            let ended = self.take(&bytes).await?;
            if ended.is_some() || bytes.len() < CHUNK {
                return Ok(ended);
            }
        }
    }

    /// Whether the caller that came back has left: no other reads this log.
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

    async fn on_tick(&mut self, pieces: &mut Option<Subscription>) -> Result<Option<FollowEnd>, Damaged> {
        if self.is_left() || self.watch.is_unread(self.feed.recorder.log().listeners()) {
            return Ok(Some(FollowEnd::Unread));
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
            // If this process cannot listen, the leader's silence means nothing.
            let is_cut_off = self.watch.is_cut_off(now, self.feed.has_head) || is_mute && pieces.is_none();
            let is_gone = self.watch.is_gone(now, self.lease) || is_mute;
            return Ok(if is_cut_off { Some(FollowEnd::CutOff) } else { is_gone.then_some(FollowEnd::LeaderGone) });
        }
        // A suspended leader keeps its inbox, but its lease ends: then another process holds the key.
        let holder = self.backend.holder(self.flight.key).await;
        let now = Instant::now();
        match holder {
            Ok(Some(token)) if token != self.flight.token => {
                // Bytes that the leader wrote before may still wait here.
                let is_quiet = pieces.as_ref().is_none_or(Subscription::is_quiet);
                if is_quiet { Ok(Some(FollowEnd::LeaderGone)) } else { Ok(None) }
            }
            Ok(holder) => {
                self.watch.on_holder(now, holder.is_some());
                Ok(self.watch.is_gone(now, self.lease).then_some(FollowEnd::LeaderGone))
            }
            Err(_) => Ok(self.watch.is_cut_off(now, self.feed.has_head).then_some(FollowEnd::CutOff)),
        }
    }
}

/// The next message; pending without a subscription.
async fn next(pieces: &mut Option<Subscription>) -> Option<Delivery> {
    match pieces {
        Some(pieces) => pieces.next().await,
        None => std::future::pending().await,
    }
}
