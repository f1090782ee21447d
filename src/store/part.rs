use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

/// One frame of a body. Its `Debug` shows the length, never the content.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyPart {
    /// Data.
    Data(Bytes),
    /// Trailers: the last part.
    Trailers(Arc<HeaderMap>),
}

/// The overhead of a part besides its bytes, and of a header besides its characters: a place in a list, and a share of an
/// allocation. Counted, so an upstream that sends one byte at a time cannot make the store hold 64 times the limit.
pub(super) const OVERHEAD: usize = 64;

/// Data shorter than this is copied when it is stored. It is mostly a slice of the connection's read buffer (at least 8
/// KiB in hyper and in h2), which a 50-byte event would keep alive.
const COMPACT_BELOW: usize = 4096;

/// A part as it is held.
pub(super) enum StoredPart {
    Whole(BodyPart),
    /// Short data, copied; data that follows may be added to it.
    Block(BytesMut),
}

/// Copies short data into blocks. A block is never longer than the data copied so far, so at most half of the memory is
/// unused.
#[derive(Default)]
// What each part writes stands first.
#[repr(C)]
pub(super) struct Compactor {
    copied: usize,
    /// What is left of a block that has ended.
    spare: BytesMut,
}

// === impl BodyPart ===

impl BodyPart {
    pub(crate) fn of(frame: Frame<Bytes>) -> Self {
        match frame.into_data() {
            Ok(data) => Self::Data(data),
            // A frame is either data or trailers.
            Err(frame) => Self::Trailers(Arc::new(frame.into_trailers().unwrap_or_default())),
        }
    }

    pub(crate) fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(Arc::unwrap_or_clone(trailers)),
        }
    }

    /// The memory that it takes.
    pub(super) fn cost(&self) -> usize {
        let bytes = match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD)
                .fold(0, usize::saturating_add),
        };
        bytes.saturating_add(OVERHEAD)
    }
}

impl fmt::Debug for BodyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => write!(f, "Data({} bytes)", data.len()),
            Self::Trailers(trailers) => write!(f, "Trailers({})", trailers.len()),
        }
    }
}

// === impl Compactor ===

impl Compactor {
    /// Copies `part` out of the read buffer that it was a slice of.
    pub(super) fn hold(&mut self, part: &BodyPart) -> StoredPart {
        match part {
            BodyPart::Data(data) if (1..COMPACT_BELOW).contains(&data.len()) => {
                self.copied = self.copied.saturating_add(data.len());
                let mut block = std::mem::take(&mut self.spare);
                if block.capacity() < data.len() {
                    block = BytesMut::with_capacity(data.len().max(self.copied.min(COMPACT_BELOW)));
                }
                block.extend_from_slice(data);
                StoredPart::Block(block)
            }
            part => StoredPart::Whole(part.clone()),
        }
    }

    /// Adds `next` to the block before it. Returns whether there was room.
    pub(super) fn add(&mut self, block: &mut StoredPart, next: &BodyPart) -> bool {
        let (StoredPart::Block(block), BodyPart::Data(data)) = (block, next) else { return false };
        let fits = data.len() <= block.capacity() - block.len();
        if fits {
            self.copied = self.copied.saturating_add(data.len());
            block.extend_from_slice(data);
        }
        fits
    }

    /// Returns `held` for a reader: nothing is added to it from now on.
    pub(super) fn share(&mut self, held: &mut StoredPart) -> BodyPart {
        let part = match held {
            StoredPart::Whole(part) => return part.clone(),
            StoredPart::Block(block) => self.freeze(block),
        };
        *held = StoredPart::Whole(part.clone());
        part
    }

    /// Ends a block. What is left of it takes the data that is held next.
    pub(super) fn close(&mut self, held: &mut StoredPart) {
        if let StoredPart::Block(block) = held {
            *held = StoredPart::Whole(self.freeze(block));
        }
    }

    fn freeze(&mut self, block: &mut BytesMut) -> BodyPart {
        let part = BodyPart::Data(block.split().freeze());
        if block.capacity() > self.spare.capacity() {
            self.spare = std::mem::take(block);
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(length: usize) -> BodyPart {
        BodyPart::Data(Bytes::from(vec![7; length]))
    }

    /// Holds pieces as they come. Only the first of each group of this size finds a reader that waits.
    fn held(pieces: impl IntoIterator<Item = BodyPart>, group: usize) -> Vec<BodyPart> {
        let mut compactor = Compactor::default();
        let mut held: Vec<StoredPart> = Vec::new();
        for (number, piece) in pieces.into_iter().enumerate() {
            if number % group == 0 {
                if let Some(last) = held.last_mut() {
                    compactor.share(last);
                }
            }
            let is_added = held.last_mut().is_some_and(|last| compactor.add(last, &piece));
            if !is_added {
                held.push(compactor.hold(&piece));
            }
        }
        held.iter_mut().map(|held| compactor.share(held)).collect()
    }

    #[test]
    fn short_data_does_not_keep_a_read_buffer_alive() {
        let mut buffer = BytesMut::from(&vec![7; 8192][..]);
        let event = BodyPart::Data(buffer.split_to(50).freeze());
        drop(buffer);
        assert_eq!(held([event.clone()], 1), std::slice::from_ref(&event));
        let mut compactor = Compactor::default();
        let _held = compactor.hold(&event);
        let BodyPart::Data(event) = event else { panic!("no data") };
        assert!(event.is_unique(), "the buffer is shared");
    }

    #[test]
    fn a_short_answer_takes_little_more_than_its_bytes() {
        for pieces in [1, 2, 30, 200] {
            for group in [1, 3, 1000] {
                let held = held((0..pieces).map(|_| piece(50)), group);
                let mut taken = 0;
                // The last piece of a block has the rest of it.
                for part in held {
                    let BodyPart::Data(data) = part else { panic!("no data") };
                    taken += data.try_into_mut().map_or_else(|piece| piece.len(), |block| block.capacity());
                }
                assert!((50 * pieces..=2 * 50 * pieces).contains(&taken), "{taken} for {pieces} pieces");
            }
        }
    }

    #[test]
    fn long_data_is_shared_and_not_copied() {
        let BodyPart::Data(data) = piece(COMPACT_BELOW) else { panic!("no data") };
        let held = held([piece(50), BodyPart::Data(data.clone())], 1000);
        let [_, BodyPart::Data(held)] = &held[..] else { panic!("not apart") };
        assert_eq!(held.as_ptr(), data.as_ptr());
    }

    #[test]
    fn copies_stay_apart() {
        let sent: Vec<BodyPart> =
            (0..2000_usize).map(|i| BodyPart::Data(Bytes::from(vec![u8::try_from(i % 251).unwrap(); i]))).collect();
        assert_eq!(held(sent.clone(), 1), sent);
    }

    #[test]
    fn pieces_that_no_reader_waits_for_are_held_in_few_blocks() {
        let mut pieces: Vec<BodyPart> = (0..4000).map(|_| piece(50)).collect();
        pieces.push(BodyPart::Trailers(Arc::default()));
        let blocks = held(pieces, usize::MAX);
        assert!(blocks.len() < 4000 * 50 / COMPACT_BELOW + 12, "{} blocks", blocks.len());
        let lengths = blocks.iter().map(|block| block.cost() - OVERHEAD);
        assert_eq!(lengths.sum::<usize>(), 4000 * 50);
    }

    #[test]
    fn small_parts_cost_more_than_their_bytes() {
        assert_eq!(BodyPart::Data(Bytes::from_static(b"x")).cost(), 1 + OVERHEAD);
        assert!(BodyPart::Trailers(Arc::default()).cost() >= OVERHEAD);
    }
}
