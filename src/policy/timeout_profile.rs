//! Time limits for one request.

use std::time::Duration;

use crate::error::InvalidConfig;

/// The time limits for one request. In the request's extensions, they replace the limits of the layers.
///
/// One number cannot serve a call whose first byte comes after 20 s and whose stream runs for three minutes, nor three
/// numbers both a chat and a research agent. The constants are values from practice. The connect limit is 5 s for all of
/// them and belongs to the connector, which sees no request.
///
/// | | [`first_byte`](Self::first_byte) | [`answer`](Self::answer) | [`idle`](Self::idle) | [`total`](Self::total) |
/// |---|---|---|---|---|
/// | [`FAST`](Self::FAST) | 10 s | 18 s | 15 s | 30 s |
/// | [`STANDARD`](Self::STANDARD) | 20 s | 50 s | 15 s | 90 s |
/// | [`DEEP`](Self::DEEP) | 45 s | 110 s | 15 s | 180 s |
/// | [`EXTENDED_THINKING`](Self::EXTENDED_THINKING) | 90 s | 200 s | 180 s | 300 s |
///
/// `first_byte` and `answer` apply to each attempt, and leave at least a third of `total` to the next one: a call whose
/// model hangs still reaches its backup. An answer that does not stream has no first byte before its last token, so it
/// needs the longer limit. Which of the two applies is known only if a layer has read the request's body, where the
/// caller asks for a stream. The presets for models do so; a [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer)
/// built by hand always waits for `first_byte`.
///
/// [`Duration::MAX`] means no limit. A layer that is [`disabled`](crate::IdleBodyTimeoutLayer::disabled) stays off.
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower_buttress::TimeoutProfile;
///
/// let request = Request::builder()
///     .uri("http://models.internal/v1/chat/completions")
///     .extension(TimeoutProfile::DEEP.with_first_byte(Duration::from_secs(60)))
///     .body(())
///     .unwrap();
/// assert_eq!(request.extensions().get::<TimeoutProfile>().unwrap().total, Duration::from_secs(180));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TimeoutProfile {
    /// From the request's last byte to the response's first data, for
    /// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer). If answers have their own limit, only for streams.
    pub first_byte: Duration,
    /// The same for answers that do not stream, for
    /// [`FirstByteTimeoutLayer::answer`](crate::FirstByteTimeoutLayer::answer).
    pub answer: Duration,
    /// The longest silence of the response body, for [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
    pub idle: Duration,
    /// The whole call, its body included, for [`DeadlineLayer`](crate::DeadlineLayer).
    pub total: Duration,
}

// === impl TimeoutProfile ===

impl TimeoutProfile {
    /// Small models and short answers.
    pub const FAST: Self = Self::seconds(10, 18, 15, 30);
    /// Chat.
    pub const STANDARD: Self = Self::seconds(20, 50, 15, 90);
    /// Large contexts.
    pub const DEEP: Self = Self::seconds(45, 110, 15, 180);
    /// Models that think in silence.
    pub const EXTENDED_THINKING: Self = Self::seconds(90, 200, 180, 300);
    /// No limit: a start for a profile that sets each limit.
    pub const UNLIMITED: Self =
        Self { first_byte: Duration::MAX, answer: Duration::MAX, idle: Duration::MAX, total: Duration::MAX };

    const fn seconds(first_byte: u64, answer: u64, idle: u64, total: u64) -> Self {
        Self {
            first_byte: Duration::from_secs(first_byte),
            answer: Duration::from_secs(answer),
            idle: Duration::from_secs(idle),
            total: Duration::from_secs(total),
        }
    }

    /// Returns the profile with this limit on the first data of a stream.
    #[must_use]
    pub const fn with_first_byte(mut self, limit: Duration) -> Self {
        self.first_byte = limit;
        self
    }

    /// Returns the profile with this limit on the first data of an answer that does not stream.
    #[must_use]
    pub const fn with_answer(mut self, limit: Duration) -> Self {
        self.answer = limit;
        self
    }

    /// Returns the profile with this limit on the silence of a body.
    #[must_use]
    pub const fn with_idle(mut self, limit: Duration) -> Self {
        self.idle = limit;
        self
    }

    /// Returns the profile with this limit on the whole call.
    #[must_use]
    pub const fn with_total(mut self, limit: Duration) -> Self {
        self.total = limit;
        self
    }

    /// Checks that the limits can work. The presets check their profile, and report a faulty one with
    /// [`Event::Misconfigured`](crate::Event::Misconfigured).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_buttress::TimeoutProfile;
    ///
    /// assert!(TimeoutProfile::STANDARD.check().is_ok());
    /// let patient = TimeoutProfile::STANDARD.with_first_byte(Duration::from_secs(120));
    /// let wrong = patient.check().unwrap_err().to_string();
    /// assert_eq!(wrong, "timeout profile: first_byte is longer than total, and never reached");
    /// ```
    ///
    /// # Errors
    ///
    /// If a limit is zero, so that every call fails, or longer than `total`, so that it is never reached.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let limits = [
            (
                self.first_byte,
                "first_byte is zero: every call fails",
                "first_byte is longer than total, and never reached",
            ),
            (self.answer, "answer is zero: every call fails", "answer is longer than total, and never reached"),
            (self.idle, "idle is zero: every call fails", "idle is longer than total, and never reached"),
            (self.total, "total is zero: every call fails", ""),
        ];
        for (limit, zero, too_long) in limits {
            let reason = match limit {
                Duration::ZERO => zero,
                Duration::MAX => continue,
                limit if limit > self.total => too_long,
                _ => continue,
            };
            return Err(InvalidConfig::new("timeout profile", reason));
        }
        Ok(())
    }
}

impl Default for TimeoutProfile {
    /// [`STANDARD`](Self::STANDARD).
    fn default() -> Self {
        Self::STANDARD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn an_attempt_leaves_a_third_to_a_backup() {
        use TimeoutProfile as P;
        for profile in [P::FAST, P::STANDARD, P::DEEP, P::EXTENDED_THINKING] {
            assert!(profile.check().is_ok());
            assert!(profile.first_byte <= profile.answer && 3 * profile.answer <= 2 * profile.total, "{profile:?}");
        }
    }

    #[test]
    fn what_cannot_work_is_said() {
        let standard = TimeoutProfile::STANDARD;
        assert!(TimeoutProfile::UNLIMITED.check().is_ok());
        assert!(standard.with_total(Duration::MAX).check().is_ok());
        assert!(TimeoutProfile::UNLIMITED.with_total(S).check().is_ok(), "no limit is not one that is never reached");
        for (wrong, reason) in [
            (standard.with_first_byte(91 * S), "first_byte is longer than total, and never reached"),
            (standard.with_answer(91 * S), "answer is longer than total, and never reached"),
            (standard.with_idle(91 * S), "idle is longer than total, and never reached"),
            (standard.with_idle(Duration::ZERO), "idle is zero: every call fails"),
            (TimeoutProfile::UNLIMITED.with_total(Duration::ZERO), "total is zero: every call fails"),
        ] {
            assert_eq!(wrong.check().unwrap_err().to_string(), format!("timeout profile: {reason}"));
        }
    }
}
