//! Whose memory the bodies of a call take.

use http::{Extensions, HeaderMap};

use crate::call::{Memory, Reservation, Tenant};
use crate::proto::credentials;

/// Returns an empty reservation in the share of this request's tenant or, without one, of its credentials.
pub(crate) fn share_of(memory: &Memory, headers: &HeaderMap, extensions: &Extensions) -> Reservation {
    match extensions.get::<Tenant>() {
        Some(tenant) => memory.reserve(Some(tenant)),
        None => memory.reserve_account(|hasher| credentials::hash_account(headers, hasher)),
    }
}
