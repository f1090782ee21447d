//! Options of the Redis that gateways share.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use tower_buttress_redis::RedisOptions;

use super::Misfit;
use super::headings::FLEET;
use super::values::{refuse_unused, time};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct FleetArgs {
    /// Share state with other gateways through this Redis or Valkey.
    ///
    /// `redis://user:password@host:6379`, or `rediss://` for TLS. The gateways share duplicate requests, kept answers,
    /// circuits, rates, pauses after a 429, superseded messages and last good answers.
    #[arg(long, env = "GATEWAY_REDIS", value_name = "URL", hide_env_values = true, help_heading = FLEET)]
    pub(crate) redis: Option<RedisUrl>,

    /// Begin all keys with this prefix.
    ///
    /// Gateways with different prefixes share nothing.
    #[arg(
        long, env = "GATEWAY_REDIS_PREFIX", value_name = "NAME", default_value = PREFIX,
        help_heading = FLEET
    )]
    pub(crate) redis_prefix: String,

    /// Limit the wait of a call for each Redis operation.
    ///
    /// While Redis is known to be unreachable, no call waits.
    #[arg(
        long, env = "GATEWAY_REDIS_PATIENCE", value_name = "TIME", default_value = PATIENCE, value_parser = time,
        help_heading = FLEET
    )]
    pub(crate) redis_patience: Duration,

    /// Choose what calls get while Redis is unreachable.
    ///
    /// `local`: each gateway uses its own state. `refuse`: requests with an `Idempotency-Key` get 503, because another
    /// gateway may have answered them, and `/-/readyz` returns 503.
    #[arg(
        long, env = "GATEWAY_REDIS_OUTAGE", value_name = "HOW", default_value = "local",
        help_heading = FLEET
    )]
    pub(crate) redis_outage: OnOutage,

    /// Assume this many gateways until Redis reports the number.
    ///
    /// A gateway that starts while Redis is unreachable takes its share of each rate by this number.
    #[arg(
        long, env = "GATEWAY_REDIS_PROCESSES", value_name = "COUNT", default_value_t = PROCESSES,
        value_parser = clap::value_parser!(u32).range(1..), help_heading = FLEET
    )]
    pub(crate) redis_processes: u32,
}

/// A URL that `Debug` and `Display` show without its password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RedisUrl(String);

/// What calls get while Redis cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnOutage {
    Local,
    Refuse,
}

const PREFIX: &str = "buttress";
const PATIENCE: &str = "100ms";
const PROCESSES: u32 = 1;

// === impl FleetArgs ===

impl FleetArgs {
    /// The connection options, or `None` without `--redis`.
    pub(crate) fn options(&self) -> Result<Option<RedisOptions>, Misfit> {
        let Some(url) = &self.redis else { return self.check_unused().map(|()| None) };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if self.redis_prefix.is_empty() || !self.redis_prefix.chars().all(is_plain) {
            return Err(Misfit::new(&["redis_prefix"], "--redis-prefix: only letters, digits and - _ . : are allowed"));
        }
        if url.0.contains("pass=") {
            let wrong = "--redis: put the password before the @ of the URL, not into its query";
            return Err(Misfit::new(&["redis"], wrong));
        }
        let wrong = || format!("--redis {url}: not a URL such as redis://127.0.0.1:6379");
        let options = RedisOptions::from_url(&url.0).map_err(|_| Misfit::new(&["redis"], wrong()))?;
        Ok(Some(options.prefix(self.redis_prefix.as_str()).patience(self.redis_patience)))
    }

    /// Refuses options of Redis that any source gives without `--redis`.
    fn check_unused(&self) -> Result<(), Misfit> {
        let said = [
            ("redis_prefix", self.redis_prefix != PREFIX),
            ("redis_patience", time(PATIENCE).as_ref() != Ok(&self.redis_patience)),
            ("redis_outage", self.redis_outage != OnOutage::Local),
            ("redis_processes", self.redis_processes != PROCESSES),
        ];
        refuse_unused(said, "--redis URL")
    }

    /// The options whose new values need a restart.
    pub(super) fn only_at_start(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("redis", self.redis != new.redis),
            ("redis_prefix", self.redis_prefix != new.redis_prefix),
            ("redis_patience", self.redis_patience != new.redis_patience),
            ("redis_outage", self.redis_outage != new.redis_outage),
            ("redis_processes", self.redis_processes != new.redis_processes),
        ];
        changed.into_iter().filter_map(|(name, has_changed)| has_changed.then_some(name)).collect()
    }
}

// === impl RedisUrl ===

impl FromStr for RedisUrl {
    type Err = Infallible;

    /// Never fails: clap's error would print the value, which holds a password. `options` checks it.
    fn from_str(url: &str) -> Result<Self, Infallible> {
        Ok(Self(url.to_owned()))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.0.split_once('?').map_or(self.0.as_str(), |(url, _)| url);
        let Some((credentials, host)) = url.rsplit_once('@') else { return f.write_str(url) };
        // Shows the user, never the password; neither where the two cannot be told apart.
        let (scheme, credentials) = credentials.split_once("://").unwrap_or(("redis", ""));
        let user = credentials.split_once(':').map_or("", |(user, _)| user);
        write!(f, "{scheme}://{user}:***@{host}")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Args, Stop};

    fn read(args: &str) -> Result<Args, String> {
        let args = ["gateway"].into_iter().chain(args.split_whitespace()).map(OsString::from);
        Args::read(args).map_err(|stop| match stop {
            Stop::Wrong(line) | Stop::Shown(line) | Stop::Unfit(line) => line,
        })
    }

    #[test]
    fn an_invalid_url_is_a_one_line_error_without_its_password() {
        for (url, shown) in [
            ("http://ann:secret@h:1", "http://ann:***@h:1"),
            ("redis://ann:secret@h:1/secret", "redis://ann:***@h:1/secret"),
            ("ann:secret@h", "redis://:***@h"),
            ("redis://:se@cret@h:port", "redis://:***@h:port"),
            ("redis://h:port?word=secret", "redis://h:port"),
        ] {
            let line = read(&format!("--redis {url}")).unwrap_err();
            assert_eq!(line, format!("--redis {shown}: not a URL such as redis://127.0.0.1:6379"));
        }
        let args = read("--redis rediss://ann:secret@redis.internal:6380/2").unwrap();
        assert!(!format!("{args:?}").contains("secret"));
    }

    #[test]
    fn what_is_for_redis_needs_one() {
        for option in ["--redis-prefix a", "--redis-patience 50ms", "--redis-outage refuse", "--redis-processes 2"] {
            let name = option.split(' ').next().unwrap();
            assert_eq!(read(option).unwrap_err(), format!("{name} needs --redis URL"));
        }
        let line = read("--redis redis://h --redis-prefix {a}").unwrap_err();
        assert_eq!(line, "--redis-prefix: only letters, digits and - _ . : are allowed");
        assert!(read("--redis redis://h --plain").unwrap().fleet.redis.is_none());
    }
}
