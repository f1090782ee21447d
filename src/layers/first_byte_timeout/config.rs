use std::time::Duration;

use crate::event::Observers;

/// The name of this layer in events.
pub(super) const NAME: &str = "first-byte-timeout";

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) limit: Duration,
    /// The limit for answers that do not stream. `None`: `limit`.
    pub(super) answer: Option<Duration>,
    pub(super) until: FirstByteEvent,
    pub(super) observers: Observers,
}

/// The event that ends the wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstByteEvent {
    /// The head of the response.
    Headers,
    /// The first data of its body.
    #[default]
    Data,
    /// The first complete Server-Sent Event, with data or without; a comment does not count. The layer withholds at most
    /// 64 KiB for it; then the data counts. In JSON the first byte that is not white space counts: some providers send
    /// white space while they think. Other or compressed responses count as with [`Data`](Self::Data).
    SseEvent,
}
