//! Limits of time for one request.

use std::time::Duration;

/// The limits of time for one request: put into its extensions, it wins over what the layers were built with.
///
/// One number cannot serve a call whose first byte comes after 20 s and whose stream runs for three minutes; nor can
/// three numbers serve both a chat and a research agent. The constants are what practitioners settle on; the limit on
/// connecting is 5 s for all of them and belongs to the connector, which sees no request.
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
///     .extension(TimeoutProfile { first_byte: Duration::from_secs(60), ..TimeoutProfile::DEEP })
///     .body(())
///     .unwrap();
/// assert_eq!(request.extensions().get::<TimeoutProfile>().unwrap().total, Duration::from_secs(180));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeoutProfile {
    /// From the request's last byte to the response's first data, for
    /// [`FirstByteTimeoutLayer`](crate::FirstByteTimeoutLayer).
    pub first_byte: Duration,
    /// The longest silence of the response body, for [`IdleBodyTimeoutLayer`](crate::IdleBodyTimeoutLayer).
    pub idle: Duration,
    /// The whole call, its body included, for [`DeadlineLayer`](crate::DeadlineLayer).
    pub total: Duration,
}

impl TimeoutProfile {
    /// Small models and short answers: 10 s, 15 s, 30 s.
    pub const FAST: Self = Self::seconds(10, 15, 30);
    /// Chat: 20 s, 15 s, 90 s.
    pub const STANDARD: Self = Self::seconds(20, 15, 90);
    /// Large contexts: 45 s, 15 s, 180 s.
    pub const DEEP: Self = Self::seconds(45, 15, 180);
    /// Models that think in silence: 90 s, 180 s, 300 s.
    pub const EXTENDED_THINKING: Self = Self::seconds(90, 180, 300);

    const fn seconds(first_byte: u64, idle: u64, total: u64) -> Self {
        Self {
            first_byte: Duration::from_secs(first_byte),
            idle: Duration::from_secs(idle),
            total: Duration::from_secs(total),
        }
    }
}

impl Default for TimeoutProfile {
    /// [`STANDARD`](Self::STANDARD).
    fn default() -> Self {
        Self::STANDARD
    }
}
