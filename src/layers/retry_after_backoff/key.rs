use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderValue;

/// Makes idempotency keys: no two alike, on whichever machine.
///
/// Two requests with one key are one request to the upstream, so that a seed of time and thread, as generators have it,
/// will not do. The standard library's hasher is a keyed one (`SipHash`), with 128 bits from the operating system:
/// counting through it gives numbers that only this process can give.
#[derive(Clone, Debug)]
pub(super) struct Keys(Arc<(RandomState, AtomicU64)>);

// === impl Keys ===

impl Keys {
    /// A random UUID (RFC 9562 5.4), which is what upstreams expect of a key.
    pub(super) fn next(&self) -> Option<HeaderValue> {
        let (hasher, count) = &*self.0;
        let count = count.fetch_add(1, Relaxed);
        let (high, low) = (hasher.hash_one((count, 0)), hasher.hash_one((count, 1)));
        let (high, low) = (high & !0xf000 | 0x4000, low & !(0b11 << 62) | 0b10 << 62);
        let mut key = String::with_capacity(36);
        write!(
            key,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
        .ok()?;
        HeaderValue::try_from(key).ok()
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self(Arc::new((RandomState::new(), AtomicU64::new(0))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_random_uuids_and_no_two_alike() {
        let (one, other) = (Keys::default(), Keys::default());
        let keys: HashSet<String> = (0..500)
            .flat_map(|_| [one.next(), one.clone().next(), other.next()])
            .map(|key| key.unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(keys.len(), 1_500);
        for key in keys {
            assert_eq!(key.len(), 36);
            let dashes: Vec<usize> = key.match_indices('-').map(|(at, _)| at).collect();
            assert_eq!(dashes, [8, 13, 18, 23]);
            assert_eq!(&key[14..15], "4");
            assert!("89ab".contains(&key[19..20]), "{key}");
        }
    }
}
