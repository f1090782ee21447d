//! Keys that no other process makes.

use http::HeaderValue;

use super::entropy::Entropy;

/// Makes unique idempotency keys.
///
/// The upstream takes two requests with one key for one request, so the keys of other processes must differ too: 64 bits
/// of seed are too few for many processes with many keys each. Two sequences with separate seeds have 128.
#[derive(Clone, Debug, Default)]
pub(crate) struct RandomKeys {
    high: Entropy,
    low: Entropy,
}

/// `8-4-4-4-12` hexadecimal digits.
const LENGTH: usize = 36;
const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The places of each byte's digits.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

// === impl RandomKeys ===

impl RandomKeys {
    /// Returns a random UUID (RFC 9562 5.4), the usual form of a key.
    pub(crate) fn next(&self) -> Option<HeaderValue> {
        let high = self.high.rng().u64(..) & !0xf000 | 0x4000;
        let low = self.low.rng().u64(..) & !(0b11 << 62) | 0b10 << 62;
        HeaderValue::from_bytes(&uuid(u128::from(high) << 64 | u128::from(low))).ok()
    }
}

fn uuid(bits: u128) -> [u8; LENGTH] {
    let mut text = [b'-'; LENGTH];
    for (byte, place) in bits.to_be_bytes().into_iter().zip(PLACES) {
        text[place] = DIGITS[usize::from(byte >> 4)];
        text[place + 1] = DIGITS[usize::from(byte & 0xf)];
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_uuid_has_its_digits_in_order() {
        let text = uuid(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(std::str::from_utf8(&text).unwrap(), "01234567-89ab-cdef-0011-223344556677");
    }

    #[test]
    fn keys_are_random_uuids_and_no_two_alike() {
        let (one, other) = (RandomKeys::default(), RandomKeys::default());
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
