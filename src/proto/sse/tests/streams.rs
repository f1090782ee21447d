//! Unpleasant event streams.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Pieces of which unpleasant streams are made.
const PIECES: &[&[u8]] = &[
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b":",
    b" ",
    b"\0",
    b"\xEF\xBB\xBF",
    b"\xEF",
    b"\xBB",
    b"\xBF",
    b"\xC3",
    b"\xA9",
    b"data",
    b"event",
    b"id",
    b"retry",
    b"d",
    b"ata",
    b"data:",
    b"data: ",
    b"event: ",
    b"id: ",
    b"retry: ",
    b"0",
    b"7",
    b"+1",
    b"99999999999999999999",
    b"x",
    b"message",
    b": c",
    b"data: a\n",
    b"data: b\r\n",
    b"data: c\r",
    b"id: 1\n",
    b"id: \0\n",
    b"event: e\n",
    b"retry: 10\n",
    b"data: a\n\n",
    b"data: b\r\n\r\n",
    b"data: c\r\r",
    b": c\n\n",
];

pub(crate) fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(select(PIECES), 0..24).prop_map(|pieces| pieces.concat()),
        1 => vec(any::<u8>(), 0..64),
    ]
}
