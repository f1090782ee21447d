/// A list with reusable places. The first place needs no allocation: most calls have one reader.
#[derive(Debug)]
// The place of most readers stands first.
#[repr(C)]
pub(super) struct Slab<T> {
    first: Option<T>,
    rest: Vec<Option<T>>,
    vacant: Vec<usize>,
}

// === impl Slab ===

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { first: None, rest: Vec::new(), vacant: Vec::new() }
    }

    /// Stores `item`, and returns its place.
    pub(super) fn add(&mut self, item: T) -> usize {
        if self.first.is_none() {
            self.first = Some(item);
            return 0;
        }
        if let Some(place) = self.vacant.pop() {
            if let Some(vacant) = self.rest.get_mut(place) {
                *vacant = Some(item);
                return place + 1;
            }
        }
        self.rest.push(Some(item));
        self.rest.len()
    }

    pub(super) fn remove(&mut self, place: usize) -> Option<T> {
        let Some(place) = place.checked_sub(1) else { return self.first.take() };
        let removed = self.rest.get_mut(place).and_then(Option::take);
        if removed.is_some() {
            self.vacant.push(place);
        }
        removed
    }

    pub(super) fn get(&self, place: usize) -> Option<&T> {
        match place.checked_sub(1) {
            None => self.first.as_ref(),
            Some(place) => self.rest.get(place).and_then(Option::as_ref),
        }
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        match place.checked_sub(1) {
            None => self.first.as_mut(),
            Some(place) => self.rest.get_mut(place).and_then(Option::as_mut),
        }
    }

    /// Returns the items from place `from` on, each with its place.
    pub(super) fn iter_mut(&mut self, from: usize) -> impl Iterator<Item = (usize, &mut T)> {
        let first = self.first.iter_mut().filter(move |_| from == 0).map(|item| (0, item));
        let rest = self.rest.iter_mut().enumerate().skip(from.saturating_sub(1));
        first.chain(rest.filter_map(|(place, item)| item.as_mut().map(|item| (place + 1, item))))
    }
}
