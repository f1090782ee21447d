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
