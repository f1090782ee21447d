use std::time::Duration;

use crate::event::Observers;

/// The name of this layer in events.
pub(super) const NAME: &str = "idle-body-timeout";

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) limit: Duration,
    pub(super) activity: IdleActivity,
    pub(super) observers: Observers,
}

/// The activity that resets the timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleActivity {
    /// Any frame.
    #[default]
    Bytes,
    /// Any part of a Server-Sent Event. Comments and blank lines do not count, so the upstream's keep-alive cannot hide
    /// that it is stuck. Other or compressed responses count as with [`Bytes`](Self::Bytes).
    SseEvents,
}
