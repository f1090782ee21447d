//! Limits how many calls continue without a listener.

use std::collections::HashMap;
use std::hash::Hash;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnattendedLimits {
    /// Per tenant.
    pub(crate) per_tenant: u32,
    /// In total.
    pub(crate) total: u32,
}

/// The calls that continue without a listener, by tenant.
#[derive(Debug)]
pub(crate) struct Unattended<T> {
    total: u32,
    by_tenant: HashMap<T, u32>,
}

// === impl Unattended ===

impl<T: Eq + Hash + Copy> Unattended<T> {
    /// The last listener of a tenant's call leaves. Returns whether the call may continue; then it must
    /// [leave](Self::leave). New limits do not end calls that already continue.
    pub(crate) fn enter(&mut self, tenant: T, limits: UnattendedLimits) -> bool {
        let count = self.by_tenant.get(&tenant).copied().unwrap_or(0);
        let may = count < limits.per_tenant && self.total < limits.total;
        if may {
            self.by_tenant.insert(tenant, count + 1);
            self.total += 1;
        }
        may
    }

    /// Moves a call to another tenant, whatever the limits.
    pub(crate) fn move_to(&mut self, from: &T, to: T) {
        self.leave(from);
        *self.by_tenant.entry(to).or_default() += 1;
        self.total += 1;
    }

    /// The call has a listener again, or has ended.
    pub(crate) fn leave(&mut self, tenant: &T) {
        let Some(count) = self.by_tenant.get_mut(tenant) else { return };
        self.total = self.total.saturating_sub(1);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.by_tenant.remove(tenant);
        }
    }
}

impl<T> Default for Unattended<T> {
    fn default() -> Self {
        Self { total: 0, by_tenant: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_has_a_share_and_all_have_a_limit() {
        let (mut unattended, limits) = (Unattended::default(), UnattendedLimits { per_tenant: 2, total: 3 });
        assert!(unattended.enter('a', limits) && unattended.enter('a', limits));
        assert!(!unattended.enter('a', limits), "its share is spent");
        assert!(unattended.enter('b', limits));
        assert!(!unattended.enter('b', limits), "all are spent");
        unattended.leave(&'a');
        assert!(unattended.enter('b', limits));
        for tenant in ['a', 'b', 'b', 'c'] {
            unattended.leave(&tenant);
        }
        assert!(unattended.by_tenant.is_empty() && unattended.total == 0);
    }

    #[test]
    fn a_call_that_moves_gives_its_place_to_others() {
        let (mut unattended, limits) = (Unattended::default(), UnattendedLimits { per_tenant: 1, total: 3 });
        assert!(unattended.enter('a', limits) && unattended.enter('b', limits));
        unattended.move_to(&'a', 'b');
        assert!(!unattended.enter('b', limits) && unattended.enter('a', limits));
        assert!(!unattended.enter('c', limits), "all are spent");
        ['a', 'b', 'b'].iter().for_each(|tenant| unattended.leave(tenant));
        assert!(unattended.by_tenant.is_empty() && unattended.total == 0);
    }

    #[test]
    fn other_limits_hold_for_those_that_come() {
        let (mut unattended, before) = (Unattended::default(), UnattendedLimits { per_tenant: 2, total: 2 });
        assert!(unattended.enter('a', before) && unattended.enter('a', before));
        let limits = UnattendedLimits { per_tenant: 1, total: 3 };
        assert!(!unattended.enter('a', limits) && unattended.enter('b', limits));
        unattended.leave(&'a');
        assert!(!unattended.enter('a', limits), "one goes on");
    }
}
