//! A service with a layer around it.

/// The inner service of a layer, and what the layer needs for its calls. Each layer implements `Service` for its own `C`.
#[derive(Clone, Debug)]
pub struct Layered<S, C> {
    pub(crate) inner: S,
    pub(crate) config: C,
}

// === impl Layered ===

impl<S, C> Layered<S, C> {
    pub(crate) const fn new(inner: S, config: C) -> Self {
        Self { inner, config }
    }

    /// Returns the service inside.
    #[must_use]
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the service inside, to be changed.
    #[must_use]
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the service inside, without this layer.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.inner
    }
}
