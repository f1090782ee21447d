//! What a follower knows of its leader, the calling process: alive, silent or gone.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::BackendError;

/// The leader's signs of life.
#[derive(Debug)]
pub(super) struct LeaderWatch {
    /// When the leader last gave a sign of life.
    pub(super) received: Instant,
    has_received: bool,
    /// When the leader was last asked for the answer.
    asked: Instant,
    /// Since when no process has subscribed to the leader's inbox.
    absent: Option<Instant>,
    /// After this long without a subscriber the leader is gone.
    absence: Duration,
    /// Since when the key has no holder.
    keyless: Option<Instant>,
    /// Since when Redis has not answered.
    unreachable: Option<Instant>,
    /// When this process last missed messages.
    pub(super) gap: Option<Instant>,
    /// Consecutive ticks without a local reader.
    unread: u32,
}

/// How long a leader may be silent before it is asked again.
const SILENCE: Duration = Duration::from_secs(3);

/// The same before its first message: the request may have been lost.
const FIRST_SILENCE: Duration = Duration::from_millis(500);

/// A process without a subscriber to its inbox for this long is gone, and another makes its call. Short, because
/// callers wait for it; a live process detects a dead connection within 1 s (`PING_EVERY`, `PING_TIMEOUT`) and opens
/// another.
pub(super) const ABSENCE: Duration = Duration::from_millis(1_500);

/// The same for a caller that came back, whose call no other process can make. A process that lost its connection
/// retries within 2 s and takes up to 1 s.
pub(super) const ABSENCE_OF_ANSWER: Duration = Duration::from_secs(5);

/// After a restart of Redis processes return at different times: none counts as gone before this.
const RETURN: Duration = Duration::from_secs(2);

/// Without Redis a caller that has nothing yet continues alone after this long.
const UNREACHABLE_BEFORE_HEAD: Duration = Duration::from_secs(1);
const UNREACHABLE_AFTER_HEAD: Duration = Duration::from_secs(10);

// === impl LeaderWatch ===

impl LeaderWatch {
    pub(super) fn new(now: Instant, absence: Duration) -> Self {
        Self {
            received: now,
            has_received: false,
            asked: now,
            absent: None,
            absence,
            keyless: None,
            unreachable: None,
            gap: None,
            unread: 0,
        }
    }

    pub(super) fn on_delivery(&mut self) {
        self.received = Instant::now();
        self.has_received = true;
        (self.absent, self.keyless, self.unreachable) = (None, None, None);
    }

    pub(super) fn on_asked(&mut self, now: Instant, asked: &Result<u64, BackendError>) {
        self.asked = now;
        match asked {
            Ok(0) => _ = self.absent.get_or_insert(now),
            Ok(_) => self.absent = None,
            Err(_) => {}
        }
        match asked {
            // Redis answers again. The leader may notice later than this process.
            Ok(_) if self.unreachable.take().is_some() => self.gap = Some(now),
            Ok(_) => {}
            Err(_) => _ = self.unreachable.get_or_insert(now),
        }
        if asked.is_err() {
            (self.absent, self.keyless) = (None, None);
        }
    }

    pub(super) fn on_holder(&mut self, now: Instant, held: bool) {
        if held {
            self.keyless = None;
        } else {
            self.keyless.get_or_insert(now);
        }
    }

    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let has_trouble = self.absent.or(self.keyless).or(self.unreachable).is_some();
        let limit = if self.has_received && !has_trouble { SILENCE } else { FIRST_SILENCE };
        now.saturating_duration_since(self.received.max(self.asked)) >= limit
    }

    /// Whether the leader has had the time to return, and has not.
    pub(super) fn is_gone(&self, now: Instant, lease: Duration) -> bool {
        let since = |since: Option<Instant>| since.map(|since| now.saturating_duration_since(since));
        let has_returned = since(self.gap).is_none_or(|gap| gap >= RETURN);
        // A live leader renews its lease, and so claims a lost key again.
        let keyless = since(self.keyless).is_some_and(|keyless| keyless >= lease / 2);
        let absent = since(self.absent).is_some_and(|absent| absent >= self.absence);
        has_returned && (keyless || absent)
    }

    /// Whether the leader was silent for a whole lease: it is suspended.
    pub(super) fn is_mute(&self, now: Instant, lease: Duration) -> bool {
        self.unreachable.is_none() && now.saturating_duration_since(self.received) >= lease
    }

    pub(super) fn is_cut_off(&self, now: Instant, has_head: bool) -> bool {
        let limit = if has_head { UNREACHABLE_AFTER_HEAD } else { UNREACHABLE_BEFORE_HEAD };
        self.unreachable.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    pub(super) fn is_unread(&mut self, listeners: usize) -> bool {
        self.unread = if listeners == 0 { self.unread + 1 } else { 0 };
        self.unread >= 4
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
        // Redis answers again, and the leader has not subscribed yet.
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
