use std::hash::{BuildHasher, Hasher, RandomState};

use http::Request;

use crate::call::Tenant;
use crate::proto::credentials;

/// Distinguishes callers by the authenticated [`Tenant`], or else by a hash of their credentials. No caller can choose a
/// hash, since its key is random in each process.
#[derive(Clone, Debug)]
pub(crate) struct CallerHasher {
    hashes: RandomState,
    /// The caller without credentials.
    anonymous: u64,
}

// === impl CallerHasher ===

impl CallerHasher {
    /// Returns the caller of this request. All requests without a name and credentials are one caller.
    #[inline]
    pub(crate) fn of<B>(&self, request: &Request<B>) -> u64 {
        self.with_credentials(request, || self.credentials(request))
    }

    /// The same, if the hash of the credentials may be known.
    #[inline]
    pub(crate) fn with_credentials<B>(&self, request: &Request<B>, credentials: impl FnOnce() -> u64) -> u64 {
        Tenant::of(request).map_or_else(credentials, |name| self.hashes.hash_one(name))
    }

    /// Hashes a chosen name, or its absence.
    pub(crate) fn hash(&self, name: Option<&str>) -> u64 {
        self.hashes.hash_one(name)
    }

    pub(crate) fn hasher(&self) -> impl Hasher {
        self.hashes.build_hasher()
    }

    /// Returns the account of this request's credentials.
    #[inline]
    pub(crate) fn credentials<B>(&self, request: &Request<B>) -> u64 {
        if request.headers().is_empty() {
            return self.anonymous;
        }
        let mut hasher = self.hashes.build_hasher();
        credentials::hash_account(request.headers(), &mut hasher);
        hasher.finish()
    }
}

impl Default for CallerHasher {
    fn default() -> Self {
        let hashes = RandomState::new();
        let anonymous = hashes.build_hasher().finish();
        Self { hashes, anonymous }
    }
}
