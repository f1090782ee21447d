//! The scanner and the parser of event streams, against the rules and the model of the tests.

#[path = "../../../src/proto/sse/tests/model.rs"]
mod model;
#[path = "../../../src/proto/sse/tests/rules.rs"]
mod rules;

pub(crate) const VOCABULARY: &[&[u8]] = &[
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b":",
    b": ",
    b" ",
    b"\0",
    b"\xEF\xBB\xBF",
    b"\xEF",
    b"\xC3\xA9",
    b"data",
    b"data:",
    b"data: a\n",
    b"data: b\r\n",
    b"data: c\r",
    b"event",
    b"event: e\n",
    b"id",
    b"id: 1\n",
    b"id: \0\n",
    b"retry: ",
    b"retry: 10\n",
    b"99999999999999999999",
    b"+1",
    b": c\n\n",
    b"data: a\n\n",
    b"[DONE]",
];

/// The first bytes choose the cuts and the limit of an event; the rest is the stream.
pub(crate) fn run(input: &[u8]) {
    let (choices, stream) = input.split_at(input.len().min(6));
    let cuts: Vec<u16> = choices.iter().map(|&byte| u16::from(byte) * 3).collect();
    rules::the_scanner_follows_any_cut(stream, &cuts);
    rules::the_parser_reads_what_the_model_reads(stream, &cuts, None);
    rules::insertions_do_no_harm(stream, &cuts);
    if let (Some(&limit), Ok(text)) = (choices.first(), std::str::from_utf8(stream)) {
        rules::the_parser_reads_what_the_model_reads(text.as_bytes(), &cuts, Some(usize::from(limit) % 16));
    }
}
