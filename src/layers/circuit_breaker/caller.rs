//! The caller that a call counts for.

use http::Request;

use crate::call::Tenant;
use crate::policy::breaker::Caller;
use crate::proto::credentials::HEADERS;

/// Returns the caller of this request: its tenant, or else the account of its credentials.
#[inline]
pub(super) fn of<B>(request: &Request<B>) -> Caller {
    if let Some(tenant) = Tenant::of(request) {
        return Caller::Tenant(fingerprint(tenant.as_bytes()));
    }
    let credential = HEADERS.iter().find_map(|name| request.headers().get(name));
    credential.map_or(Caller::Anonymous, |value| Caller::Tenant(fingerprint(value.as_bytes())))
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

    fn request(name: &str, value: &str) -> Request<()> {
        Request::builder().header(name, value).body(()).unwrap()
    }

    #[test]
    fn callers_differ_by_tenant_and_else_by_credential() {
        assert_eq!(of(&Request::new(())), Caller::Anonymous);
        assert_eq!(of(&request("x-team", "a")), Caller::Anonymous);
        let (alice, bob) = (request("authorization", "Bearer alice"), request("authorization", "Bearer bobby"));
        assert_eq!(of(&alice), of(&alice));
        assert_ne!(of(&alice), of(&bob));
        assert_ne!(of(&alice), Caller::Anonymous);
        assert_ne!(of(&request("x-api-key", "alice")), of(&request("x-api-key", "bobby")));

        // One tenant with many keys counts once.
        let of_tenant = |mut request: Request<()>| {
            request.extensions_mut().insert(Tenant::new("acme"));
            of(&request)
        };
        assert_eq!(of_tenant(alice), of_tenant(bob));
    }
}
