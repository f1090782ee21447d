//! What holds for every stream, however it is cut. The property tests and the fuzz target both ask these.

use super::model::{Output, Reading, may_be_bom};
use tower_buttress::proto::sse::{Item, Parser, Scanner};

/// Where a stream is cut: any numbers.
pub(super) fn slices<'a>(stream: &'a [u8], cuts: &[u16]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (stream.len() + 1)).collect();
    at.extend([0, stream.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

/// The state after each cut is the state of the whole up to there, and the parts add up.
pub(super) fn the_scanner_follows_any_cut(stream: &[u8], cuts: &[u16]) {
    let mut cut = Scanner::new();
    let (mut read, mut events, mut fields) = (0, 0, false);
    for slice in slices(stream, cuts) {
        read += slice.len();
        let progress = cut.scan(slice);
        events += progress.events;
        fields |= progress.fields;

        let mut whole = Scanner::new();
        let progress = whole.scan(&stream[..read]);
        assert_eq!(cut, whole);
        assert_eq!((events, fields), (progress.events, progress.fields));
        agrees(&whole, events, fields, &stream[..read]);
    }
}

/// The scanner knows what the model knows.
fn agrees(scanner: &Scanner, events: usize, fields: bool, stream: &[u8]) {
    let model = Reading::of(stream);
    let messages = model.output.iter().filter(|output| matches!(output, Output::Message { .. })).count();
    assert_eq!(events, messages);
    assert_eq!(fields, model.fields);
    assert_eq!(scanner.at_stream_start(), stream.is_empty());
    assert_eq!(scanner.bom_is_possible(), may_be_bom(stream));
    assert_eq!(scanner.at_line_start(), model.rest.is_empty());
    assert_eq!(scanner.after_cr(), model.after_cr);
    assert_eq!(scanner.ending().as_str(), model.ending);
    assert_eq!(scanner.in_event(), model.in_event);
    assert_eq!(scanner.has_data(), !model.data.is_empty());
    assert_eq!(scanner.has_event_type(), model.type_line);
    assert_eq!(scanner.has_uncommitted_id(), model.id_line);
    assert_eq!(scanner.id_seen(), model.id_ever);
}

/// The parser finds what the model finds, keeps no more than it may, and does so for any cut.
pub(super) fn the_parser_reads_what_the_model_reads(stream: &[u8], cuts: &[u16], limit: Option<usize>) {
    let mut parser = Parser::new();
    if let Some(limit) = limit {
        parser = parser.limit(limit);
    }
    let mut output = Vec::new();
    for mut slice in slices(stream, cuts) {
        while let Some(item) = parser.next(&mut slice) {
            output.push(match item {
                Item::Message(message) => Output::Message {
                    event_type: message.event_type.into_owned(),
                    data: message.data.into_owned(),
                    last_event_id: message.last_event_id.into_owned(),
                },
                Item::Retry(after) => Output::Retry(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
                // Too large: there is no other.
                _ => Output::TooLarge,
            });
        }
        assert!(slice.is_empty(), "all is read");
        if let Some(limit) = limit {
            assert!(parser.buffered() <= 5 * limit + 1, "{} bytes held", parser.buffered());
        }
    }
    let model = Reading::limited(stream, limit.unwrap_or(usize::MAX));
    assert_eq!(output, model.output);
    assert_eq!(parser.last_event_id(), model.last_event_id);
}

/// A reader of the standard reads the same with and without what is inserted where the scanner allows it.
pub(super) fn insertions_do_no_harm(stream: &[u8], cuts: &[u16]) {
    let mut scanner = Scanner::new();
    let mut downstream = Vec::new();
    let mut strip_bom = false;
    for (slice, cut) in slices(stream, cuts).into_iter().zip(cuts.iter().chain([&0])) {
        scanner.scan(slice);
        downstream.extend_from_slice(slice);
        let start = scanner.at_stream_start();
        let end = scanner.ending().as_str();
        let comment = scanner.comment_is_safe() || start;
        let block = scanner.block_is_safe() || start;
        let inserted = match cut % 4 {
            0 if block => format!(": keepalive{end}{end}"),
            1 if block => end.to_owned(),
            2 if comment => format!(": keepalive{end}"),
            3 if comment => format!(":{end}: twice{end}"),
            _ => continue,
        };
        strip_bom |= start;
        downstream.extend_from_slice(inserted.as_bytes());
    }
    if strip_bom && stream.starts_with(b"\xEF\xBB\xBF") {
        let kept = downstream.len() - stream.len();
        let at = downstream.windows(3).position(|bytes| bytes == b"\xEF\xBB\xBF").unwrap_or(kept);
        downstream.drain(at..at + 3);
    }
    let (with, without) = (Reading::of(&downstream), Reading::of(stream));
    assert_eq!(with.output, without.output);
    assert_eq!(with.last_event_id, without.last_event_id);
    assert_eq!(
        (with.data, with.event_type, with.id, with.rest),
        (without.data, without.event_type, without.id, without.rest),
        "what is not finished is the same, too"
    );
}
