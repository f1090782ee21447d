//! Types and parsers of option values: times, sizes, rates, names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use http::HeaderName;
use tower_buttress::{Rate, TimeoutProfile};

use super::Misfit;
use super::file::Setting;

/// Whether a layer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// What a heartbeat looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Heartbeat {
    /// The form that clients of the request's API accept.
    ByDialect,
    /// A comment and a blank line.
    Comment,
    /// A comment without a blank line.
    CommentNoBlank,
    /// A blank line.
    Newline,
}

/// Which callers get notices of why they wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NoticesArg {
    Off,
    On,
    Header,
}

/// How to treat a stream that ends without a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ends {
    Auto,
    Error,
    Allow,
}

/// What a 429 means for other calls with the same credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pacing {
    Pause,
    Learn,
    Off,
}

/// How a broken stream continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resuming {
    Off,
    Cursor,
    Verified,
}

/// What a newer message of a conversation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SupersedeArg {
    Interrupt,
    Reject,
    Enqueue,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// What the upstream gets as `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TraceArg {
    /// The caller's header, unchanged.
    Pass,
    /// A span of its own for each attempt.
    Attempts,
}

/// The time limits for a class of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    Fast,
    Standard,
    Deep,
    ExtendedThinking,
}

/// The limit of concurrent calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConcurrencyArg {
    Off,
    Auto,
    Fixed(NonZeroU32),
}

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit(pub(crate) Option<Rate>);

/// A number, or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountArg(pub(crate) Option<NonZeroU32>);

/// A number of bytes, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeArg(pub(crate) Option<usize>);

/// A time limit, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit(pub(crate) Option<Duration>);

/// A header's name, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) Option<HeaderName>);

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "not a time such as 30s, 50ms or 2m".to_owned())?;
    if time.is_zero() { Err("must be longer than 0".to_owned()) } else { Ok(time) }
}

/// Parses a name or address as `Host` has it, without the port.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if is_name || address.parse::<IpAddr>().is_ok() {
        return Ok(text.strip_suffix('.').unwrap_or(text).to_owned());
    }
    Err("not a name such as gateway.example, without scheme and port".to_owned())
}

/// Refuses these options, given by key, when the option that they belong to is missing.
pub(super) fn refuse_unused<const N: usize>(options: [(&'static str, bool); N], needed: &str) -> Result<(), Misfit> {
    match options.into_iter().find(|(_, is_given)| *is_given) {
        Some((key, _)) => Err(Misfit::new(&[key], format!("--{} needs {needed}", key.replace('_', "-")))),
        None => Ok(()),
    }
}

/// Parses a listen address, `host:port`. Whether the port is free shows only when the gateway binds it.
pub(super) fn listen_address(text: &str) -> Result<String, String> {
    let is_host_and_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['[', ']', '/', '@', ' ']) && port.parse::<u16>().is_ok()
    });
    if is_host_and_port || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("not an address such as 127.0.0.1:8080 or [::]:8080".to_owned())
}

// === impl TimeLimit ===

impl FromStr for TimeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("must be longer than 0; for no limit use off".to_owned()),
            Ok(limit) => Ok(Self(Some(limit))),
            Err(_) => Err("not a time such as 30s, 50ms or 2m, and not off".to_owned()),
        }
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => humantime::format_duration(limit).fmt(f),
            None => f.write_str("off"),
        }
    }
}

// === impl Profile ===

impl Profile {
    /// The profile as values of options.
    pub(super) fn settings(self) -> [Setting; 4] {
        let limits = match self {
            Self::Fast => TimeoutProfile::FAST,
            Self::Standard => TimeoutProfile::STANDARD,
            Self::Deep => TimeoutProfile::DEEP,
            Self::ExtendedThinking => TimeoutProfile::EXTENDED_THINKING,
        };
        let setting = |id: &str, limit: Duration| Setting {
            id: id.to_owned(),
            values: vec![humantime::format_duration(limit).to_string()],
        };
        [
            setting("first_byte_timeout", limits.first_byte),
            setting("answer_timeout", limits.answer),
            setting("idle_timeout", limits.idle),
            setting("deadline", limits.total),
        ]
    }
}

// === impl Concurrency ===

impl FromStr for ConcurrencyArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            number => number.parse().map(Self::Fixed).map_err(|_| "not a number from 1 on, auto or off".to_owned()),
        }
    }
}

// === impl RateLimit ===

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        let wrong = || "not a rate such as 500/1m, and not off".to_owned();
        let (units, per) = text.split_once('/').ok_or_else(wrong)?;
        let units: NonZeroU64 = units.trim().parse().map_err(|_| wrong())?;
        let per = time(per.trim()).map_err(|_| wrong())?;
        Ok(Self(Some(Rate::new(units.get(), per))))
    }
}

// === impl Count ===

impl FromStr for CountArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        text.parse().map(|count| Self(Some(count))).map_err(|_| "not a number from 1 on, and not off".to_owned())
    }
}

// === impl Size ===

impl FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "" => Some(1),
            "kib" => Some(1024),
            "mib" => Some(1024 * 1024),
            _ => None,
        };
        let bytes = unit.and_then(|unit| number.parse::<usize>().ok()?.checked_mul(unit)).filter(|bytes| *bytes > 0);
        bytes.map(|bytes| Self(Some(bytes))).ok_or_else(|| "not a size such as 256KiB or 1MiB, and not off".to_owned())
    }
}

// === impl Header ===

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        text.parse().map(|name| Self(Some(name))).map_err(|_| "not a header's name".to_owned())
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or("off", HeaderName::as_str))
    }
}
