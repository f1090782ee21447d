//! Forgets stored data of callers, on request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tower_buttress::{DedupLayer, LastGoodLayer, SupersedeLayer, Tenant};

use super::callers;

/// The layers that store data of callers.
#[derive(Clone, Default)]
pub(crate) struct ForgetfulLayers(Arc<Mutex<Vec<ForgetfulLayer>>>);

struct ForgetfulLayer {
    /// The name in the answer of `/-/forget`.
    name: &'static str,
    forget: Box<Forget>,
}

/// Returns the number of entries forgotten, of one tenant or of all.
type Forget = dyn Fn(Option<&Tenant>) -> usize + Send;

/// Whose data to forget.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    All,
    Of(Tenant),
}

// === impl ForgetfulLayers ===

impl ForgetfulLayers {
    pub(crate) fn answers(&self, layer: &DedupLayer) {
        let layer = layer.clone();
        self.add("answers", move |tenant| tenant.map_or_else(|| layer.forget_all(), |tenant| layer.forget(tenant)));
    }

    pub(crate) fn last_good(&self, layer: &LastGoodLayer) {
        let layer = layer.clone();
        self.add("last_good", move |tenant| tenant.map_or_else(|| layer.forget_all(), |tenant| layer.forget(tenant)));
    }

    pub(crate) fn conversations(&self, layer: &SupersedeLayer) {
        let layer = layer.clone();
        self.add("conversations", move |tenant| {
            tenant.map_or_else(|| layer.forget_all(), |tenant| layer.forget(tenant))
        });
    }

    /// Forgets the data of one tenant or of all. Returns the number of entries of each kind.
    pub(crate) fn forget(&self, tenant: Option<&Tenant>) -> BTreeMap<&'static str, usize> {
        let mut forgotten = BTreeMap::<_, usize>::new();
        for layer in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *forgotten.entry(layer.name).or_default() += (layer.forget)(tenant);
        }
        forgotten
    }

    fn add(&self, name: &'static str, forget: impl Fn(Option<&Tenant>) -> usize + Send + 'static) {
        let layer = ForgetfulLayer { name, forget: Box::new(forget) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(layer);
    }
}

impl fmt::Debug for ForgetfulLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForgetfulLayers").finish_non_exhaustive()
    }
}

// === impl Whose ===

impl Whose {
    pub(crate) fn tenant(&self) -> Option<&Tenant> {
        match self {
            Self::All => None,
            Self::Of(tenant) => Some(tenant),
        }
    }

    /// Parses `tenant=NAME`, or an absent query. `None`: unknown query, nothing may be forgotten.
    pub(crate) fn of(query: Option<&str>) -> Option<Self> {
        let Some(query) = query else { return Some(Self::All) };
        let name = query.strip_prefix("tenant=")?;
        callers::is_name(name).then(|| Self::Of(Tenant::new(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_is_not_known_forgets_nothing() {
        assert_eq!(Whose::of(None), Some(Whose::All));
        assert_eq!(Whose::of(Some("tenant=acme")), Some(Whose::Of(Tenant::new("acme"))));
        for query in ["", "tenant", "tenant=", "tenant=a&tenant=b", "tennant=acme", "tenant=a%62", "all"] {
            assert_eq!(Whose::of(Some(query)), None, "{query}");
        }
    }
}
