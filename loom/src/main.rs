//! The concurrent parts of `tower-buttress`, run by a model checker in every order that threads can meet.
//!
//! # Why a package of its own?
//!
//! `--cfg loom` changes tokio too, and hyper and axum do not build then. Here are the very files of the crate, with
//! loom's locks and atomics in the place of the standard ones, and nothing else.
//!
//! ```text
//! cargo run --release -p tower-buttress-loom
//! ```

#![allow(dead_code, clippy::unwrap_used, clippy::print_stderr)]

/// What is checked, by name. The first check that fails panics, and ends the program.
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

        /// Each test says which thread counts where.
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

            /// Remembers the changes of state.
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
