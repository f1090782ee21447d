//! The trailers of a gRPC-Web answer: the last frame of its body.

use http::{HeaderMap, HeaderValue};

use super::GRPC_STATUS;

/// Finds the trailers in the body of a gRPC-Web answer, which comes in pieces of any size.
///
/// A body of another form has none: base64 (`application/grpc-web-text`), compressed trailers, or bytes that are no frames.
#[derive(Debug, Default)]
pub(crate) struct WebTrailersReader {
    state: State,
}

#[derive(Debug)]
enum State {
    /// In the flags and the length before a frame.
    Prefix { bytes: [u8; PREFIX], len: usize },
    /// In a message, before this number of its bytes.
    Message { left: usize },
    /// In the trailers, of which this number of bytes is missing.
    Trailers { text: Vec<u8>, left: usize },
    /// After the trailers, or at something that is no frame.
    Over,
}

/// One byte of flags, and the length in four.
const PREFIX: usize = 5;
const MESSAGE: u8 = 0x00;
const COMPRESSED_MESSAGE: u8 = 0x01;
const TRAILERS: u8 = 0x80;
/// As much as servers read of the head of an answer.
const MAX_TRAILERS: usize = 64 << 10;

// === impl WebTrailersReader ===

impl WebTrailersReader {
    /// Reads the next bytes of the body. Returns the status among the trailers, once they are complete.
    pub(crate) fn read(&mut self, mut data: &[u8]) -> Option<HeaderMap> {
        while !data.is_empty() {
            match &mut self.state {
                State::Prefix { bytes, len } => {
                    let taken = take(&mut data, PREFIX - *len);
                    bytes[*len..*len + taken.len()].copy_from_slice(taken);
                    *len += taken.len();
                    if *len == PREFIX {
                        self.state = State::after(*bytes);
                    }
                }
                State::Message { left } => {
                    *left -= take(&mut data, *left).len();
                    if *left == 0 {
                        self.state = State::default();
                    }
                }
                State::Trailers { text, left } => {
                    let taken = take(&mut data, *left);
                    text.extend_from_slice(taken);
                    *left -= taken.len();
                    if *left == 0 {
                        let status = status_in(text);
                        self.state = State::Over;
                        return status;
                    }
                }
                State::Over => return None,
            }
        }
        None
    }
}

// === impl State ===

impl State {
    /// Returns the state after this prefix.
    fn after([flags, length @ ..]: [u8; PREFIX]) -> Self {
        let left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        match flags {
            MESSAGE | COMPRESSED_MESSAGE if left == 0 => Self::default(),
            MESSAGE | COMPRESSED_MESSAGE => Self::Message { left },
            TRAILERS if (1..=MAX_TRAILERS).contains(&left) => Self::Trailers { text: Vec::new(), left },
            _ => Self::Over,
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::Prefix { bytes: [0; PREFIX], len: 0 }
    }
}

/// Takes at most `most` bytes.
fn take<'a>(data: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(most.min(data.len()));
    *data = rest;
    taken
}

/// The status among lines like `grpc-status: 0`.
fn status_in(trailers: &[u8]) -> Option<HeaderMap> {
    let value = trailers.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let is_status = line[..colon].trim_ascii().eq_ignore_ascii_case(GRPC_STATUS.as_str().as_bytes());
        is_status.then(|| line[colon + 1..].trim_ascii())
    })?;
    Some(HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_bytes(value).ok()?)]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;
    use crate::proto::grpc;

    fn frame(flags: u8, text: &str) -> Vec<u8> {
        [&[flags][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
    }

    /// The status of a body that comes in pieces of `size` bytes.
    fn status_of(body: &[u8], size: usize) -> Option<u8> {
        let mut reader = WebTrailersReader::default();
        let found: Vec<u8> =
            body.chunks(size).filter_map(|piece| reader.read(piece)).filter_map(|found| grpc::status(&found)).collect();
        assert!(found.len() < 2, "it comes once");
        found.first().copied()
    }

    #[test]
    fn the_status_is_found_in_the_last_frame_however_the_body_is_cut() {
        let refused = frame(0x80, "grpc-message: no: credit\r\nGrpc-Status:7\r\n");
        for body in [
            [frame(0, "hello"), frame(0, ""), frame(1, "world"), refused.clone()].concat(),
            refused.clone(),
            [frame(0, "grpc-status: 0\r\n"), refused].concat(),
        ] {
            for size in 1..=body.len() {
                assert_eq!(status_of(&body, size), Some(7), "{size}");
                assert_eq!(status_of(&body[..body.len() - 1], size), None, "{size}");
            }
        }
        assert_eq!(status_of(&frame(0x80, "grpc-status: 0"), 64), Some(0), "without an end of line");
    }

    #[test]
    fn a_body_of_another_form_has_no_status() {
        let good = frame(0x80, "grpc-status: 0\r\n");
        let mut too_long = good.clone();
        too_long[1] = 1;
        for body in [
            b"gAAAAA9ncnBjLXN0YXR1czowDQo=".to_vec(),
            frame(0x81, "grpc-status: 0\r\n"),
            frame(0x80, "grpc-message: 0\r\n"),
            frame(0x80, "no colon"),
            frame(0x80, ""),
            [frame(0x80, ""), good.clone()].concat(),
            [frame(2, ""), good.clone()].concat(),
            [frame(0x80, "a: b"), good].concat(),
            too_long,
        ] {
            assert_eq!(status_of(&body, 64), None, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn how_the_body_is_cut_changes_nothing(
            body in proptest::collection::vec(proptest::sample::select(vec![0_u8, 1, 5, 0x80, b'a']), 0..64),
            size in 1_usize..64,
            status in any::<u8>(),
        ) {
            let body = [body, frame(0x80, &format!("grpc-status: {status}"))].concat();
            prop_assert_eq!(status_of(&body, size), status_of(&body, body.len()));
        }
    }
}
