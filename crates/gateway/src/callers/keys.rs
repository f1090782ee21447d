//! The keys of callers.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;

use http::Request;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tower_buttress::Tenant;

use super::copies;
use crate::headers::X_API_KEY;
use crate::whole::FileEnd;

/// Keys, each with its tenant.
///
/// Keeps only digests. A presented key is compared with every digest to the last byte, so that the time reveals
/// nothing about a key.
#[derive(Clone)]
pub(crate) struct Keys {
    keys: Vec<Key>,
    /// The end of the file that they were read from.
    end: FileEnd,
}

/// One key.
#[derive(Clone)]
pub(crate) struct Key {
    digest: [u8; 32],
    pub(crate) tenant: Tenant,
    /// Cancelled when the key is removed.
    pub(crate) removal: CancellationToken,
}

/// Limits a tenant's name, which appears in logs.
const LONGEST_NAME: usize = 64;

// === impl Keys ===

impl Keys {
    /// Takes the key from `Authorization` or `x-api-key`. Removes it from everywhere in the request's head, so that no
    /// upstream sees it.
    pub(crate) fn take<B>(&self, request: &mut Request<B>) -> Option<Key> {
        let headers = request.headers();
        let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(|value| bearer(value.as_bytes()));
        let alone = headers.get_all(X_API_KEY).iter().map(|value| value.as_bytes().trim_ascii());
        let known = bearers.chain(alone).filter_map(|presented| Some((self.find(presented)?, presented.to_vec())));
        let known: Vec<_> = known.collect();
        for (_, presented) in &known {
            copies::remove(request, presented);
        }
        known.into_iter().next().map(|(key, _)| key.clone())
    }

    /// Takes over the removal tokens of `old` for keys that both have.
    pub(crate) fn succeed(&mut self, old: &Self) {
        for key in &mut self.keys {
            if let Some(same) = old.keys.iter().find(|old| old.is(key)) {
                key.removal = same.removal.clone();
            }
        }
    }

    /// Checks that the file was not truncated since `before`.
    pub(crate) fn check_follows(&self, before: &Self) -> Result<(), &'static str> {
        self.end.check(before.end)
    }

    /// Ends the waiting calls of keys that are not in `new`.
    pub(crate) fn remove_all_but(&self, new: &Self) {
        let removed = self.keys.iter().filter(|key| !new.keys.iter().any(|new| new.is(key)));
        removed.for_each(|key| key.removal.cancel());
    }

    fn find(&self, presented: &[u8]) -> Option<&Key> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        self.keys.iter().fold(None, |found, key| {
            let difference = key.digest.iter().zip(&digest).fold(0, |all, (a, b)| all | (a ^ b));
            if black_box(difference) == 0 { Some(key) } else { found }
        })
    }
}

// === impl Key ===

impl Key {
    fn is(&self, other: &Self) -> bool {
        self.digest == other.digest && self.tenant == other.tenant
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// Whether a tenant may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(is_name)
}

/// What [`is_name`] asks of a name.
pub(crate) fn name_rule() -> String {
    format!("a name has 1 to {LONGEST_NAME} letters, digits, dots, dashes or underscores")
}

/// The token after `Bearer`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.trim_ascii().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// One `name:key` per line. Ignores empty lines and lines that begin with `#`.
impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keys = Vec::<Key>::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Never the line itself: it holds a key.
            let (name, key) = line.split_once(':').ok_or_else(|| format!("line {number} is not name:key"))?;
            let (name, key) = (name.trim(), key.trim());
            if !is_name(name) {
                return Err(format!("line {number}: {}", name_rule()));
            }
            if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
                return Err(format!("line {number}: a key has at least one character and no spaces"));
            }
            let digest = Sha256::digest(key).into();
            if keys.iter().any(|key| key.digest == digest) {
                return Err(format!("line {number} has the key of another line"));
            }
            keys.push(Key { digest, tenant: Tenant::new(name), removal: CancellationToken::new() });
        }
        if keys.is_empty() {
            Err("there is no key in it".to_owned())
        } else {
            Ok(Self { keys, end: FileEnd::of(text) })
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.tenant.as_str())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(keys: &str, headers: &[(&'static str, &str)]) -> (Option<String>, Vec<String>) {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let key = keys.parse::<Keys>().unwrap().take(&mut request);
        (key.map(|key| key.tenant.to_string()), request.headers().keys().map(ToString::to_string).collect())
    }

    #[test]
    fn a_key_names_its_tenant_and_is_taken_off() {
        let keys = "# who\nacme:k1\n\n acme : k2 \nother:with:colon\n";
        assert_eq!(take(keys, &[("authorization", "Bearer k1")]), (Some("acme".to_owned()), vec![]));
        assert_eq!(take(keys, &[("authorization", "bearer  k2 ")]), (Some("acme".to_owned()), vec![]));
        assert_eq!(take(keys, &[("x-api-key", "with:colon")]), (Some("other".to_owned()), vec![]));
        // One is for the gateway, the other for the upstream.
        let both = take(keys, &[("authorization", "Bearer sk-upstream"), ("x-api-key", "k1")]);
        assert_eq!(both, (Some("acme".to_owned()), vec!["authorization".to_owned()]));
        // Both are for the gateway.
        let both = take(keys, &[("authorization", "Bearer k1"), ("x-api-key", "with:colon")]);
        assert_eq!(both, (Some("acme".to_owned()), vec![]));
    }

    #[test]
    fn what_is_no_key_has_no_owner() {
        for (name, value) in [
            ("authorization", "Bearer k"),
            ("authorization", "Bearer k11"),
            ("authorization", "k1"),
            ("authorization", "Basic k1"),
            ("authorization", "Bearer "),
            ("authorization", ""),
            ("x-api-key", "Bearer k1"),
            ("x-api-key", ""),
            ("api-key", "k1"),
        ] {
            assert_eq!(take("acme:k1", &[(name, value)]), (None, vec![name.to_owned()]), "{name}: {value}");
        }
        assert_eq!(take("acme:k1", &[]).0, None);
    }

    #[test]
    fn what_cannot_be_read_is_one_line_that_shows_no_key() {
        for (text, wrong) in [
            ("", "there is no key in it"),
            ("a:k\nsecret", "line 2 is not name:key"),
            ("a b:secret", "line 1: a name has"),
            (":secret", "line 1: a name has"),
            ("a:", "line 1: a key has"),
            ("a:secret key", "line 1: a key has"),
            ("a:secret\nb:secret", "line 2 has the key of another line"),
        ] {
            let error = text.parse::<Keys>().unwrap_err();
            assert!(error.starts_with(wrong) && !error.contains("secret") && !error.contains('\n'), "{error}");
        }
        assert_eq!(format!("{:?}", "a:secret".parse::<Keys>().unwrap()), r#"["a"]"#);
    }

    #[test]
    fn a_key_is_removed_where_its_line_or_its_name_is() {
        let read = |text: &str| text.parse::<Keys>().unwrap();
        let old = read("a:k1\nb:k2\nc:k3\n");
        let mut new = read("# another order\nc:k3\nz:k1\nd:k4\n");
        new.succeed(&old);
        old.remove_all_but(&new);
        let removed = |keys: &Keys| keys.keys.iter().map(|key| key.removal.is_cancelled()).collect::<Vec<_>>();
        assert_eq!((removed(&old), removed(&new)), (vec![true, true, false], vec![false; 3]));
        // Callers that were admitted before hold the token of the key that stayed.
        new.remove_all_but(&read("d:k4\n"));
        assert_eq!(removed(&old), [true; 3]);
    }
}
