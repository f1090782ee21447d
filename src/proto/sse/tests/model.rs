//! A slow and obvious reader of event streams, written down from the WHATWG text sentence by sentence.
//!
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>

/// What came out of a stream, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Message {
        event_type: String,
        data: String,
        last_event_id: String,
    },
    Retry(u64),
    /// Not in the standard: something was longer than the limit.
    TooLarge,
}

/// All there is to know after a stream was read to some point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) output: Vec<Output>,
    pub(crate) data: String,
    pub(crate) event_type: String,
    pub(crate) id: String,
    pub(crate) last_event_id: String,
    /// The line that has not ended.
    pub(crate) rest: String,
    pub(crate) ending: &'static str,
    pub(crate) after_cr: bool,
    /// A line that is a field has ended since the last blank line.
    pub(crate) in_event: bool,
    pub(crate) type_line: bool,
    pub(crate) id_line: bool,
    pub(crate) id_ever: bool,
    /// There is a line, ended or not, that is neither blank nor a comment.
    pub(crate) fields: bool,
    too_large: bool,
}

impl Reading {
    pub(crate) fn of(stream: &[u8]) -> Self {
        Self::limited(stream, usize::MAX)
    }

    /// "Streams must be decoded using the UTF-8 decode algorithm." Limits are exact where the stream is UTF-8.
    pub(crate) fn limited(stream: &[u8], limit: usize) -> Self {
        let decoded = String::from_utf8_lossy(stream);
        let mut text: &str = decoded.strip_prefix('\u{FEFF}').unwrap_or(&decoded);
        let mut reading = Self { ending: "\n", ..Self::default() };
        // "Lines must be separated by either a U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF) character pair, a single
        // U+000A LINE FEED (LF) character, or a single U+000D CARRIAGE RETURN (CR) character."
        while let Some(end) = text.find(['\r', '\n']) {
            reading.line(&text[..end], limit);
            text = &text[end..];
            reading.after_cr = text == "\r";
            if reading.after_cr {
                text = "";
                break;
            }
            reading.ending = ["\r\n", "\n", "\r"].into_iter().find(|ending| text.starts_with(ending)).unwrap_or("\n");
            text = &text[reading.ending.len()..];
        }
        reading.rest = text.to_owned();
        reading.fields |= !text.is_empty() && !text.starts_with(':') && !may_be_bom(stream);
        reading
    }

    fn line(&mut self, line: &str, limit: usize) {
        if line.is_empty() {
            return self.dispatch();
        }
        if line.starts_with(':') {
            return;
        }
        self.in_event = true;
        self.fields = true;
        let (field, value) = match line.split_once(':') {
            Some((field, value)) => (field, value.strip_prefix(' ').unwrap_or(value)),
            None => (line, ""),
        };
        match field {
            "event" => {
                self.event_type = value.to_owned();
                self.type_line = true;
                self.too_large |= value.len() > limit;
            }
            "data" => {
                self.data.push_str(value);
                self.too_large |= self.data.len() > limit;
                self.data.push('\n');
            }
            "id" if value.contains('\0') => {}
            "id" if value.len() > limit => self.too_large = true,
            "id" => {
                self.id = value.to_owned();
                self.id_line = true;
                self.id_ever = true;
            }
            "retry" if !value.is_empty() && value.chars().all(|c| c.is_ascii_digit()) => {
                self.output.push(Output::Retry(value.parse().unwrap_or(u64::MAX)));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.in_event = false;
        self.type_line = false;
        self.id_line = false;
        self.last_event_id = self.id.clone();
        let event_type = std::mem::take(&mut self.event_type);
        let mut data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.too_large) {
            self.output.push(Output::TooLarge);
            return;
        }
        if data.is_empty() {
            return;
        }
        data.pop();
        let event_type = if event_type.is_empty() { "message".to_owned() } else { event_type };
        self.output.push(Output::Message { event_type, data, last_event_id: self.last_event_id.clone() });
    }
}

/// Too short to tell whether this is a byte order mark.
pub(crate) fn may_be_bom(stream: &[u8]) -> bool {
    stream.len() < 3 && b"\xEF\xBB\xBF".starts_with(stream)
}
