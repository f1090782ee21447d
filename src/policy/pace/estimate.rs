//! Estimates how many tokens a call will take.
//!
//! # Why guess at all?
//!
//! A limit that is charged after the answer never binds: by then a hundred other calls have been sent. So tokens are
//! reserved by an estimate, and the difference is settled when the answer reports its usage. The estimate is the usage of
//! earlier calls, a little on the high side, and never more than the request allows.

use crate::policy::micros::Micros;

/// The usage of one key's calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estimate {
    /// Bytes of a request for each token of its prompt, in 256ths.
    bytes_per_token: u64,
    /// The mean tokens of answers, and their mean deviation.
    output: u64,
    deviation: u64,
}

/// As in English prose; JSON around it only raises the estimate.
const BYTES_PER_TOKEN: u64 = 4;
/// Before the first answer.
const OUTPUT: u64 = 512;
/// The constants of TCP's round-trip estimate (RFC 6298).
const GAIN: u64 = 8;
const DEVIATION_GAIN: u64 = 4;

/// The tokens that models write per second: 50 to 150 for those whose thoughts are not shown (2026).
const WRITTEN_IN_A_SECOND: u64 = 100;

/// Returns the tokens that a model may have written in this time.
pub(crate) fn written_in(time: Micros) -> u64 {
    time.saturating_mul(WRITTEN_IN_A_SECOND) / 1_000_000
}

/// Returns the tokens of `bytes` bytes of unknown text.
pub(crate) fn tokens_of(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

// === impl Estimate ===

impl Estimate {
    /// Estimates the tokens of a prompt of `bytes` bytes.
    pub(crate) fn input(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(256).div_ceil(self.bytes_per_token.max(1))
    }

    /// Estimates the tokens of an answer, at most `most`.
    pub(crate) fn output(&self, most: Option<u64>) -> u64 {
        let guess = self.output.saturating_add(self.deviation.saturating_mul(2));
        most.map_or(guess, |most| most.min(guess))
    }

    /// Learns the reported usage of an answer.
    pub(crate) fn learn(&mut self, bytes: u64, input: u64, output: u64) {
        if input > 0 && bytes > 0 {
            let ratio = bytes.saturating_mul(256) / input;
            self.bytes_per_token = mean(self.bytes_per_token, ratio.clamp(64, 64 * 256), GAIN);
        }
        if output > 0 {
            self.deviation = mean(self.deviation, self.output.abs_diff(output), DEVIATION_GAIN);
            self.output = mean(self.output, output, GAIN);
        }
    }
}

impl Default for Estimate {
    fn default() -> Self {
        Self { bytes_per_token: BYTES_PER_TOKEN * 256, output: OUTPUT, deviation: 0 }
    }
}

/// Moves a mean towards a value, always by at least one.
fn mean(mean: u64, value: u64, gain: u64) -> u64 {
    if value >= mean { mean + (value - mean).div_ceil(gain) } else { mean - (mean - value).div_ceil(gain) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_guess_comes_to_what_answers_were_like() {
        let mut estimate = Estimate::default();
        assert_eq!((estimate.input(4000), estimate.output(None), estimate.output(Some(100))), (1000, 512, 100));
        for _ in 0..100 {
            estimate.learn(3000, 1000, 2000);
        }
        assert_eq!((estimate.input(3000), estimate.output(None)), (1000, 2000));
    }

    proptest! {
        #[test]
        fn no_answer_takes_it_out_of_bounds(
            answers in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..100),
        ) {
            let mut estimate = Estimate::default();
            for (bytes, input, output) in answers {
                estimate.learn(bytes, input, output);
                prop_assert!((64..=64 * 256).contains(&estimate.bytes_per_token));
                estimate.input(bytes);
                estimate.output(None);
            }
        }
    }

    #[test]
    fn an_answer_that_does_not_say_what_it_used_teaches_nothing() {
        let new = Estimate::default();
        for (bytes, input, output) in [(0, 0, 0), (100, 0, 0), (0, 100, 0)] {
            let mut estimate = Estimate::default();
            estimate.learn(bytes, input, output);
            assert_eq!((estimate.input(1_000), estimate.output(None)), (new.input(1_000), new.output(None)));
        }
        let mut estimate = Estimate::default();
        (0..200).for_each(|_| estimate.learn(2_000, 1_000, 10));
        assert_eq!(estimate.input(2_000), 1_000);
        assert!(estimate.output(None) < new.output(None));
        assert_eq!(estimate.output(Some(3)), 3);
    }
}
