//! The durations of the comparison, a twentieth of the real ones.

use std::time::Duration;

/// 20 s for the first data, the `STANDARD` profile's.
pub(crate) const FIRST_BYTE: Duration = Duration::from_millis(1_000);
/// 15 s of silence within an answer.
pub(crate) const IDLE: Duration = Duration::from_millis(750);
/// 90 s for the whole call. A caller without an answer then gives up.
pub(crate) const TOTAL: Duration = Duration::from_millis(4_500);
/// 0.5 s before the first retry.
pub(crate) const BACKOFF: Duration = Duration::from_millis(25);
/// The longest wait between retries: 20 s.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(1_000);
/// 5 s before an open circuit probes.
pub(crate) const OPEN: Duration = Duration::from_millis(250);
/// The limit of 300 s is longer than this run.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(15);
/// The second click comes 2 s later: callers click again when they have to wait.
pub(crate) const SECOND_CLICK: Duration = Duration::from_millis(100);
/// The provider answers no call for 40 s.
pub(crate) const OUTAGE: Duration = Duration::from_millis(2_000);
/// The provider with a rate limit allows this many requests in [`LIMIT_PER`]: 60 a minute.
pub(crate) const LIMIT: u32 = 20;
/// 20 s.
pub(crate) const LIMIT_PER: Duration = Duration::from_secs(1);
/// The time within which refusals count for a ban.
pub(crate) const REFUSALS_WITHIN: Duration = Duration::from_secs(1);
/// The length of a ban: 1 minute.
pub(crate) const BAN: Duration = Duration::from_secs(3);
