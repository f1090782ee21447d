//! Every length of time in the comparison, twenty times shorter than in life.

use std::time::Duration;

/// 20 s for the first data, the `STANDARD` profile's.
pub(crate) const FIRST_BYTE: Duration = Duration::from_millis(1_000);
/// 15 s of silence within an answer.
pub(crate) const IDLE: Duration = Duration::from_millis(750);
/// 90 s for the whole call. A caller who has nothing by then gives up.
pub(crate) const TOTAL: Duration = Duration::from_millis(4_500);
/// 0.5 s before the first retry.
pub(crate) const BACKOFF: Duration = Duration::from_millis(25);
/// 20 s at most before another.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_millis(1_000);
/// 5 s before an open circuit is tried again.
pub(crate) const OPEN: Duration = Duration::from_millis(250);
/// 300 s at most: no longer than this run.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(15);
/// The second click of a double click: 2 s later, since this one is about people who wait.
pub(crate) const SECOND_CLICK: Duration = Duration::from_millis(100);
/// The provider has nothing for anybody for 40 s.
pub(crate) const OUTAGE: Duration = Duration::from_millis(2_000);
/// The provider with a rate limit allows so many requests in [`LIMIT_PER`]: 60 a minute.
pub(crate) const LIMIT: u32 = 20;
/// 20 s.
pub(crate) const LIMIT_PER: Duration = Duration::from_secs(1);
/// Who has too many requests refused within 20 s is banned.
pub(crate) const REFUSALS_WITHIN: Duration = Duration::from_secs(1);
/// For a minute.
pub(crate) const BAN: Duration = Duration::from_secs(3);
