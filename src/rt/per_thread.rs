//! Values shared by all threads without a commonly written word: a value with one reference count per thread, a value
//! that is mostly read, and a value that is summed on demand.
//!
//! # Why not an `Arc`, and a lock?
//!
//! An `Arc`'s count is one word that all threads write to, as is a lock's state: used once per call, it costs two threads
//! more than they gain by parallelism. Here each thread has a count, or a lock, on its own cache line.

use std::fmt;
use std::iter;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::thread::available_parallelism;

use super::sync::thread_number;

/// The value as a layer and its services hold it.
pub struct PerThread<T: ?Sized> {
    own: ThreadArc<T>,
    /// Keeps the lines of all threads. Clones have none, and find them while the original lives; after that, a thread
    /// without a line uses another's.
    _all: Option<Arc<[ThreadArc<T>]>>,
}

/// The same for a value in a per-thread table: without a line of its own.
pub(crate) struct ThreadArcs<T: ?Sized>(Arc<[ThreadArc<T>]>);

/// The value as a call holds it.
pub(crate) struct ThreadArc<T: ?Sized>(Arc<CacheLine<T>>);

/// Two cache lines, since processors fetch them in pairs.
#[repr(align(128))]
struct CacheLine<T: ?Sized> {
    value: Arc<T>,
    number: usize,
    /// The number of lines, a power of two, minus one.
    mask: usize,
    /// The lines of all threads, including this one.
    all: OnceLock<Arc<[Weak<CacheLine<T>>]>>,
}

/// One value per thread, so that no thread writes where another reads.
pub(crate) struct Striped<T>(Box<[Padded<T>]>);

/// A value that each thread reads through its own lock, and that is changed under all of them.
pub(crate) struct ReadMostly<T>(Striped<RwLock<T>>);

/// Two cache lines, too.
#[repr(align(128))]
struct Padded<T>(T);

/// Further threads share a count.
const MAX_LINES: usize = 64;
/// The same for copies per thread, which take more room.
const MAX_COPIES: usize = 16;

// === impl PerThread ===

impl<T: ?Sized> PerThread<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        let ThreadArcs(all) = ThreadArcs::new(value, MAX_LINES);
        let mask = all.len().saturating_sub(1);
        let known: Arc<[_]> = all.iter().map(|line| Arc::downgrade(&line.0)).collect();
        for line in all.iter() {
            line.0.all.get_or_init(|| known.clone());
        }
        // There is at least one.
        Self { own: all[thread_number() & mask].clone(), _all: Some(all) }
    }

    /// Returns the handle for a layer's service: its clones find the lines of all threads while it lives, even without
    /// the layer.
    pub(crate) fn for_service(&self) -> Self {
        Self { own: self.own.here(), _all: self._all.clone() }
    }

    /// Returns the value, for a call of this thread.
    #[inline]
    pub(crate) fn hold(&self) -> ThreadArc<T> {
        self.own.here()
    }
}

impl<T: ?Sized> Clone for PerThread<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self { own: self.own.here(), _all: None }
    }
}

impl<T: ?Sized> Deref for PerThread<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.own
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for PerThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The number of threads that run at once. Asking the system reads files.
fn lines() -> usize {
    static LINES: OnceLock<usize> = OnceLock::new();
    *LINES.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_LINES).next_power_of_two())
}

// === impl ThreadArcs ===

impl<T: ?Sized> ThreadArcs<T> {
    /// With a count per parallel thread, at most `most`, a power of two.
    pub(crate) fn new(value: Arc<T>, most: usize) -> Self {
        let mask = lines().min(most).saturating_sub(1);
        let line = move |number| CacheLine { value: value.clone(), number, mask, all: OnceLock::new() };
        Self((0..=mask).map(|number| ThreadArc(Arc::new(line(number)))).collect())
    }

    /// Returns the value, for a call of this thread.
    #[inline]
    pub(crate) fn hold(&self) -> ThreadArc<T> {
        self.0[thread_number() & self.0.len().saturating_sub(1)].clone()
    }

    /// Whether anything outside the tables holds it. It does not cover concurrent changes of the tables.
    pub(crate) fn is_held(&self) -> bool {
        let is_counted = |line: &ThreadArc<T>| Arc::strong_count(&line.0) > 1;
        self.0.iter().any(is_counted) || Arc::strong_count(self.0[0].value()) > self.0.len()
    }
}

impl<T: ?Sized> Clone for ThreadArcs<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Deref for ThreadArcs<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0[0]
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ThreadArcs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// === impl ThreadArc ===

impl<T: ?Sized> ThreadArc<T> {
    /// Returns the same value, counted for this thread.
    #[inline]
    fn here(&self) -> Self {
        let here = thread_number() & self.0.mask;
        if here == self.0.number { self.clone() } else { self.at(here) }
    }

    /// The value itself, without a count.
    pub(crate) fn value(&self) -> &Arc<T> {
        &self.0.value
    }

    #[inline(never)]
    fn at(&self, line: usize) -> Self {
        let found = self.0.all.get().and_then(|all| all.get(line)?.upgrade());
        found.map_or_else(|| self.clone(), Self)
    }
}

impl<T: ?Sized> Clone for ThreadArc<T> {
    #[inline]
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Deref for ThreadArc<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ThreadArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

// === impl Striped ===

impl<T> Striped<T> {
    /// One per parallel thread, at most `most`, a power of two: further threads share them.
    pub(crate) fn new(most: usize, make: impl FnMut() -> T) -> Self {
        Self(iter::repeat_with(make).map(Padded).take(lines().min(most).max(1)).collect())
    }

    /// This thread's value.
    #[inline]
    pub(crate) fn own(&self) -> &T {
        &self.0[thread_number() & self.0.len().saturating_sub(1)].0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|Padded(value)| value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Striped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

// === impl ReadMostly ===

impl<T> ReadMostly<T> {
    /// `make` makes one per thread: they must be equal, and share nothing that reading writes to.
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Self(Striped::new(MAX_COPIES, || RwLock::new(make())))
    }

    /// Reads this thread's copy. It does not change while the guard is held.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.own().read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes all threads' copies in the same way, while none reads. Returns the result of the last change.
    pub(crate) fn write<R>(&self, mut change: impl FnMut(&mut T) -> R) -> Option<R> {
        let mut all: Vec<_> = self.0.iter().map(|one| one.write().unwrap_or_else(PoisonError::into_inner)).collect();
        all.iter_mut().map(|one| change(one)).last()
    }
}

impl<T: Default> Default for ReadMostly<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadMostly<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    fn on_other_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    #[test]
    fn it_is_one_value_which_lives_as_long_as_it_is_held() {
        let value = Arc::new(5);
        let shared = PerThread::new(value.clone());
        let held = on_other_thread(|| shared.hold());
        assert_eq!((*held, *shared, *shared.clone()), (5, 5, 5));
        drop(shared);
        assert!(Arc::strong_count(&value) > 1);
        drop(held);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn a_clone_outlives_the_first_one() {
        let value = Arc::new(5);
        let shared = PerThread::new(value.clone());
        let clone = on_other_thread(|| shared.clone());
        drop(shared);
        let held: Vec<_> = (0..2 * lines()).map(|_| on_other_thread(|| (clone.hold(), clone.clone()))).collect();
        drop(clone);
        assert!(held.iter().all(|(held, clone)| (**held, **clone) == (5, 5)));
        drop(held);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    /// The line on which a thread counts.
    fn line(held: &ThreadArc<i32>) -> *const CacheLine<i32> {
        Arc::as_ptr(&held.0)
    }

    #[test]
    fn threads_count_on_lines_of_their_own() {
        if lines() == 1 {
            return;
        }
        let layer = PerThread::new(Arc::new(5));
        let service = layer.for_service();
        drop(layer);
        let lines: HashSet<_> = (0..2 * lines()).map(|_| on_other_thread(|| line(&service.hold()) as usize)).collect();
        assert_eq!(lines.len(), super::lines());
    }

    #[test]
    fn one_in_a_table_knows_whether_a_call_has_it() {
        let shared = ThreadArcs::new(Arc::new(5), 2);
        let copy = shared.clone();
        assert!(!shared.is_held(), "copies are in tables");
        let held = on_other_thread(|| copy.hold());
        assert_eq!((*held, shared.is_held()), (5, true));
        let clone = held.clone();
        drop(held);
        assert!(shared.is_held());
        drop(clone);
        assert!(!shared.is_held());
        let value = shared.hold().value().clone();
        assert!(shared.is_held());
        drop(value);
        assert!(!shared.is_held());
    }

    #[test]
    fn every_thread_reads_what_was_written() {
        let words = ReadMostly::new(Vec::new);
        for word in ["a", "b"] {
            words.write(|words| words.push(word));
        }
        assert_eq!(words.write(|words| words.len()), Some(2));
        for _ in 0..2 * lines() {
            on_other_thread(|| assert_eq!(*words.read(), ["a", "b"]));
        }
    }
}
