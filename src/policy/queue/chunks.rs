//! A list that grows without moving its items.
//!
//! # Why not a `Vec`?
//!
//! A `Vec` of ten thousand waiters that grows by doubling has room for up to as many again, and needs both the old and
//! the new memory while it moves.

/// Items by their index, at fixed addresses.
#[derive(Debug)]
pub(super) struct Chunks<T>(Vec<Vec<T>>);

const CHUNK: usize = 64;

// === impl Chunks ===

impl<T> Chunks<T> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let (chunk, within) = split(index);
        self.0.get(chunk)?.get(within)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (chunk, within) = split(index);
        self.0.get_mut(chunk)?.get_mut(within)
    }

    /// The items in their chunks.
    pub(super) fn chunks_mut(&mut self) -> impl Iterator<Item = &mut [T]> {
        self.0.iter_mut().map(Vec::as_mut_slice)
    }

    /// The number of the chunk of this index.
    pub(super) fn chunk_of(index: u32) -> usize {
        split(index).0
    }

    /// Returns its index.
    pub(super) fn push(&mut self, value: T) -> u32 {
        if self.0.last().is_none_or(|last| last.len() >= CHUNK) {
            // The first chunk grows as a `Vec` does: most lists are short.
            self.0.push(Vec::with_capacity(if self.0.is_empty() { 0 } else { CHUNK }));
        }
        let before = (self.0.len() - 1) * CHUNK;
        let Some(last) = self.0.last_mut() else { return u32::MAX };
        last.push(value);
        u32::try_from(before + last.len() - 1).unwrap_or(u32::MAX)
    }
}

fn split(index: u32) -> (usize, usize) {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    (index / CHUNK, index % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_index() {
        let mut list = Chunks::new();
        for number in 0..1000 {
            assert_eq!(list.push(number), number);
        }
        for number in 0..1000 {
            assert_eq!(list.get(number), Some(&number));
        }
        for (number, chunk) in list.chunks_mut().enumerate() {
            assert_eq!(chunk[0] as usize, number * CHUNK);
            assert_eq!(Chunks::<u32>::chunk_of(chunk[0]), number);
        }
        *list.get_mut(640).unwrap() += 1;
        assert_eq!(list.get(640), Some(&641));
        assert_eq!((list.get(1000), list.get(u32::MAX)), (None, None));
    }
}
