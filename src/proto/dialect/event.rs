//! One event of a stream, and how events are put on the wire.

/// How events are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// `text/event-stream`.
    EventStream,
    /// A JSON value on each line: `application/x-ndjson`.
    Lines,
    /// The elements of one JSON array, sent as they become known: Gemini without `alt=sse`.
    Array,
}

/// One event of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The value of its `event` field. Empty where there is none, as on lines and in arrays.
    pub name: &'a str,
    /// Its data. Of data above 64 KiB, strings that are longer than 256 bytes are cut to that length.
    pub data: &'a [u8],
    /// Whether the data was cut so.
    pub shortened: bool,
    /// Whether it came in a form that a reader of event streams ignores: as the field `error`, which old builds of llama.cpp
    /// write, or as JSON without a field name, as Google's servers do.
    pub misplaced: bool,
}

// === impl Event ===

impl<'a> Event<'a> {
    /// An event, as most are: whole, and where it belongs.
    #[must_use]
    pub const fn new(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, data, shortened: false, misplaced: false }
    }

    /// Whether it only shows that the peer is alive, in a form that belongs to no dialect: without data, or named so, with a word
    /// or a time.
    pub(super) fn is_sign_of_life(&self) -> bool {
        let is_object = self.data.trim_ascii_start().starts_with(b"{");
        self.name != "error" && self.data.is_empty() || is_ping(self.name) && !is_object
    }
}

/// Whether servers of any dialect give this name to events that only show that they are alive.
pub(super) fn is_ping(name: &str) -> bool {
    matches!(name, "ping" | "keepalive" | "keep-alive" | "heartbeat")
}

/// Without its data, which is what the model says.
impl std::fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("name", &self.name)
            .field("bytes", &self.data.len())
            .field("shortened", &self.shortened)
            .field("misplaced", &self.misplaced)
            .finish()
    }
}
