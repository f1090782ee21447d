//! The settings of a layer, shared by its services.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use super::per_thread::PerThread;

/// The settings of a layer. A change applies to services made from then on.
///
/// Per-thread counts are made for the first service, not for each: a reqwest middleware makes a service for each call.
pub(crate) struct LayerSettings<T> {
    value: T,
    shared: OnceLock<PerThread<T>>,
}

// === impl Settings ===

impl<T: Clone> LayerSettings<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { value, shared: OnceLock::new() }
    }

    /// Returns the settings for a new service.
    pub(crate) fn for_service(&self) -> PerThread<T> {
        self.shared.get_or_init(|| PerThread::new(Arc::new(self.value.clone()))).for_service()
    }
}

impl<T: Clone> Clone for LayerSettings<T> {
    fn clone(&self) -> Self {
        let shared = self.shared.get().map(PerThread::for_service);
        Self { value: self.value.clone(), shared: shared.map_or_else(OnceLock::new, OnceLock::from) }
    }
}

impl<T> Deref for LayerSettings<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for LayerSettings<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.shared.take();
        &mut self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for LayerSettings<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_share_what_the_layer_is_set_up_with() {
        let value = Arc::new(());
        let mut settings = LayerSettings::new(Some(value.clone()));
        let services: Vec<_> = (0..10).map(|_| settings.for_service()).collect();
        assert_eq!(Arc::strong_count(&value), 3);
        *settings = None;
        assert!(settings.for_service().is_none());
        assert!(services.iter().all(|service| service.is_some()));
    }
}
