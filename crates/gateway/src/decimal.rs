//! Writes numbers without the formatting machinery, which takes as long as a header field.

/// A number in digits.
pub(crate) struct Decimal {
    digits: [u8; MAX_DIGITS],
    start: usize,
}

/// The digits of `u64::MAX`.
const MAX_DIGITS: usize = 20;

// === impl Decimal ===

impl Decimal {
    pub(crate) fn new(mut value: u64) -> Self {
        let (mut digits, mut start) = ([0; MAX_DIGITS], MAX_DIGITS);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
            start -= 1;
            if value == 0 {
                break;
            }
        }
        Self { digits, start }
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.digits.get(self.start..).unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_digits() {
        for number in [0, 7, 10, 65_535, u64::MAX] {
            assert_eq!(Decimal::new(number).as_str(), number.to_string());
        }
    }
}
