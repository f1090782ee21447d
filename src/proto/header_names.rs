//! Which headers a message may have: one pass over them shows that most of the names looked for are absent.

use http::{HeaderMap, HeaderName};

/// The names in a header map, each as one of 64 bits. Several names have the same bit: a name whose bit is missing is
/// absent, any other must be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderNames(u64);

// === impl HeaderNames ===

impl HeaderNames {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |names, name| names | bit(name)))
    }

    #[inline]
    pub(crate) fn may_have(self, name: &HeaderName) -> bool {
        self.0 != 0 && self.0 & bit(name) != 0
    }
}

/// Distinct for most of the names that clients send, or that identify a request.
#[inline]
fn bit(name: &HeaderName) -> u64 {
    let name = name.as_str().as_bytes();
    let end = |byte: Option<&u8>| byte.copied().map_or(0, usize::from);
    1 << ((name.len() + 3 * end(name.first()) + 5 * end(name.last())) % 64)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{ACCEPT, CONTENT_TYPE, HOST};

    use super::*;

    #[test]
    fn a_name_that_is_there_is_never_missed() {
        let names: Vec<HeaderName> =
            ["host", "x-api-key", "accept", "a", "x-stainless-os"].map(|name| name.parse().unwrap()).to_vec();
        for count in 0..=names.len() {
            let headers = names[..count].iter().map(|name| (name.clone(), HeaderValue::from_static("v")));
            let present = HeaderNames::of(&headers.collect());
            assert!(names[..count].iter().all(|name| present.may_have(name)), "{count} names");
        }
    }

    #[test]
    fn most_absent_names_are_known_to_be() {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("h"))]);
        assert!(!HeaderNames::of(&headers).may_have(&CONTENT_TYPE));
        assert!(!HeaderNames::of(&HeaderMap::new()).may_have(&ACCEPT));
    }
}
