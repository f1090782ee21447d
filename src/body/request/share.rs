//! Whose memory the bodies of a call take.

use http::{Extensions, HeaderMap};

use crate::call::{Memory, Reservation, Tenant};
use crate::proto::credentials;

/// Returns an empty reservation in the share of this request's tenant or, without one, of the credentials with which it
/// came.
pub(crate) fn share_of(memory: &Memory, headers: &HeaderMap, extensions: &Extensions) -> Reservation {
    match extensions.get::<Tenant>() {
        Some(tenant) => memory.reserve(Some(tenant)),
        None => memory.reserve_account(credentials::account(headers, extensions)),
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_caller_has_one_share_before_and_after_its_credentials_are_removed() {
        const SHARE: usize = 256 * 1024;
        let memory = Memory::new(4 * SHARE);
        let head = |key: &str| Request::post("/").header("authorization", key).body(()).unwrap().into_parts().0;
        let share = |head: &http::request::Parts| share_of(&memory, &head.headers, &head.extensions);
        let (mut one, mut other) = (head("one"), head("other"));
        let mut outside = share(&one);
        assert!(outside.set(SHARE));
        credentials::withhold(&mut one);
        credentials::withhold(&mut one);
        credentials::withhold(&mut other);
        assert!(!share(&one).set(SHARE), "it is the same caller");
        assert!(share(&other).set(SHARE), "another has its own");
    }
}
