//! How many calls may go on while nobody listens to them.

use std::collections::HashMap;
use std::hash::Hash;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of one tenant.
    pub(crate) per_tenant: u32,
    /// Of all tenants together.
    pub(crate) total: u32,
}

/// The calls that go on at the moment, by tenant.
#[derive(Debug)]
pub(crate) struct Unattended<T> {
    limits: Limits,
    total: u32,
    by_tenant: HashMap<T, u32>,
}

// === impl Unattended ===

impl<T: Eq + Hash + Copy> Unattended<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, total: 0, by_tenant: HashMap::new() }
    }

    /// Sets other limits. What goes on already goes on.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A call of this tenant is left by its last listener. Returns whether it may go on; then it must [leave](Self::leave).
    pub(crate) fn enter(&mut self, tenant: T) -> bool {
        let count = self.by_tenant.get(&tenant).copied().unwrap_or(0);
        let may = count < self.limits.per_tenant && self.total < self.limits.total;
        if may {
            self.by_tenant.insert(tenant, count + 1);
            self.total += 1;
        }
        may
    }

    /// It has a listener again, or is over.
    pub(crate) fn leave(&mut self, tenant: &T) {
        let Some(count) = self.by_tenant.get_mut(tenant) else { return };
        self.total = self.total.saturating_sub(1);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_tenant.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_has_a_share_and_all_have_a_limit() {
        let mut unattended = Unattended::new(Limits { per_tenant: 2, total: 3 });
        assert!(unattended.enter('a') && unattended.enter('a'));
        assert!(!unattended.enter('a'), "its share is spent");
        assert!(unattended.enter('b'));
        assert!(!unattended.enter('b'), "all are spent");
        unattended.leave(&'a');
        assert!(unattended.enter('b'));
        for tenant in ['a', 'b', 'b', 'c'] {
            unattended.leave(&tenant);
        }
        assert!(unattended.by_tenant.is_empty() && unattended.total == 0);
    }

    #[test]
    fn other_limits_hold_for_those_that_come() {
        let mut unattended = Unattended::new(Limits { per_tenant: 2, total: 2 });
        assert!(unattended.enter('a') && unattended.enter('a'));
        unattended.set_limits(Limits { per_tenant: 1, total: 3 });
        assert!(!unattended.enter('a') && unattended.enter('b'));
        unattended.leave(&'a');
        assert!(!unattended.enter('a'), "one goes on");
    }
}
