//! The command line, and the same from the environment.

mod fallbacks;
mod values;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction::{Append, Set};
use clap::{CommandFactory, FromArgMatches, Parser};
use http::HeaderName;

pub(crate) use self::fallbacks::Backup;
pub(crate) use self::values::{Credential, Header, Heartbeat, Limit, NamedCredential, Switch};
use self::values::{keys_in_file, keys_in_variable, time};
use super::callers::{Keys, Network, Origin};
use super::upstream::Upstream;

const TRUST: &str = "Upstreams and trust";
const TIME: &str = "Limits of time";
const ATTEMPTS: &str = "Attempts";
const STREAMS: &str = "Streams";
const DEDUP: &str = "Duplicate requests";
const BREAKER: &str = "Circuit breaker";
const SERVER: &str = "Server";

/// A streaming reverse proxy for slow, flaky upstreams: timeouts, retries, fallback, dedup, heartbeats.
///
/// Without --upstream it starts a simulated LLM provider inside the process and sends requests there.
#[derive(Clone, Debug, Parser)]
#[command(name = "buttress-gateway", version)]
pub struct Args {
    /// Address to listen on, for HTTP/1.1 and HTTP/2.
    #[arg(long, env = "GATEWAY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080", help_heading = SERVER)]
    pub(crate) listen: String,

    /// PEM file with the gateway's certificate chain. With it, the listener speaks TLS only.
    #[arg(long, env = "GATEWAY_TLS_CERT", value_name = "FILE", requires = "tls_key", help_heading = SERVER)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// PEM file with the private key of that certificate.
    #[arg(long, env = "GATEWAY_TLS_KEY", value_name = "FILE", requires = "tls_cert", help_heading = SERVER)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Address of a second listener for the gateway's own pages under `/-/`. Without it they are on the first, and on an
    /// address that is not loopback only `healthz` and `readyz`.
    #[arg(long, env = "GATEWAY_ADMIN", value_name = "ADDR", help_heading = SERVER)]
    pub(crate) admin: Option<String>,

    /// URL that requests are sent to: `https://host[:port][/prefix]`, `http://..`, or `h2c://..` for HTTP/2 without TLS.
    /// Default: a simulated provider.
    #[arg(long, env = "GATEWAY_UPSTREAM", value_name = "URL", help_heading = TRUST)]
    pub(crate) upstream: Option<Upstream>,

    /// PEM file with certificates that upstreams may show, beside the roots of the system.
    #[arg(long, env = "GATEWAY_UPSTREAM_CA", value_name = "FILE", help_heading = TRUST)]
    pub(crate) upstream_ca: Option<PathBuf>,

    /// Environment variable with the `Authorization` of requests to the upstream, in place of the caller's credentials.
    #[arg(
        long, env = "GATEWAY_UPSTREAM_AUTHORIZATION_ENV", value_name = "VAR", help_heading = TRUST
    )]
    pub(crate) upstream_authorization_env: Option<Credential>,

    /// Header of requests to the upstream (`x-api-key`, say), and the environment variable with its value, in place of
    /// the caller's credentials. May be repeated.
    #[arg(
        long, env = "GATEWAY_UPSTREAM_HEADER", value_name = "NAME=VAR", action = Append, value_delimiter = ',',
        help_heading = TRUST
    )]
    pub(crate) upstream_header: Vec<NamedCredential>,

    /// URL of another upstream, which is asked when those before it cannot answer. It does not get the caller's
    /// credentials. May be repeated: a chain, in this order.
    #[arg(
        long, env = "GATEWAY_FALLBACK", value_name = "URL", action = Append, value_delimiter = ',',
        help_heading = TRUST
    )]
    fallback: Vec<Upstream>,

    /// Model that JSON requests name when they go to the --fallback before this option.
    #[arg(
        long, env = "GATEWAY_FALLBACK_MODEL", value_name = "NAME", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    fallback_model: Vec<String>,

    /// Environment variable with the `Authorization` of requests to the --fallback before this option.
    #[arg(
        long, env = "GATEWAY_FALLBACK_AUTHORIZATION_ENV", value_name = "VAR", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    fallback_authorization_env: Vec<Credential>,

    /// Header of requests to the --fallback before this option, and the environment variable with its value. May be
    /// repeated.
    #[arg(
        long, env = "GATEWAY_FALLBACK_HEADER", value_name = "NAME=VAR", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    fallback_header: Vec<NamedCredential>,

    /// The fallbacks, each with the options that belong to it.
    #[arg(skip)]
    pub(crate) backups: Vec<Backup>,

    /// Environment variable with the keys that callers must present (`Authorization: Bearer` or `x-api-key`): one
    /// `name:key` per line. The name is the tenant. Other requests get 401.
    #[arg(
        long, env = "GATEWAY_CALLER_KEYS_ENV", value_name = "VAR", value_parser = keys_in_variable,
        conflicts_with = "caller_keys_file", help_heading = TRUST
    )]
    caller_keys_env: Option<Keys>,

    /// File with such keys.
    #[arg(
        long, env = "GATEWAY_CALLER_KEYS_FILE", value_name = "FILE", value_parser = keys_in_file, help_heading = TRUST
    )]
    caller_keys_file: Option<Keys>,

    /// Serve all callers on the operator's account. Needed where the gateway has a credential for an upstream or a
    /// fallback, and there are no caller keys.
    #[arg(long, env = "GATEWAY_TRUST_CALLERS", help_heading = TRUST)]
    pub(crate) trust_callers: bool,

    /// Site whose web pages may call, as `https://app.example`; `*` is any. May be repeated. Without caller keys, pages of
    /// all other sites get 403.
    #[arg(
        long, env = "GATEWAY_ALLOW_ORIGIN", value_name = "ORIGIN", action = Append, value_delimiter = ',',
        num_args = 1.., help_heading = TRUST
    )]
    pub(crate) allow_origin: Vec<Origin>,

    /// Name of this gateway, beside `localhost` and addresses. May be repeated. Without caller keys, requests for another
    /// `Host` get 403.
    #[arg(
        long, env = "GATEWAY_HOST", value_name = "NAME", action = Append, value_delimiter = ',', num_args = 1..,
        help_heading = TRUST
    )]
    pub(crate) host: Vec<String>,

    /// Network of proxies in front, as `10.0.0.0/8`. May be repeated. `Forwarded`, `X-Forwarded-*` and `X-Real-IP` are
    /// believed and passed on from these, and replaced from others.
    #[arg(
        long, env = "GATEWAY_TRUSTED_PROXIES", value_name = "CIDR", action = Append, value_delimiter = ',',
        num_args = 1.., help_heading = TRUST
    )]
    pub(crate) trusted_proxies: Vec<Network>,

    /// Longest time for a connection to the upstream to be established.
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", value_name = "TIME|off", default_value = "5s", help_heading = TIME)]
    pub(crate) connect_timeout: Limit,

    /// Longest wait, once the upstream has the request, for the first byte of its answer's body; of an event stream, for
    /// the first event that is no comment.
    #[arg(
        long, env = "GATEWAY_FIRST_BYTE_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = TIME
    )]
    pub(crate) first_byte_timeout: Limit,

    /// Longest silence of the upstream within an answer. In an event stream, comments are silence.
    #[arg(long, env = "GATEWAY_IDLE_TIMEOUT", value_name = "TIME|off", default_value = "15s", help_heading = TIME)]
    pub(crate) idle_timeout: Limit,

    /// Longest time for a call, its answer included.
    #[arg(long, env = "GATEWAY_DEADLINE", value_name = "TIME|off", default_value = "180s", help_heading = TIME)]
    pub(crate) deadline: Limit,

    /// Header in which callers say how many milliseconds they have left. The upstream gets the same header.
    #[arg(
        long, env = "GATEWAY_DEADLINE_HEADER", value_name = "NAME|off", default_value = "x-deadline-ms",
        help_heading = TIME
    )]
    pub(crate) deadline_header: Header,

    /// Time that is subtracted from what the upstream is told.
    #[arg(long, env = "GATEWAY_DEADLINE_RESERVE", value_name = "TIME|off", default_value = "50ms", help_heading = TIME)]
    pub(crate) deadline_reserve: Limit,

    /// Number of attempts at a call, the first included.
    #[arg(long, env = "GATEWAY_ATTEMPTS", value_name = "N", default_value = "3", help_heading = ATTEMPTS)]
    pub(crate) attempts: NonZeroU32,

    /// Longest first wait between two attempts. Each wait that follows may be twice as long as the last.
    #[arg(long, env = "GATEWAY_BACKOFF_BASE", value_name = "TIME|off", default_value = "500ms", help_heading = ATTEMPTS)]
    pub(crate) backoff_base: Limit,

    /// Longest wait between two attempts, unless the upstream asks for a longer one.
    #[arg(long, env = "GATEWAY_BACKOFF_CAP", value_name = "TIME|off", default_value = "20s", help_heading = ATTEMPTS)]
    pub(crate) backoff_cap: Limit,

    /// Longest wait that the upstream may ask for. An answer that asks for more is passed on at once.
    #[arg(
        long, env = "GATEWAY_MAX_RETRY_AFTER", value_name = "TIME|off", default_value = "60s", help_heading = ATTEMPTS
    )]
    pub(crate) max_retry_after: Limit,

    /// Whether a POST without an idempotency key is attempted again though it may have been executed.
    #[arg(
        long, env = "GATEWAY_RETRY_NON_IDEMPOTENT", value_name = "BOOL", default_value = "true", action = Set,
        help_heading = ATTEMPTS
    )]
    pub(crate) retry_non_idempotent: bool,

    /// Silence of an event stream after which a heartbeat is sent, so that proxies keep the connection.
    #[arg(long, env = "GATEWAY_HEARTBEAT", value_name = "TIME|off", default_value = "15s", help_heading = STREAMS)]
    pub(crate) heartbeat: Limit,

    /// Form of heartbeats; choose one that the callers' parsers accept.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_FRAME", value_name = "FRAME", default_value = "comment", help_heading = STREAMS
    )]
    pub(crate) heartbeat_frame: Heartbeat,

    /// Wait for an answer after which a requested event stream begins anyway, with heartbeats. A later error is an event
    /// of the stream.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_BEFORE_HEADERS", value_name = "TIME|off", default_value = "15s",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_before_headers: Limit,

    /// Longest silence of an upstream while heartbeats are sent.
    #[arg(
        long, env = "GATEWAY_HEARTBEAT_MAX_SILENCE", value_name = "TIME|off", default_value = "off",
        help_heading = STREAMS
    )]
    pub(crate) heartbeat_max_silence: Limit,

    /// Whether an event stream that breaks off ends with an error event.
    #[arg(
        long, env = "GATEWAY_ERROR_EVENTS", value_name = "BOOL", default_value = "true", action = Set,
        help_heading = STREAMS
    )]
    pub(crate) error_events: bool,

    /// Whether equal requests share one upstream call: the second gets the first one's answer.
    #[arg(long, env = "GATEWAY_DEDUP", value_name = "on|off", default_value = "on", help_heading = DEDUP)]
    pub(crate) dedup: Switch,

    /// Time for which an answer is kept for equal requests.
    #[arg(long, env = "GATEWAY_DEDUP_WINDOW", value_name = "TIME|off", default_value = "60s", help_heading = DEDUP)]
    pub(crate) dedup_window: Limit,

    /// Header that tells tenants apart, beside the caller's credentials. A request without it is shared with no other.
    #[arg(long, env = "GATEWAY_DEDUP_TENANT_HEADER", value_name = "NAME", help_heading = DEDUP)]
    pub(crate) dedup_tenant_header: Option<HeaderName>,

    /// Time for which an upstream call continues after all its callers have left.
    #[arg(long, env = "GATEWAY_DEDUP_GRACE", value_name = "TIME|off", default_value = "5s", help_heading = DEDUP)]
    pub(crate) dedup_grace: Limit,

    /// Whether calls fail at once while the upstream keeps failing, or go to the fallback where there is one.
    #[arg(long, env = "GATEWAY_BREAKER", value_name = "on|off", default_value = "on", help_heading = BREAKER)]
    pub(crate) breaker: Switch,

    /// Ratio of failed calls in the window at which the circuit opens.
    #[arg(
        long, env = "GATEWAY_BREAKER_FAILURE_RATIO", value_name = "RATIO", default_value = "0.7",
        help_heading = BREAKER
    )]
    pub(crate) breaker_failure_ratio: f64,

    /// Number of calls in the window below which the ratio does not count.
    #[arg(long, env = "GATEWAY_BREAKER_MIN_CALLS", value_name = "N", default_value = "20", help_heading = BREAKER)]
    pub(crate) breaker_min_calls: NonZeroU32,

    /// Length of the window.
    #[arg(
        long, env = "GATEWAY_BREAKER_WINDOW", value_name = "TIME", default_value = "60s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_window: Duration,

    /// Number of consecutive failures at which the circuit opens, if the upstream gave no sign of life for 5 s.
    #[arg(long, env = "GATEWAY_BREAKER_CONSECUTIVE", value_name = "N", default_value = "5", help_heading = BREAKER)]
    pub(crate) breaker_consecutive: NonZeroU32,

    /// Time after which one call probes whether the upstream is back. It doubles with each probe that gets no answer.
    #[arg(
        long, env = "GATEWAY_BREAKER_OPEN", value_name = "TIME", default_value = "5s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_open: Duration,

    /// Longest such time.
    #[arg(
        long, env = "GATEWAY_BREAKER_OPEN_MAX", value_name = "TIME", default_value = "15s", value_parser = time,
        help_heading = BREAKER
    )]
    pub(crate) breaker_open_max: Duration,

    /// Longest time in which a client reads nothing of what is sent to it; then its connection is closed.
    #[arg(long, env = "GATEWAY_WRITE_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = SERVER)]
    pub(crate) write_timeout: Limit,

    /// Longest time for which open streams continue after SIGTERM or SIGINT.
    #[arg(long, env = "GATEWAY_DRAIN_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = SERVER)]
    pub(crate) drain_timeout: Limit,
}

/// What to print instead of starting.
#[derive(Debug)]
pub enum Stop {
    /// The text that was asked for: help or the version.
    Told(String),
    /// What is wrong, in one line.
    Wrong(String),
}

// === impl Args ===

impl Args {
    /// Reads the command line (its first word is the program) and the environment.
    ///
    /// # Errors
    ///
    /// [`Stop`]: there is something to print, and nothing to run.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Stop> {
        let mut matches = Self::command().try_get_matches_from(args).map_err(|error| Stop::from(&error))?;
        let pairs = fallbacks::Pairs::of(&matches);
        let mut args = Self::from_arg_matches_mut(&mut matches).map_err(|error| Stop::from(&error))?;
        args.backups = pairs.backups(&args).map_err(Stop::Wrong)?;
        if args.has_own_credential() && args.caller_keys().is_none() && !args.trust_callers {
            return Err(Stop::Wrong(
                "a credential of the gateway's own would serve callers that nobody has authenticated: name their keys \
                 with --caller-keys-env or --caller-keys-file, or say --trust-callers"
                    .to_owned(),
            ));
        }
        Ok(args)
    }

    /// Whether some upstream is asked on the operator's account.
    fn has_own_credential(&self) -> bool {
        !self.upstream_credential().is_empty() || self.backups.iter().any(|backup| !backup.credential.is_empty())
    }

    /// What stands in requests to the upstream in place of the caller's credentials; empty: the caller's pass.
    pub(crate) fn upstream_credential(&self) -> Vec<NamedCredential> {
        let authorization = self.upstream_authorization_env.iter().map(Credential::named);
        authorization.chain(self.upstream_header.iter().cloned()).collect()
    }

    pub(crate) fn caller_keys(&self) -> Option<&Keys> {
        self.caller_keys_env.as_ref().or(self.caller_keys_file.as_ref())
    }

    /// When a stream begins without its answer; `None`: never.
    pub(crate) fn begin_early(&self) -> Option<Duration> {
        self.heartbeat.0.and(self.heartbeat_before_headers.0)
    }
}

// === impl Stop ===

impl From<&clap::Error> for Stop {
    fn from(error: &clap::Error) -> Self {
        let text = error.to_string();
        if !error.use_stderr() {
            return Self::Told(text);
        }
        // What follows the first paragraph is a hint to read the help.
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join(" ");
        Self::Wrong(line.strip_prefix("error: ").unwrap_or(&line).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Args, Stop> {
        Args::read(["gateway"].iter().chain(args).map(OsString::from))
    }

    fn line(args: &[&str]) -> String {
        match read(args) {
            Err(Stop::Wrong(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let args = read(&[]).unwrap();
        assert_eq!(args.listen, "127.0.0.1:8080");
        assert!(args.upstream.is_none());
        let limits = [args.connect_timeout, args.first_byte_timeout, args.idle_timeout, args.deadline];
        assert_eq!(limits.map(|limit| limit.to_string()), ["5s", "30s", "15s", "3m"]);
        assert_eq!(args.deadline_header.to_string(), "x-deadline-ms");
        assert_eq!(args.deadline_reserve.to_string(), "50ms");
        assert_eq!(args.attempts.get(), 3);
        let waits = [args.backoff_base, args.backoff_cap, args.max_retry_after];
        assert_eq!(waits.map(|wait| wait.to_string()), ["500ms", "20s", "1m"]);
        assert!(args.retry_non_idempotent && args.backups.is_empty());
        let times = [args.heartbeat, args.heartbeat_before_headers, args.heartbeat_max_silence];
        assert_eq!(times.map(|time| time.to_string()), ["15s", "15s", "off"]);
        assert_eq!((args.heartbeat_frame, args.error_events), (Heartbeat::Comment, true));
        assert_eq!((args.dedup, args.dedup_tenant_header), (Switch::On, None));
        assert_eq!([args.dedup_window, args.dedup_grace].map(|limit| limit.to_string()), ["1m", "5s"]);
        assert_eq!((args.breaker, args.breaker_failure_ratio), (Switch::On, 0.7));
        assert_eq!((args.breaker_min_calls.get(), args.breaker_consecutive.get()), (20, 5));
        let times = [args.breaker_window, args.breaker_open, args.breaker_open_max];
        assert_eq!(times, [60, 5, 15].map(Duration::from_secs));
    }

    #[test]
    fn a_fallback_that_cannot_work_is_told_in_one_line() {
        assert!(line(&["--attempts", "0"]).starts_with("invalid value '0' for '--attempts <N>'"));
        assert_eq!(
            line(&["--fallback-model", "small"]),
            "the following required arguments were not provided: --fallback <URL>"
        );
        let unset = ["--fallback", "http://h", "--fallback-authorization-env", "GATEWAY_TEST_NO_SUCH_VARIABLE"];
        assert!(line(&unset).ends_with("no such variable in the environment"));
    }

    #[test]
    fn off_disables_every_limit() {
        let off = ["--connect-timeout", "--first-byte-timeout", "--idle-timeout", "--deadline", "--deadline-reserve"];
        let args: Vec<_> = off.iter().flat_map(|name| [*name, "off"]).chain(["--deadline-header", "off"]).collect();
        let args = read(&args).unwrap();
        let limits = [args.connect_timeout, args.first_byte_timeout, args.idle_timeout, args.deadline];
        assert_eq!(limits, [Limit(None); 4]);
        assert_eq!(args.deadline_reserve, Limit(None));
        assert_eq!(args.deadline_header, Header(None));
    }

    #[test]
    fn a_wrong_value_is_one_line_that_names_it() {
        assert_eq!(
            line(&["--idle-timeout", "soon"]),
            "invalid value 'soon' for '--idle-timeout <TIME|off>': not a time such as 30s, 50ms or 2m, and not off"
        );
        assert_eq!(
            line(&["--deadline", "0s"]),
            "invalid value '0s' for '--deadline <TIME|off>': no time at all; to have no limit, say off"
        );
        assert!(line(&["--upstream", "ftp://x"]).starts_with("invalid value 'ftp://x' for '--upstream <URL>': "));
        assert_eq!(line(&["--verbose"]), "unexpected argument '--verbose' found");
        assert_eq!(
            line(&["--dedup", "maybe"]),
            "invalid value 'maybe' for '--dedup <on|off>' [possible values: on, off]"
        );
    }

    #[test]
    fn help_is_told_and_not_an_error() {
        assert!(matches!(read(&["--help"]), Err(Stop::Told(text)) if text.contains("GATEWAY_IDLE_TIMEOUT")));
    }
}
