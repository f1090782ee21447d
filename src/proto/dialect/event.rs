//! One event of a stream, and its wire format.

/// The wire format of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Framing {
    /// `text/event-stream`.
    EventStream,
    /// One JSON value per line: `application/x-ndjson`.
    Lines,
    /// The elements of one JSON array, sent one by one: Gemini without `alt=sse`.
    Array,
}

/// One event of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamEvent<'a> {
    /// The value of its `event` field, or empty, as on lines and in arrays.
    pub name: &'a str,
    /// Its data. In data above 64 KiB, strings longer than 256 bytes are cut to that length.
    pub data: &'a [u8],
    /// Whether the data was cut so.
    pub shortened: bool,
    /// Whether it came in a form that readers of event streams ignore: as the field `error`, which old builds of
    /// llama.cpp write, or as JSON without a field name, as from Google's servers.
    pub misplaced: bool,
}

// === impl StreamEvent ===

impl<'a> StreamEvent<'a> {
    /// Returns an ordinary event: complete, and in its place.
    #[must_use]
    pub const fn new(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, data, shortened: false, misplaced: false }
    }

    /// Whether it only shows that the peer is alive, in a form of no dialect: without data, or by its name, with a word
    /// or a time.
    pub(super) fn is_sign_of_life(&self) -> bool {
        let is_object = self.data.trim_ascii_start().starts_with(b"{");
        self.name != "error" && self.data.is_empty() || is_ping(self.name) && !is_object
    }
}

/// Whether servers of any dialect give this name to keep-alive events.
pub(super) fn is_ping(name: &str) -> bool {
    matches!(name, "ping" | "keepalive" | "keep-alive" | "heartbeat")
}

/// Without its data, which is the model's text.
impl std::fmt::Debug for StreamEvent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamEvent")
            .field("name", &self.name)
            .field("bytes", &self.data.len())
            .field("shortened", &self.shortened)
            .field("misplaced", &self.misplaced)
            .finish()
    }
}
