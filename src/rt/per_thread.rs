//! A shared value that calls hold on to, with a count of its holders for each thread.
//!
//! # Why not an `Arc`?
//!
//! Its count is one word that all threads write to: cloned once per call, it costs two threads more than they gain by being two.
//! Here each thread has a count of its own, on a cache line of its own.

use std::fmt;
use std::iter;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;

use super::sync::thread_number;

/// What a layer and its services have: cloning it counts for all threads together.
pub(crate) struct PerThread<T: ?Sized>(Arc<[ThreadArc<T>]>);

/// What a call has.
pub(crate) struct ThreadArc<T: ?Sized>(Arc<Line<T>>);

/// Two cache lines, since processors fetch them in pairs.
#[repr(align(128))]
struct Line<T: ?Sized>(Arc<T>);

/// With more threads than this some share a count.
const MAX_LINES: usize = 64;

// === impl PerThread ===

impl<T: ?Sized> PerThread<T> {
    pub(crate) fn new(value: Arc<T>) -> Self {
        Self(iter::repeat_n(value, lines()).map(|value| ThreadArc(Arc::new(Line(value)))).collect())
    }

    /// The value, for a call that this thread makes.
    #[inline]
    pub(crate) fn hold(&self) -> ThreadArc<T> {
        self.line().clone()
    }

    #[inline]
    fn line(&self) -> &ThreadArc<T> {
        // Made with at least one.
        &self.0[thread_number() % self.0.len()]
    }
}

impl<T: ?Sized> Clone for PerThread<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Deref for PerThread<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.line()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for PerThread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// How many threads run at once. Asking the system reads files.
fn lines() -> usize {
    static LINES: OnceLock<usize> = OnceLock::new();
    *LINES.get_or_init(|| available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_LINES))
}

// === impl ThreadArc ===

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
        &self.0.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ThreadArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_value_which_lives_as_long_as_it_is_held() {
        let value = Arc::new(5);
        let shared = PerThread::new(value.clone());
        let held = std::thread::scope(|scope| scope.spawn(|| shared.hold()).join().unwrap());
        assert_eq!((*held, *shared, *shared.clone()), (5, 5, 5));
        drop(shared);
        assert!(Arc::strong_count(&value) > 1);
        drop(held);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
