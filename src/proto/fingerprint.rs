//! Digests that identify requests: equal for the same request, and for no other that a caller could construct.
//!
//! # Why length prefixes?
//!
//! Fields joined with a separator can be shifted: a tenant `a` asking for `b/c` and a tenant `a/b` asking for `c` would
//! share a digest, and so an answer. Here each field is preceded by its length, each list by its count, and each kind of
//! digest by its own tag, so that the hashed input is unambiguous.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use sha2::{Digest, Sha256};

/// A SHA-256 digest of a request or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

/// A map of fingerprints.
pub(crate) type FingerprintMap<V> = HashMap<Fingerprint, V, FingerprintHashes>;

/// The hashes of one map's fingerprints.
///
/// A fingerprint is a hash already, but a caller can search for requests whose fingerprints have bits in common. So eight
/// bytes of it are multiplied with a random number, and another one is added: Dietzfelbinger's strongly universal hash,
/// by which any two of them collide only by chance. It takes a tenth of the standard library's.
#[derive(Clone, Copy)]
pub(crate) struct FingerprintHashes {
    factor: u128,
    offset: u128,
}

pub(crate) struct FingerprintHasher {
    hashes: FingerprintHashes,
    hash: u64,
}

/// Builds a [`Fingerprint`], field by field, and finally a payload that may come in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Fingerprinter {
    hash: Sha256,
    /// The length of the payload so far.
    payload: u64,
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Restores a fingerprint from its bytes, for stores outside the process.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for stores outside the process.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Hash for Fingerprint {
    /// Eight bytes of a hash suffice. (Equality compares all.)
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(first) = self.0.first_chunk::<8>() {
            state.write_u64(u64::from_le_bytes(*first));
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

// === impl FingerprintHashes ===

impl Default for FingerprintHashes {
    fn default() -> Self {
        let random = RandomState::new();
        let wide = |part: u8| u128::from(random.hash_one((part, 0))) << 64 | u128::from(random.hash_one((part, 1)));
        Self { factor: wide(0), offset: wide(1) }
    }
}

impl BuildHasher for FingerprintHashes {
    type Hasher = FingerprintHasher;

    #[inline]
    fn build_hasher(&self) -> FingerprintHasher {
        FingerprintHasher { hashes: *self, hash: 0 }
    }
}

// === impl FingerprintHasher ===

impl Hasher for FingerprintHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        let FingerprintHashes { factor, offset } = self.hashes;
        self.hash = (factor.wrapping_mul(u128::from(number ^ self.hash)).wrapping_add(offset) >> 64) as u64;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.hash
    }
}

// === impl Fingerprinter ===

impl Fingerprinter {
    /// Digests of different purposes are never equal.
    pub(crate) fn new(purpose: &'static str) -> Self {
        let mut this = Self { hash: Sha256::new(), payload: 0 };
        this.field(purpose.as_bytes());
        this
    }

    /// Adds one field.
    pub(crate) fn field(&mut self, field: &[u8]) {
        self.hash.update((field.len() as u64).to_le_bytes());
        self.hash.update(field);
    }

    /// Adds the number of fields that follow.
    pub(crate) fn count(&mut self, fields: usize) {
        self.hash.update((fields as u64).to_le_bytes());
    }

    /// Adds any number of fields.
    pub(crate) fn list<'a>(&mut self, fields: impl Iterator<Item = &'a [u8]> + Clone) {
        self.count(fields.clone().count());
        fields.for_each(|field| self.field(field));
    }

    /// Adds the next piece of the payload. There is one payload; fields may come before it and after it, and its pieces
    /// may have any size.
    pub(crate) fn payload(&mut self, piece: &[u8]) {
        self.payload = self.payload.wrapping_add(piece.len() as u64);
        self.hash.update(piece);
    }

    /// `form` distinguishes payloads that were read in different ways.
    pub(crate) fn finish(mut self, form: u8) -> Fingerprint {
        // Known only now. The fields before it and this length, read from the end, determine the payload's place.
        self.hash.update(self.payload.to_le_bytes());
        self.hash.update([form]);
        Fingerprint(self.hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn of(purpose: &'static str, fields: &[&[u8]], lists: &[&[&[u8]]], payload: &[u8]) -> Fingerprint {
        let mut print = Fingerprinter::new(purpose);
        fields.iter().for_each(|field| print.field(field));
        lists.iter().for_each(|list| print.list(list.iter().copied()));
        print.payload(payload);
        print.finish(0)
    }

    #[test]
    fn the_same_bytes_cut_elsewhere_are_another_request() {
        type Way<'a> = (&'a [&'a [u8]], &'a [&'a [&'a [u8]]], &'a [u8]);
        let ways: [Way<'_>; 8] = [
            (&[b"ab", b"c"], &[], b""),
            (&[b"a", b"bc"], &[], b""),
            (&[b"abc", b""], &[], b""),
            (&[b"", b"abc"], &[], b""),
            (&[b"abc"], &[], b""),
            (&[b"ab"], &[&[b"c"]], b""),
            (&[b"ab"], &[&[], &[b"c"]], b""),
            (&[b"ab"], &[], b"c"),
        ];
        let mut seen = HashMap::new();
        for (index, (fields, lists, payload)) in ways.into_iter().enumerate() {
            assert_eq!(seen.insert(of("p", fields, lists, payload), index), None, "way {index}");
        }
    }

    #[test]
    fn purposes_and_forms_do_not_mix() {
        assert_ne!(of("p", &[], &[], b"x"), of("q", &[], &[], b"x"));
        let print = Fingerprinter::new("p");
        assert_ne!(print.clone().finish(0), print.finish(1));
    }

    #[test]
    fn it_is_sha_256_of_what_the_docs_say() {
        let mut hash = Sha256::new();
        hash.update([1, 0, 0, 0, 0, 0, 0, 0]);
        hash.update(b"p");
        hash.update([2, 0, 0, 0, 0, 0, 0, 0]);
        hash.update(b"ab");
        hash.update(b"xyz");
        hash.update([3, 0, 0, 0, 0, 0, 0, 0]);
        hash.update([0]);
        let expected: [u8; 32] = hash.finalize().into();
        assert_eq!(of("p", &[b"ab"], &[], b"xyz").as_bytes(), &expected);
    }

    #[test]
    fn fingerprints_with_bits_in_common_are_spread_over_a_map() {
        let print = |number: u64| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&(number << 32).to_le_bytes());
            Fingerprint::from_bytes(bytes)
        };
        let hashes = FingerprintHashes {
            factor: 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835,
            offset: 0x243f_6a88_85a3_08d3_1319_8a2e_0370_7344,
        };
        let places: HashSet<u64> = (0..1_000).map(|number| hashes.hash_one(print(number)) % 1_024).collect();
        assert!(places.len() > 500, "{} places for 1,000", places.len());
        let hash = || FingerprintHashes::default().hash_one(print(1));
        assert_ne!(hash(), hash(), "each map has its own");
    }

    proptest! {
        #[test]
        fn where_the_payload_is_cut_makes_no_difference(payload: Vec<u8>, cuts in prop::collection::vec(0_usize..64, 0..8)) {
            let mut print = Fingerprinter::new("p");
            let mut rest = &payload[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                print.payload(piece);
                rest = after;
            }
            print.payload(rest);
            prop_assert_eq!(print.finish(0), of("p", &[], &[], &payload));
        }

        /// Two different requests of any shape differ. The alphabet is small, so that requests are often nearly equal.
        #[test]
        fn different_requests_differ(
            a in (prop::collection::vec("[ab]{0,3}", 0..4), "[ab]{0,4}"),
            b in (prop::collection::vec("[ab]{0,3}", 0..4), "[ab]{0,4}"),
        ) {
            let print = |(list, payload): &(Vec<String>, String)| {
                let mut print = Fingerprinter::new("p");
                print.list(list.iter().map(String::as_bytes));
                print.payload(payload.as_bytes());
                print.finish(0)
            };
            prop_assert_eq!(a == b, print(&a) == print(&b));
        }
    }

    #[test]
    fn it_is_shown_in_hexadecimal_digits() {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (0xAB, 0x01);
        let fingerprint = Fingerprint::from_bytes(bytes);
        let expected = format!("ab{}01", "00".repeat(30));
        assert_eq!(
            (fingerprint.to_string(), format!("{fingerprint:?}")),
            (expected.clone(), format!("Fingerprint({expected})"))
        );
        assert_eq!(fingerprint.as_bytes(), &bytes);
        let hash = |fingerprint: Fingerprint| {
            let mut hasher = std::hash::DefaultHasher::new();
            fingerprint.hash(&mut hasher);
            hasher.finish()
        };
        assert_ne!(hash(fingerprint), hash(Fingerprint::from_bytes([0; 32])));
    }
}
