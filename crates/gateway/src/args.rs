//! The command line, and the same from the environment.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgAction::Set;
use clap::{Parser, ValueEnum};
use http::{HeaderName, HeaderValue};

use super::upstream::Upstream;

/// A streaming reverse proxy with its time under control.
///
/// Without --upstream it starts a simulated LLM provider inside the process and stands before that.
#[derive(Clone, Debug, Parser)]
#[command(name = "gateway", version)]
pub struct Args {
    /// Where to listen: HTTP/1.1 and h2c.
    #[arg(long, env = "GATEWAY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,

    /// Where to send requests: `http://host[:port][/prefix]`. Without it, a simulated provider answers.
    #[arg(long, env = "GATEWAY_UPSTREAM", value_name = "URL")]
    pub(crate) upstream: Option<Upstream>,

    /// The longest a connection to the upstream may take to come about.
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", value_name = "TIME|off", default_value = "5s")]
    pub(crate) connect_timeout: Limit,

    /// The longest the upstream may take, once it has the request, to the first byte of its answer's body; of an event
    /// stream, to the first event that is no comment.
    #[arg(long, env = "GATEWAY_FIRST_BYTE_TIMEOUT", value_name = "TIME|off", default_value = "30s")]
    pub(crate) first_byte_timeout: Limit,

    /// The longest silence of the upstream within an answer. In an event stream, comments are silence.
    #[arg(long, env = "GATEWAY_IDLE_TIMEOUT", value_name = "TIME|off", default_value = "15s")]
    pub(crate) idle_timeout: Limit,

    /// The longest a call may take, answer included.
    #[arg(long, env = "GATEWAY_DEADLINE", value_name = "TIME|off", default_value = "180s")]
    pub(crate) deadline: Limit,

    /// In this header callers say how many milliseconds they have left, and the upstream is told the same.
    #[arg(long, env = "GATEWAY_DEADLINE_HEADER", value_name = "NAME|off", default_value = "x-deadline-ms")]
    pub(crate) deadline_header: Header,

    /// What the gateway keeps of that time for itself when it tells the upstream.
    #[arg(long, env = "GATEWAY_DEADLINE_RESERVE", value_name = "TIME|off", default_value = "50ms")]
    pub(crate) deadline_reserve: Limit,

    /// How often a call is attempted in all; 1: never again.
    #[arg(long, env = "GATEWAY_ATTEMPTS", value_name = "N", default_value = "3")]
    pub(crate) attempts: NonZeroU32,

    /// The first wait between two attempts is up to so long, and each that follows up to twice as long as the last.
    #[arg(long, env = "GATEWAY_BACKOFF_BASE", value_name = "TIME|off", default_value = "500ms")]
    pub(crate) backoff_base: Limit,

    /// No wait is longer, unless the upstream asks for one.
    #[arg(long, env = "GATEWAY_BACKOFF_CAP", value_name = "TIME|off", default_value = "20s")]
    pub(crate) backoff_cap: Limit,

    /// When the upstream asks for a longer wait, its answer is passed on at once.
    #[arg(long, env = "GATEWAY_MAX_RETRY_AFTER", value_name = "TIME|off", default_value = "60s")]
    pub(crate) max_retry_after: Limit,

    /// Whether a POST without an idempotency key is attempted again though it may have been done.
    #[arg(long, env = "GATEWAY_RETRY_NON_IDEMPOTENT", value_name = "BOOL", default_value = "true", action = Set)]
    pub(crate) retry_non_idempotent: bool,

    /// After so long a silence of an event stream, a comment keeps it alive through proxies.
    #[arg(long, env = "GATEWAY_HEARTBEAT", value_name = "TIME|off", default_value = "15s")]
    pub(crate) heartbeat: Limit,

    /// What it looks like: by what the clients' parsers can take.
    #[arg(long, env = "GATEWAY_HEARTBEAT_FRAME", value_name = "FRAME", default_value = "comment")]
    pub(crate) heartbeat_frame: Heartbeat,

    /// An event stream that was asked for begins after so long, with heartbeats, though there is no answer yet. An error
    /// is then told in the stream.
    #[arg(long, env = "GATEWAY_HEARTBEAT_BEFORE_HEADERS", value_name = "TIME|off", default_value = "15s")]
    pub(crate) heartbeat_before_headers: Limit,

    /// The longest an upstream may send nothing while heartbeats go out.
    #[arg(long, env = "GATEWAY_HEARTBEAT_MAX_SILENCE", value_name = "TIME|off", default_value = "off")]
    pub(crate) heartbeat_max_silence: Limit,

    /// Whether an event stream that breaks off ends with an event that says so.
    #[arg(long, env = "GATEWAY_ERROR_EVENTS", value_name = "BOOL", default_value = "true", action = Set)]
    pub(crate) error_events: bool,

    /// Whether a request that is sent twice is asked once: the second hears the first one's answer.
    #[arg(long, env = "GATEWAY_DEDUP", value_name = "on|off", default_value = "on")]
    pub(crate) dedup: Switch,

    /// How long an answer is given again to whoever asks the same.
    #[arg(long, env = "GATEWAY_DEDUP_WINDOW", value_name = "TIME|off", default_value = "60s")]
    pub(crate) dedup_window: Limit,

    /// Who asks is told by this header, and not by all credentials together. A request without is one of its own.
    #[arg(long, env = "GATEWAY_DEDUP_TENANT_HEADER", value_name = "NAME")]
    pub(crate) dedup_tenant_header: Option<HeaderName>,

    /// How long a call goes on when all who wait for it have left.
    #[arg(long, env = "GATEWAY_DEDUP_GRACE", value_name = "TIME|off", default_value = "5s")]
    pub(crate) dedup_grace: Limit,

    /// Whether calls fail at once while the upstream keeps failing, or go to the fallback where there is one.
    #[arg(long, env = "GATEWAY_BREAKER", value_name = "on|off", default_value = "on")]
    pub(crate) breaker: Switch,

    /// Failure ratio at which the circuit opens.
    #[arg(long, env = "GATEWAY_BREAKER_FAILURE_RATIO", value_name = "RATIO", default_value = "0.7")]
    pub(crate) breaker_failure_ratio: f64,

    /// The calls that the window must hold before the ratio counts.
    #[arg(long, env = "GATEWAY_BREAKER_MIN_CALLS", value_name = "N", default_value = "20")]
    pub(crate) breaker_min_calls: NonZeroU32,

    /// The window.
    #[arg(long, env = "GATEWAY_BREAKER_WINDOW", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub(crate) breaker_window: Duration,

    /// Failures in a row that open the circuit when the upstream gave no sign of life for 5 s.
    #[arg(long, env = "GATEWAY_BREAKER_CONSECUTIVE", value_name = "N", default_value = "5")]
    pub(crate) breaker_consecutive: NonZeroU32,

    /// After this time one call finds out whether the upstream is back. It doubles with each that gets no answer.
    #[arg(long, env = "GATEWAY_BREAKER_OPEN", value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(crate) breaker_open: Duration,

    /// The longest open time.
    #[arg(long, env = "GATEWAY_BREAKER_OPEN_MAX", value_name = "TIME", default_value = "15s", value_parser = time)]
    pub(crate) breaker_open_max: Duration,

    /// Who is asked when the upstream cannot answer. It is not given the caller's credentials.
    #[arg(long, env = "GATEWAY_FALLBACK", value_name = "URL")]
    pub(crate) fallback: Option<Upstream>,

    /// The `model` of JSON requests that go to the fallback.
    #[arg(long, env = "GATEWAY_FALLBACK_MODEL", value_name = "NAME", requires = "fallback")]
    pub(crate) fallback_model: Option<String>,

    /// The environment variable with the `Authorization` of requests that go to the fallback.
    #[arg(long, env = "GATEWAY_FALLBACK_AUTHORIZATION_ENV", value_name = "VAR", requires = "fallback")]
    pub(crate) fallback_authorization_env: Option<Credential>,

    /// The longest a client may take nothing of what is sent to it; then it is cut off.
    #[arg(long, env = "GATEWAY_WRITE_TIMEOUT", value_name = "TIME|off", default_value = "30s")]
    pub(crate) write_timeout: Limit,

    /// The longest open streams may go on after SIGTERM or SIGINT.
    #[arg(long, env = "GATEWAY_DRAIN_TIMEOUT", value_name = "TIME|off", default_value = "30s")]
    pub(crate) drain_timeout: Limit,
}

/// Whether a layer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

/// What a heartbeat looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Heartbeat {
    /// A comment and a blank line.
    Comment,
    /// A comment.
    CommentNoBlank,
    /// A blank line.
    Newline,
}

/// A limit of time, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Duration>);

/// A header's name, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) Option<HeaderName>);

/// What a variable of the environment held when the program was started. It is not shown.
#[derive(Clone, Debug)]
pub(crate) struct Credential(pub(crate) HeaderValue);

/// What there is to say instead of starting.
#[derive(Debug)]
pub enum Stop {
    /// It was asked for: help or the version.
    Told(String),
    /// In one line.
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
        Self::try_parse_from(args).map_err(|error| {
            let text = error.to_string();
            if error.use_stderr() {
                // What follows the first paragraph is a hint to read the help.
                let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
                let line = lines.collect::<Vec<_>>().join(" ");
                Stop::Wrong(line.strip_prefix("error: ").unwrap_or(&line).to_owned())
            } else {
                Stop::Told(text)
            }
        })
    }

    /// When a stream begins without its answer; `None`: never.
    pub(crate) fn begin_early(&self) -> Option<Duration> {
        self.heartbeat.0.and(self.heartbeat_before_headers.0)
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "not a time such as 30s, 50ms or 2m".to_owned())?;
    if time.is_zero() { Err("no time at all".to_owned()) } else { Ok(time) }
}

// === impl Limit ===

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self(None));
        }
        match humantime::parse_duration(text) {
            Ok(Duration::ZERO) => Err("no time at all; to have no limit, say off".to_owned()),
            Ok(limit) => Ok(Self(Some(limit))),
            Err(_) => Err("not a time such as 30s, 50ms or 2m, and not off".to_owned()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => humantime::format_duration(limit).fmt(f),
            None => f.write_str("off"),
        }
    }
}

// === impl Credential ===

impl FromStr for Credential {
    type Err = String;

    fn from_str(variable: &str) -> Result<Self, String> {
        let value = std::env::var(variable).map_err(|_| "no such variable in the environment".to_owned())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| "what it holds is no header's value".to_owned())?;
        value.set_sensitive(true);
        Ok(Self(value))
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
        assert!(args.retry_non_idempotent && args.fallback.is_none());
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
