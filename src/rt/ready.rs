//! Readiness belongs to one clone.

use std::mem;

/// Takes the service that was polled ready, and leaves a fresh clone in its place.
///
/// A clone has a readiness of its own (tower's contract; a tonic `Channel` panics when it is called without), so the
/// future must own the very value whose `poll_ready` answered.
pub(crate) fn take_ready<S: Clone>(service: &mut S) -> S {
    let fresh = service.clone();
    mem::replace(service, fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which clone it is, and whether it was polled ready: readiness is not cloned.
    #[derive(Debug, Default)]
    struct Channel {
        ready: bool,
    }

    impl Clone for Channel {
        fn clone(&self) -> Self {
            Self::default()
        }
    }

    #[test]
    fn what_was_polled_ready_is_what_is_taken() {
        let mut service = Channel { ready: true };
        assert!(take_ready(&mut service).ready);
        assert!(!service.ready);
    }
}
