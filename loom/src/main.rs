//! Runs the concurrent code of `tower-buttress` in a model checker, under every interleaving of threads.
//!
//! # Why a package of its own?
//!
//! `--cfg loom` also changes tokio, and hyper and axum do not build with it. This package compiles the crate's own
//! files with loom's locks and atomics instead of the standard ones.
//!
//! ```text
//! cargo run --release -p tower-buttress-loom
//! ```

#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

/// The checks, by name. The first failing check panics and ends the program.
type Checks = &'static [(&'static str, fn())];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for (name, check) in layers::circuit_breaker::checks::ALL {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part)) {
            check();
            eprintln!("{name}: holds");
        }
    }
}

#[path = "../../src/policy"]
mod policy {
    pub(crate) mod breaker;
    pub(crate) mod instant;
    pub(crate) mod window;

    pub(crate) mod verdict {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Health {
            Success,
            Failure,
            Throttled,
            Ignored,
        }
    }
}

#[path = "../../src/error"]
mod error {
    mod rounded;

    pub(crate) use self::rounded::Rounded;
}

mod rt {
    pub(crate) mod clock {
        pub(crate) fn now() -> std::time::Instant {
            std::time::Instant::now()
        }
    }

    pub(crate) mod sync {
        use std::cell::Cell;

        pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
        pub(crate) use loom::sync::{Mutex, MutexGuard};

        pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap()
        }

        loom::thread_local! {
            static NUMBER: Cell<usize> = Cell::new(0);
        }

        /// Each test chooses which thread uses which shard.
        pub(crate) fn set_thread_number(number: usize) {
            NUMBER.with(|cell| cell.set(number));
        }

        pub(crate) fn thread_number() -> usize {
            NUMBER.with(Cell::get)
        }
    }
}

#[path = "../../src/layers"]
mod layers {
    pub(crate) mod circuit_breaker {
        #[path = "../../../loom/src/circuit_breaker.rs"]
        pub(crate) mod checks;
        pub(crate) mod circuit;
        pub(crate) mod counters;

        pub(crate) mod notify {
            use std::sync::{Arc, Mutex};

            use crate::policy::breaker::BreakerEvent;
            use crate::policy::breaker::report::CircuitChange;

            /// Records the changes of state.
            #[derive(Debug, Default)]
            pub(crate) struct StateNotifier(pub(crate) Arc<Mutex<Vec<CircuitChange>>>);

            impl StateNotifier {
                pub(super) fn notify(&self, event: &BreakerEvent) {
                    if let BreakerEvent::Changed(change) = event {
                        self.0.lock().unwrap().push(*change);
                    }
                }
            }
        }
    }
}
