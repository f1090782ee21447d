//! Decides whether a backup may be asked after a failure of the primary.
//!
//! # Why not always?
//!
//! If the primary refused the caller's credential, limited it or found it without credit, and the backup uses another
//! credential, the backup would serve every caller on the operator's account: with an invented key, with none, or with a
//! spent one. A failure that a caller can provoke (a request that is too large, a refusal of this crate's layers) has the
//! same effect. Only the upstream's own failures cannot be provoked.

use super::verdict::Matter;

/// What is known of the two credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trust {
    /// The operator declared that the calls are the application's own.
    pub(crate) own: bool,
    /// The backup gets the caller's credential.
    pub(crate) forwarded: bool,
    /// The caller was authenticated.
    pub(crate) authenticated: bool,
}

// === impl Trust ===

impl Trust {
    pub(crate) const fn allows(self, matter: Matter) -> bool {
        let same_account = self.own || self.forwarded;
        match matter {
            Matter::Upstream => true,
            Matter::Request | Matter::Ours => same_account || self.authenticated,
            Matter::Credential => same_account,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: Trust = Trust { own: false, forwarded: false, authenticated: false };

    #[test]
    fn a_stranger_is_served_only_where_the_upstream_failed() {
        assert!(STRANGER.allows(Matter::Upstream));
        for matter in [Matter::Request, Matter::Credential, Matter::Ours] {
            assert!(!STRANGER.allows(matter), "{matter:?}");
        }
    }

    #[test]
    fn a_caller_that_was_authenticated_is_served_unless_its_credential_was_refused() {
        let authenticated = Trust { authenticated: true, ..STRANGER };
        for matter in [Matter::Upstream, Matter::Request, Matter::Ours] {
            assert!(authenticated.allows(matter), "{matter:?}");
        }
        assert!(!authenticated.allows(Matter::Credential));
    }

    #[test]
    fn with_one_credential_for_both_nothing_is_charity() {
        for trust in [Trust { own: true, ..STRANGER }, Trust { forwarded: true, ..STRANGER }] {
            for matter in [Matter::Upstream, Matter::Request, Matter::Credential, Matter::Ours] {
                assert!(trust.allows(matter), "{matter:?}");
            }
        }
    }
}
