use std::mem;
use std::task::{Context, Poll};

use super::{Permit, PermitEnd};

/// A permit that learns exactly once how its call ended. Empty afterwards, or without a permit.
#[derive(Debug)]
pub(super) struct HeldPermit<P: Permit>(Option<P>);

/// Reports a panic, unless it is forgotten.
pub(super) struct Unwinding<'a, P: Permit>(&'a mut HeldPermit<P>);

// === impl HeldPermit ===

impl<P: Permit> HeldPermit<P> {
    #[inline]
    pub(super) fn new(permit: Option<P>) -> Self {
        Self(permit)
    }

    #[inline]
    pub(super) fn get_mut(&mut self) -> Option<&mut P> {
        self.0.as_mut()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Moves the permit elsewhere.
    #[inline]
    pub(super) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    #[inline]
    pub(super) fn end(&mut self, end: PermitEnd<'_>) {
        if let Some(permit) = self.0.take() {
            permit.end(end);
        }
    }

    /// Polls the inner future or body. A panic counts as a failure.
    #[inline]
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let unwinding = Unwinding(self);
        let polled = match &mut unwinding.0.0 {
            Some(permit) => permit.poll(cx, poll),
            None => poll(cx),
        };
        mem::forget(unwinding);
        polled
    }

    /// The inner service is called. No closure: it would have to move the request.
    #[inline]
    pub(super) fn begin_call(&mut self) -> Unwinding<'_, P> {
        if let Some(permit) = &mut self.0 {
            permit.sent();
        }
        Unwinding(self)
    }
}

impl<P: Permit> Drop for HeldPermit<P> {
    #[inline]
    fn drop(&mut self) {
        self.end(PermitEnd::Dropped);
    }
}

// === impl Unwinding ===

impl<P: Permit> Unwinding<'_, P> {
    /// The call returned.
    #[inline]
    pub(super) fn returned(self) {
        mem::forget(self);
    }
}

impl<P: Permit> Drop for Unwinding<'_, P> {
    #[cold]
    fn drop(&mut self) {
        self.0.end(PermitEnd::Panicked);
    }
}
