//! The tenants that the upstream has served.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tower_buttress::store::Fingerprint;

/// Tenants without authentication that had a 2xx in this process: no caller can invent them.
#[derive(Debug, Default)]
pub(super) struct ServedTenants(Mutex<Generations>);

/// When the recent ones are too many, they become the earlier ones, and the earlier ones are forgotten.
#[derive(Debug, Default)]
struct Generations {
    recent: HashSet<Fingerprint>,
    earlier: HashSet<Fingerprint>,
}

/// The most tenants of a generation.
const MOST: usize = 8192;

// === impl ServedTenants ===

impl ServedTenants {
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, tenant: Fingerprint) {
        let mut known = self.lock();
        if known.recent.len() >= MOST {
            known.earlier = std::mem::take(&mut known.recent);
        }
        known.recent.insert(tenant);
    }

    pub(super) fn contains(&self, tenant: &Fingerprint) -> bool {
        let known = self.lock();
        known.recent.contains(tenant) || known.earlier.contains(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_tenants_is_known() {
        let (tenants, print) = (ServedTenants::default(), |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            Fingerprint::from_bytes(bytes)
        });
        (0..3 * MOST).for_each(|n| tenants.add(print(n)));
        assert!((MOST..3 * MOST).all(|n| tenants.contains(&print(n))));
        assert!(!(0..MOST).any(|n| tenants.contains(&print(n))));
    }
}
