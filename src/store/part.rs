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

/// Short data that is stored for long is merged into blocks of at most this size.
const LONGEST_BLOCK: usize = 16 * 1024;

/// Copies short data into chunks. A chunk is never longer than the data copied before it, so at most half of the memory
/// is unused.
#[derive(Debug, Default)]
pub(super) struct Compactor {
    chunk: BytesMut,
    copied: usize,
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

/// Merges data into the block before it and returns their cost; `None`: they stay separate.
pub(super) fn merge(block: &mut BodyPart, next: &BodyPart) -> Option<usize> {
    let (BodyPart::Data(data), BodyPart::Data(next)) = (&mut *block, next) else { return None };
    if next.len() >= COMPACT_BELOW || data.len().saturating_add(next.len()) > LONGEST_BLOCK {
        return None;
    }
    // The data is a block of its own, unless it shares a chunk with others, or a reader still has it.
    let mut bytes = match std::mem::take(data).try_into_mut() {
        Ok(bytes) => bytes,
        Err(shared) => {
            let mut bytes = BytesMut::with_capacity(shared.len().saturating_add(next.len()).max(COMPACT_BELOW));
            bytes.extend_from_slice(&shared);
            bytes
        }
    };
    bytes.extend_from_slice(next);
    *data = bytes.freeze();
    Some(block.cost())
}

// === impl Compactor ===

impl Compactor {
    /// Copies `part` out of the read buffer that it was a slice of.
    pub(super) fn compact(&mut self, part: &BodyPart) -> BodyPart {
        match part {
            BodyPart::Data(data) if (1..COMPACT_BELOW).contains(&data.len()) => {
                if self.chunk.capacity() < data.len() {
                    // The last chunk is freed with the parts that were copied to it.
                    self.chunk = BytesMut::with_capacity(data.len().max(self.copied.min(COMPACT_BELOW)));
                }
                self.copied = self.copied.saturating_add(data.len());
                self.chunk.extend_from_slice(data);
                BodyPart::Data(self.chunk.split().freeze())
            }
            part => part.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_data_does_not_keep_a_read_buffer_alive() {
        let mut compactor = Compactor::default();
        let mut buffer = BytesMut::from(&vec![7; 8192][..]);
        let event = BodyPart::Data(buffer.split_to(50).freeze());
        drop(buffer);
        let held = compactor.compact(&event);
        assert_eq!(held, event);
        let BodyPart::Data(event) = event else { panic!("no data") };
        assert!(event.is_unique(), "the buffer is shared");
    }

    #[test]
    fn a_short_answer_takes_little_more_than_its_bytes() {
        for pieces in [1, 2, 30, 200] {
            let mut compactor = Compactor::default();
            let held: Vec<BodyPart> =
                (0..pieces).map(|_| compactor.compact(&BodyPart::Data(Bytes::from_static(&[7; 50])))).collect();
            drop(compactor);
            let mut taken = 0;
            // The last piece of a chunk frees it.
            for part in held {
                let BodyPart::Data(data) = part else { panic!("no data") };
                taken += data.try_into_mut().map_or(0, |chunk| chunk.capacity());
            }
            assert!(taken <= 2 * 50 * pieces, "{taken} for {pieces} pieces");
        }
    }

    #[test]
    fn long_data_is_shared_and_not_copied() {
        let data = Bytes::from(vec![7; COMPACT_BELOW]);
        let BodyPart::Data(held) = Compactor::default().compact(&BodyPart::Data(data.clone())) else {
            panic!("no data")
        };
        assert_eq!(held.as_ptr(), data.as_ptr());
    }

    #[test]
    fn copies_stay_apart() {
        let mut compactor = Compactor::default();
        let sent: Vec<Bytes> = (0..2000_usize).map(|i| Bytes::from(vec![u8::try_from(i % 251).unwrap(); i])).collect();
        let held: Vec<BodyPart> = sent.iter().map(|data| compactor.compact(&BodyPart::Data(data.clone()))).collect();
        for (sent, held) in sent.into_iter().zip(held) {
            assert_eq!(held, BodyPart::Data(sent));
        }
    }

    #[test]
    fn merged_parts_cost_little_more_than_their_bytes() {
        let event = || Compactor::default().compact(&BodyPart::Data(Bytes::from_static(&[7; 50])));
        let mut block = event();
        for merged in 2..=300 {
            let cost = merge(&mut block, &event());
            assert_eq!(cost, Some(50 * merged + OVERHEAD));
        }
        assert_eq!(block, BodyPart::Data(Bytes::from(vec![7; 50 * 300])));
        let long = BodyPart::Data(Bytes::from(vec![7; COMPACT_BELOW]));
        assert_eq!(merge(&mut block, &long), None, "it is shared, and not copied");
        assert_eq!(merge(&mut block, &BodyPart::Trailers(Arc::default())), None);
    }

    #[test]
    fn small_parts_cost_more_than_their_bytes() {
        assert_eq!(BodyPart::Data(Bytes::from_static(b"x")).cost(), 1 + OVERHEAD);
        assert!(BodyPart::Trailers(Arc::default()).cost() >= OVERHEAD);
    }
}
