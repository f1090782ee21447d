use std::time::Duration;

use crate::event::Observers;

/// The name of this layer in events.
pub(super) const NAME: &str = "idle-body-timeout";

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) limit: Duration,
    pub(super) activity: IdleActivity,
    pub(super) observers: Observers,
}

/// What counts as a sign of life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleActivity {
    /// Any frame.
    #[default]
    Bytes,
    /// Any part of a Server-Sent Event. Comments and blank lines are not, so that an upstream's own keep-alive cannot
    /// hide that it is stuck. A response that is no `text/event-stream`, or is compressed, is judged by
    /// [`Bytes`](Self::Bytes).
    SseEvents,
}
