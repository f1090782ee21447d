//! Writes the reports for a waiting caller into its stream.

use std::fmt;
use std::task::Context;

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::config::NoticeText;
use super::position::StreamPosition;
use crate::call::Notices;
use crate::proto::dialect::NoticeWriter;

/// The notices of one call.
pub(super) struct CallNotices {
    cell: Notices,
    text: NoticeText,
    /// The headers of the request, for example to choose a language.
    headers: HeaderMap,
    writer: NoticeWriter,
}

/// Longer texts are cut.
const MAX_TEXT: usize = 500;

// === impl CallNotices ===

impl CallNotices {
    /// Collects the reports of the layers below for this call.
    pub(super) fn of<B>(text: &NoticeText, request: &mut Request<B>) -> Self {
        let cell = Notices::default();
        request.extensions_mut().insert(cell.clone());
        let writer = NoticeWriter::of_path(request.uri().path());
        Self { cell, text: text.clone(), headers: request.headers().clone(), writer }
    }

    /// For an event stream under any path.
    pub(super) fn in_event_stream(self) -> Self {
        Self { writer: self.writer.in_event_stream(), ..self }
    }

    /// The upstream has sent data: the reported wait is over.
    pub(super) fn on_data(&mut self, data: &[u8]) {
        self.writer.read(data);
        self.cell.clear();
    }

    /// Returns the next notice, for a stream that may take a block at this position.
    pub(super) fn next(&self, position: StreamPosition<'_>, cx: &Context<'_>) -> Option<Bytes> {
        while let Some(notice) = self.cell.next(cx) {
            let text = (self.text.0)(&notice, &self.headers).map(one_line).filter(|text| !text.is_empty());
            if let Some(text) = text {
                return self.writer.write(notice.name(), &text, position.has_ids(), position.scanner.ending());
            }
        }
        None
    }
}

fn one_line(text: impl AsRef<str>) -> String {
    let text: String = text.as_ref().chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}

/// Without the headers, which hold credentials.
impl fmt::Debug for CallNotices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallNotices").field("writer", &self.writer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_and_not_long() {
        assert_eq!(one_line(" a\r\n\tb\u{0}\u{85} "), "a   b");
        assert_eq!(one_line("ü".repeat(1000)).chars().count(), MAX_TEXT);
    }
}
