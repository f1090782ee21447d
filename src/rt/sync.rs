//! Shared state of threads. In one place, so that a model checker can substitute its own types (see `loom/`).

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

/// Locks, ignoring poison: guarded data is never left half-changed, so a panic elsewhere does not matter.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A small, dense number for this thread: threads that count in slots of their own number do not contend, however their
/// services are cloned.
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
