//! The part of a body read so far.

use bytes::Bytes;
use tower_buttress::Reservation;

/// The bytes, with their share of the memory limit. A body that arrives in one frame is not copied.
#[derive(Debug)]
pub(super) struct Gathered {
    first: Bytes,
    rest: Vec<u8>,
    reservation: Reservation,
}

// === impl Gathered ===

impl Gathered {
    pub(super) fn new(reservation: Reservation) -> Self {
        Self { first: Bytes::new(), rest: Vec::new(), reservation }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        if self.rest.is_empty() { &self.first } else { &self.rest }
    }

    /// Appends `data`, after which at most `left` bytes are expected. Returns `false` if memory is full; then the
    /// caller must stop reading.
    pub(super) fn add(&mut self, data: Bytes, left: usize) -> bool {
        if self.as_slice().is_empty() {
            self.first = data;
            return self.reservation.grow(self.first.len());
        }
        // The bytes in `first` are counted already.
        let held = if self.rest.is_empty() { self.first.len() } else { self.rest.capacity() };
        let needed = self.as_slice().len().saturating_add(data.len());
        let mut has_room = true;
        if needed > self.rest.capacity() {
            // Counts what is allocated, at most twice what has arrived.
            let room = needed.saturating_mul(2).min(needed.saturating_add(left));
            has_room = self.reservation.grow(room.saturating_sub(held));
            let room = if has_room { room } else { needed };
            self.rest.reserve_exact(room - self.rest.len());
        }
        if !self.first.is_empty() {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&data);
        has_room
    }

    /// The whole body, counted until its last copy is dropped.
    pub(super) fn into_bytes(self) -> Bytes {
        let data = if self.rest.is_empty() { self.first } else { Bytes::from(self.rest) };
        self.reservation.keep(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_buttress::Memory;

    const KIB: usize = 1024;

    fn block(byte: u8) -> Bytes {
        Bytes::from(vec![byte; 16 * KIB])
    }

    #[test]
    fn all_that_is_allocated_is_counted() {
        let memory = Memory::new(64 * KIB * KIB);
        let mut gathered = Gathered::new(memory.reserve(None));
        let mut allocated = 0;
        for byte in 0..60 {
            let before = gathered.rest.capacity();
            assert!(gathered.add(block(byte), 2 * KIB * KIB));
            allocated += u32::from(gathered.rest.capacity() != before);
            assert!(memory.used() >= gathered.first.len() + gathered.rest.capacity(), "after {byte}");
            assert!(memory.used() <= 2 * gathered.as_slice().len(), "after {byte}");
        }
        assert!(allocated <= 6, "it was moved {allocated} times");
        let data = gathered.into_bytes();
        assert_eq!(data.len(), 60 * 16 * KIB);
        assert!(data.chunks(16 * KIB).zip(0..).all(|(chunk, byte)| chunk.iter().all(|&read| read == byte)));
        assert!(memory.used() >= data.len());
        drop(data);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_body_that_comes_at_once_is_not_copied() {
        let memory = Memory::new(KIB * KIB);
        let (data, mut gathered) = (Bytes::from_static(b"{}"), Gathered::new(memory.reserve(None)));
        assert!(gathered.add(data.clone(), 2));
        assert_eq!(gathered.into_bytes().as_ptr(), data.as_ptr());
    }

    #[test]
    fn nothing_is_lost_where_there_is_no_memory() {
        let memory = Memory::new(40 * KIB);
        let mut gathered = Gathered::new(memory.reserve(None));
        assert!(gathered.add(block(1), KIB * KIB));
        assert!(gathered.add(block(2), 0));
        assert!(!gathered.add(block(3), KIB * KIB));
        assert_eq!(gathered.into_bytes().len(), 3 * 16 * KIB);
        assert_eq!(memory.used(), 0);
    }
}
