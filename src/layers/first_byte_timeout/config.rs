use std::time::Duration;

use crate::event::Observers;

/// The name of this layer in events.
pub(super) const NAME: &str = "first-byte-timeout";

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) limit: Duration,
    /// For answers that are no streams. `None`: `limit` too.
    pub(super) answer: Option<Duration>,
    pub(super) until: FirstByteEvent,
    pub(super) observers: Observers,
}

/// What ends the wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FirstByteEvent {
    /// The head of the response.
    Headers,
    /// The first data of its body.
    #[default]
    Data,
    /// The first whole Server-Sent Event of any kind, with data or without: a comment is none. At most 64 KiB are withheld
    /// for it; then what there is counts. JSON is judged by its first byte that is no white space, which some providers send
    /// while they think. A response that is neither, or is compressed, is judged by [`Data`](Self::Data).
    SseEvent,
}
