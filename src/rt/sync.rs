//! What threads share. Gathered here, so that a model checker can put its own in their place (see `loom/`).

use std::cell::Cell;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;

#[cfg(buttress_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(buttress_loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard};
#[cfg(not(buttress_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(not(buttress_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard};

/// Locks. What a lock guards here is never left half done: a panic elsewhere is no reason for another.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number for this thread, small and dense: threads that count in the place of their number do not disturb each
/// other, however the services they call are cloned.
#[inline]
pub(crate) fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    let number = NUMBER.get();
    if number != usize::MAX {
        return number;
    }
    let number = THREADS.fetch_add(1, Ordering::Relaxed);
    NUMBER.set(number);
    number
}
