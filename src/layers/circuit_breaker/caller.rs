//! The caller that a call counts for.

use http::Request;

use crate::call::Tenant;
use crate::policy::breaker::Caller;

/// Returns the caller of this request.
#[inline]
pub(super) fn of<B>(request: &Request<B>) -> Caller {
    Tenant::of(request).map_or(Caller::Anonymous, |tenant| Caller::Tenant(fingerprint(tenant.as_bytes())))
}

/// Distinguishes callers at the cost of a few multiplications. A caller that finds a collision counts as the other
/// caller, and gains nothing.
fn fingerprint(bytes: &[u8]) -> u64 {
    // The odd fraction of the golden ratio, as Fibonacci hashing takes it.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR).rotate_left(29)
    };
    bytes.chunks(8).fold(FACTOR ^ bytes.len() as u64, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_differ_by_tenant() {
        let of_tenant = |name: &'static str| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Tenant::new(name));
            of(&request)
        };
        assert_eq!(of_tenant("acme"), of_tenant("acme"));
        assert_ne!(of_tenant("acme"), of_tenant("acne"));
        assert_ne!(of_tenant("acme"), of(&Request::new(())));
    }
}
