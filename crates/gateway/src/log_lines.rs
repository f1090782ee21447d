//! The form of log lines: that of `tracing-subscriber`, without the formatting that only a terminal needs.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;

use super::decimal::Decimal;

/// Fields as [`DefaultFields`] writes them. There is a line for each call, and its fields are most of what it costs.
#[derive(Debug)]
pub(crate) struct PlainFields;

/// The time of day in UTC, to the microsecond.
#[derive(Debug)]
pub(crate) struct UtcTime;

struct PlainVisitor {
    text: String,
    is_empty: bool,
    result: fmt::Result,
}

thread_local! {
    /// Written at once where they are kept, fields take no more room there than they need.
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

// === impl PlainFields ===

impl<'writer> FormatFields<'writer> for PlainFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        if writer.has_ansi_escapes() {
            return DefaultFields::new().format_fields(writer, fields);
        }
        let mut visitor = PlainVisitor { text: BUFFER.take(), is_empty: true, result: Ok(()) };
        fields.record(&mut visitor);
        let PlainVisitor { mut text, result, .. } = visitor;
        let written = result.and_then(|()| writer.write_str(&text));
        text.clear();
        BUFFER.set(text);
        written
    }
}

// === impl PlainVisitor ===

impl PlainVisitor {
    /// Writes what needs no look at it as the default does.
    fn by_default(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        if self.result.is_ok() {
            let mut visitor = DefaultVisitor::new(Writer::new(&mut self.text), self.is_empty);
            record(&mut visitor);
            self.result = tracing_subscriber::field::VisitOutput::finish(visitor);
            self.is_empty = false;
        }
    }

    /// Begins a field, if there is to be one.
    fn name(&mut self, name: &str) -> Option<&mut String> {
        self.result.ok()?;
        if !self.is_empty {
            self.text.push(' ');
        }
        self.is_empty = false;
        self.text.push_str(name);
        self.text.push('=');
        Some(&mut self.text)
    }
}

impl Visit for PlainVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            name if name != "message" && !name.starts_with("r#") && needs_no_escapes(value) => {
                if let Some(text) = self.name(name) {
                    text.push('"');
                    text.push_str(value);
                    text.push('"');
                }
            }
            _ => self.by_default(|visitor| visitor.record_str(field, value)),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            name if !name.starts_with("r#") => {
                if let Some(text) = self.name(name) {
                    text.push_str(Decimal::new(value).as_str());
                }
            }
            _ => self.by_default(|visitor| visitor.record_u64(field, value)),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.by_default(|visitor| visitor.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" if self.result.is_ok() && self.is_empty => {
                self.result = write!(self.text, "{value:?}");
                if self.result.is_ok() && !is_plain(&self.text) {
                    self.text.clear();
                    return self.by_default(|visitor| visitor.record_debug(field, value));
                }
                self.is_empty = false;
            }
            "message" => self.by_default(|visitor| visitor.record_debug(field, value)),
            name if !name.starts_with("r#") && !name.starts_with("log.") => {
                if let Some(text) = self.name(name) {
                    self.result = write!(text, "{value:?}");
                }
            }
            _ => self.by_default(|visitor| visitor.record_debug(field, value)),
        }
    }
}

/// Whether a text is between quotation marks as it is.
fn needs_no_escapes(text: &str) -> bool {
    is_plain(text) && !text.bytes().any(|byte| matches!(byte, b'"' | b'\\'))
}

/// Whether a terminal only shows it.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

// === impl UtcTime ===

impl FormatTime for UtcTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_micros(SystemTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::fmt::time::SystemTime as DefaultTime;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn written(of: impl FnOnce(Written) -> tracing::Dispatch) -> String {
        let written = Written::default();
        let dispatch = of(written.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            let texts = ["plain", "", "a \"b\"", "c \\ d", "tab\t", "\u{e9}", "\u{1b}[31m", "\u{7f}"];
            let span = tracing::info_span!("call", id = "a", later = tracing::field::Empty, text = texts[2]);
            span.record("later", "b");
            let _span = span.entered();
            for text in texts {
                tracing::info!(text, r#type = text, none = None::<u64>, shown = %text, "a message: {text}");
                tracing::info!(message = text, text);
            }
            for number in [0, 7, 10, 65_535, u64::MAX] {
                tracing::info!(number, r#type = number, signed = -1, is_true = true, ratio = 0.5, debug = ?texts);
            }
            let error = std::io::Error::other("why");
            tracing::warn!(error = &error as &(dyn std::error::Error + 'static), "failed");
        });
        let written = written.0.lock().unwrap();
        String::from_utf8(written.clone()).unwrap()
    }

    #[test]
    fn lines_are_those_of_the_default_form() {
        for is_terminal in [false, true] {
            let lines = |written| tracing_subscriber::fmt().with_writer(written).without_time().with_ansi(is_terminal);
            let ours = written(|written| lines(written).fmt_fields(PlainFields).finish().into());
            assert_eq!(ours, written(|written| lines(written).finish().into()));
            assert!(ours.lines().count() > 10);
        }
    }

    #[test]
    fn the_time_has_the_default_form() {
        let written = |time: &dyn Fn(&mut Writer<'_>) -> fmt::Result| {
            let mut text = String::new();
            time(&mut Writer::new(&mut text)).unwrap();
            text
        };
        let (before, ours, after) = (
            written(&|writer| DefaultTime.format_time(writer)),
            written(&|writer| UtcTime.format_time(writer)),
            written(&|writer| DefaultTime.format_time(writer)),
        );
        // As texts they are in the order of their times.
        assert!(before <= ours && ours <= after, "{before}, {ours}, {after}");
        assert_eq!(ours.len(), before.len());
    }
}
