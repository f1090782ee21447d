//! The authenticated caller of a request.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::{Extensions, Request};

/// Marks a request, in its extensions, as authenticated by this application, or by a gateway of the same operator.
///
/// Set it only after a key or a session was checked. [`FallbackLayer`](crate::FallbackLayer) then also asks a backup that
/// has the operator's credential after failures that any stranger could provoke: a request that is too large, and
/// refusals of this crate's layers.
///
/// ```
/// use http::Request;
/// use tower_buttress::Authenticated;
///
/// let request = Request::builder().extension(Authenticated).body(()).unwrap();
/// assert!(Authenticated::is_set(&request));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Authenticated;

/// The tenant on whose account a request is made. In the request's extensions.
///
/// Set it where the caller is authenticated; never copy it from a header that any caller can write. Layers that share
/// data between calls separate tenants by it; without it, they use a hash of the request's credentials.
///
/// ```
/// use http::Request;
/// use tower_buttress::Tenant;
///
/// let request = Request::builder().extension(Tenant::new("acme")).body(()).unwrap();
/// assert_eq!(Tenant::of(&request), Some("acme"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tenant(Arc<str>);

/// A short hash of an authenticated tenant's name, by which stored data is removed. Data of two tenants with the same
/// hash is only removed together; it is never shared.
///
/// It is the same in every process and every version of this crate.
///
/// ```
/// use tower_buttress::Tenant;
/// use tower_buttress::store::TenantHash;
///
/// assert_eq!(TenantHash::of(&Tenant::new("acme")).get(), 0x45fd_71af);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantHash(NonZeroU32);

// === impl Authenticated ===

impl Authenticated {
    /// Returns whether the caller of this request was authenticated.
    #[must_use]
    pub fn is_set<B>(request: &Request<B>) -> bool {
        Self::is_in(request.extensions())
    }

    pub(crate) fn is_in(extensions: &Extensions) -> bool {
        extensions.get::<Self>().is_some()
    }
}

// === impl TenantHash ===

impl TenantHash {
    /// Returns the hash of this tenant's name.
    #[must_use]
    pub fn of(tenant: &Tenant) -> Self {
        // FNV-1a.
        let hash =
            tenant.0.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self(NonZeroU32::new(hash).unwrap_or(NonZeroU32::MAX))
    }

    /// The hash as a number, never 0.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    pub(crate) fn in_extensions(extensions: &Extensions) -> Option<Self> {
        extensions.get().map(Self::of)
    }
}

// === impl Tenant ===

impl Tenant {
    /// Returns the tenant with this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Returns the name of this request's tenant, if known.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Option<&str> {
        request.extensions().get().map(Self::as_str)
    }

    /// The tenant's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
