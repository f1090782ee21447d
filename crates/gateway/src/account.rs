//! Tells accounts apart where the gateway has no caller keys.

use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};
use tower_buttress::Tenant;
use tower_buttress::proto::credentials;

/// Appends the caller's credentials to `tenant`, so that no other header of the caller can change the account.
pub(crate) fn account(head: &Parts, mut tenant: Vec<u8>) -> Vec<u8> {
    let mut add = |part: &[u8]| {
        tenant.extend_from_slice(&part.len().to_be_bytes());
        tenant.extend_from_slice(part);
    };
    if let Some(tenant) = head.extensions.get::<Tenant>() {
        add(tenant.as_str().as_bytes());
    }
    for name in credentials::HEADERS.iter().chain([&COOKIE]) {
        for value in head.headers.get_all(name) {
            add(value.as_bytes());
        }
    }
    tenant
}

/// Returns the account that a proxy in front names in this header. A request without the header has no account.
pub(crate) fn named_by(header: HeaderName) -> impl Fn(&Parts) -> Option<Vec<u8>> + Send + Sync + 'static {
    move |head| named(&head.headers, &header).map(|named| account(head, named))
}

/// All lines of the header, in order: the caller may have written one before the proxy added its own.
fn named(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines = || headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let is_named = lines().any(|line| !line.is_empty());
    // A header value cannot contain a line break.
    is_named.then(|| lines().collect::<Vec<_>>().join(&b'\n'))
}

/// The conversation that one header names, within the account that another one names.
pub(crate) fn conversation(head: &Parts, conversation: &HeaderName, caller: &HeaderName) -> Option<String> {
    let conversation = head.headers.get(conversation).filter(|name| !name.is_empty())?;
    let caller = named(&head.headers, caller)?;
    // `escape_ascii` leaves no line break.
    Some(format!("{}\n{}", caller.escape_ascii(), conversation.as_bytes().escape_ascii()))
}

/// The holder of a call's share of memory: its tenant, or else its credentials. Calls with neither share one.
pub(crate) fn holder(head: &Parts) -> Tenant {
    if let Some(tenant) = head.extensions.get::<Tenant>() {
        return tenant.clone();
    }
    let digest = Sha256::digest(account(head, Vec::new()));
    let (half, _) = digest.split_at(16);
    Tenant::new(format!("credentials {:032x}", half.iter().fold(0_u128, |name, &byte| name << 8 | u128::from(byte))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_credential_has_a_share_of_its_own_and_calls_without_one_have_one_together() {
        let of = |name: &str, value: &str| {
            let (parts, ()) = http::Request::get("/").header(name, value).body(()).unwrap().into_parts();
            holder(&parts)
        };
        let alice = of("authorization", "Bearer alice");
        assert_eq!(alice, of("authorization", "Bearer alice"));
        assert!(alice != of("authorization", "Bearer bob") && alice != of("x-api-key", "Bearer alice-2"));
        assert!(!format!("{alice:?}").contains("Bearer"));
        assert_eq!(of("accept", "a"), of("accept", "b"));
    }
}
