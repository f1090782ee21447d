//! Options, from the command line, the environment and a configuration file.

mod callers;
mod calls;
mod credentials;
mod environment;
mod fallbacks;
mod file;
mod fleet;
mod headings;
mod layers;
mod places;
mod print;
mod routes;
mod server;
mod similar;
mod stop;
mod templates;
mod upstreams;
mod values;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, Parser};
use http::HeaderName;

pub(crate) use self::callers::CallerArgs;
pub(crate) use self::calls::CallFilter;
pub(crate) use self::credentials::NamedCredential;
use self::fallbacks::Pairs;
use self::file::{File, with_defaults};
pub(crate) use self::fleet::{FleetArgs, OnOutage};
pub(crate) use self::layers::LayerArgs;
use self::places::KeyLines;
pub(crate) use self::places::Misfit;
pub(crate) use self::routes::Route;
pub(crate) use self::server::ServerArgs;
pub(crate) use self::similar::SimilarArgs;
pub use self::stop::Stop;
pub(crate) use self::upstreams::{BackupArgs, UpstreamArgs};
pub(crate) use self::values::{
    ConcurrencyArg, CountArg, Ends, Heartbeat, LogFormat, NoticesArg, Pacing, RateLimit, Resuming, SupersedeArg,
    Switch, TraceArg,
};

use self::values::Profile;
use crate::whole::FileText;

/// The version, with the commit if `GATEWAY_COMMIT` named it at build time.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let version = env!("CARGO_PKG_VERSION");
    option_env!("GATEWAY_COMMIT").map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"))
});

/// Proxies streams to slow, flaky upstreams: timeouts, retries, fallback, dedup, heartbeats.
///
/// With neither an upstream nor a route, it starts a simulated LLM provider and sends requests there.
#[derive(Clone, Debug, Parser)]
#[command(name = "buttress-gateway", version = VERSION.as_str())]
pub struct Args {
    #[command(flatten)]
    pub(crate) upstreams: UpstreamArgs,

    #[command(flatten)]
    pub(crate) server: ServerArgs,

    #[command(flatten)]
    pub(crate) callers: CallerArgs,

    #[command(flatten)]
    pub(crate) layers: LayerArgs,

    #[command(flatten)]
    pub(crate) fleet: FleetArgs,

    /// Set only in the configuration file.
    #[arg(skip)]
    pub(crate) routes: Vec<Route>,

    /// The lines of the configuration file.
    #[arg(skip)]
    pub(crate) places: KeyLines,

    /// The text of the configuration file.
    #[arg(skip)]
    text: FileText,

    /// The command line that was read.
    #[arg(skip)]
    words: Words,
}

/// A command line, which may hold a password.
#[derive(Clone, Default)]
struct Words(Vec<OsString>);

// === impl Words ===

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Words").finish_non_exhaustive()
    }
}

// === impl Args ===

impl Args {
    /// Reads the command line (its first word is the program), the environment and the configuration file.
    ///
    /// # Errors
    ///
    /// [`Stop`] has the text to print instead of starting.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, Stop> {
        let words: Vec<OsString> = args.into_iter().collect();
        let is_checked = words.iter().any(|word| word == "--check-config");
        match Self::read_words(&words) {
            Ok(args) => Ok(Self { words: Words(words), ..args }),
            Err(Stop::Wrong(lines)) if is_checked => Err(Stop::Unfit(lines)),
            Err(stop) => Err(stop),
        }
    }

    /// Reads the same command line again, with the files that it names.
    pub(crate) fn read_again(&self) -> Result<Self, Stop> {
        Self::read(self.words.0.iter().cloned())
    }

    /// Returns a line for each environment variable whose name begins like an option's, though no option has that name.
    pub(crate) fn strange_variables(&self) -> Vec<String> {
        let own = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let variables: Vec<(String, OsString)> = own.filter(|(name, _)| name.starts_with("GATEWAY_")).collect();
        // Options name variables that hold credentials.
        let words = || self.words.0.iter().chain(variables.iter().map(|(_, value)| value));
        let is_named = |name: &str| {
            let ends_with_name = |word: &str| word.split(',').any(|one| one.ends_with(name));
            words().any(|word| word.to_str().is_some_and(ends_with_name)) || self.text.contains(name)
        };
        environment::strange(&Self::command(), variables.iter().map(|(name, _)| name.clone()), is_named)
    }

    /// Whether this configuration may replace `before` without a restart. A truncated file may not.
    pub(crate) fn check_follows(&self, before: &Self) -> Result<(), String> {
        let placed = |wrong: &str| match &self.server.config {
            Some(path) => format!("{}: {wrong}", path.display()),
            None => wrong.to_owned(),
        };
        self.text.check(&before.text).map_err(placed)?;
        if self.is_simulated() && !before.is_simulated() {
            return Err(placed(
                "upstream: the configuration no longer names one; add it, or restart to use the simulated provider",
            ));
        }
        if self.server.tls_cert.is_none() && before.server.tls_cert.is_some() {
            return Err(placed(
                "tls_cert: the configuration no longer names one; add it, or restart to listen without TLS",
            ));
        }
        self.callers.check_follows(&before.callers)
    }

    /// The options whose new values need a restart.
    pub(crate) fn only_at_start(&self, new: &Self) -> Vec<&'static str> {
        let mut changed = self.server.only_at_start(&new.server);
        // `--plain` does not use Redis.
        if !new.server.plain {
            changed.extend(self.fleet.only_at_start(&new.fleet));
        }
        changed
    }

    fn read_words(words: &[OsString]) -> Result<Self, Stop> {
        let bare = Self::command().mut_args(|arg| arg.env(Resettable::Reset));
        let path = config_file(words);
        let file = match &path {
            Some(path) => File::read(path, &bare)?,
            None => File::default(),
        };
        let command = with_defaults(Self::command(), &file.settings);
        let mut matches = matches(&command, words)?;
        if let Some(profile) = matches.get_one::<Profile>("profile") {
            let command = with_defaults(Self::command(), &profile.settings());
            matches = self::matches(&with_defaults(command, &file.settings), words)?;
        }
        let name = path.map(|path| path.display().to_string()).unwrap_or_default();
        let places = KeyLines::new(name, file.lines, &matches);
        let stop = |misfit: Misfit| Stop::Wrong(places.describe(&misfit));
        let mut args = Self::of(&matches)?;
        if matches.value_source("fallback").is_none() && !file.fallbacks.is_empty() {
            args.upstreams.backups = Self::backups(&bare, file.fallbacks, &stop)?;
        }
        args.check().map_err(stop)?;
        (args.text, args.places) = (file.text, places);
        let settings = print::settings(&bare, &matches);
        args.routes = routes::routes(&args, &settings, file.routes)?;
        if args.server.print_config {
            let routes: String = args.routes.iter().map(|route| route.printed(&bare, &settings)).collect();
            return Err(Stop::Shown(print::keys(&bare, &settings, &args.upstreams.backups, "fallback") + &routes));
        }
        if args.server.plain {
            args.make_plain();
        }
        Ok(args)
    }

    /// The fallbacks of a file, given as words of a command line.
    fn backups(bare: &Command, words: Vec<OsString>, stop: &dyn Fn(Misfit) -> Stop) -> Result<Vec<BackupArgs>, Stop> {
        let words: Vec<_> = std::iter::once(bare.get_name().into()).chain(words).collect();
        let read = matches(bare, &words).and_then(|matches| Self::of(&matches));
        read.map(|args| args.upstreams.backups).map_err(|error| match error {
            Stop::Wrong(wrong) => stop(Misfit::new(&["fallback"], wrong)),
            error => error,
        })
    }

    fn of(matches: &ArgMatches) -> Result<Self, Stop> {
        let mut args = Self::from_arg_matches(matches).map_err(|error| Stop::of(&error, &Self::command()))?;
        args.upstreams.backups = Pairs::of(matches).backups(&args.upstreams).map_err(Stop::Wrong)?;
        let named = |id| matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
        match [named("caller_keys_env"), named("caller_keys_file")] {
            [false, true] => args.callers.forget_keys_of_environment(),
            [true, false] => args.callers.forget_keys_of_file(),
            _ => {}
        }
        Ok(args)
    }

    /// Refuses options that contradict each other.
    fn check(&self) -> Result<(), Misfit> {
        const CREDENTIALS: [&str; 5] = [
            "upstream_header",
            "upstream_authorization_env",
            "embeddings_header",
            "embeddings_authorization_env",
            "fallback",
        ];
        self.layers.check()?;
        if !self.upstreams.backups.is_empty() && !self.server.plain {
            self.layers.check_for_fallback()?;
        }
        self.fleet.options()?;
        match (&self.server.tls_cert, &self.server.tls_key) {
            (Some(_), None) => return Err(Misfit::new(&["tls_cert"], "--tls-cert needs --tls-key")),
            (None, Some(_)) => return Err(Misfit::new(&["tls_key"], "--tls-key needs --tls-cert")),
            _ => {}
        }
        if self.callers.has_two_places_for_keys() {
            let keys = ["caller_keys_file", "caller_keys_env"];
            return Err(Misfit::new(&keys, "--caller-keys-env and --caller-keys-file exclude each other"));
        }
        let has_own_credential = self.upstreams.has_own_credential() || !self.layers.similar.credential().is_empty();
        if has_own_credential && self.callers.keys().is_none() && !self.callers.trust_callers {
            return Err(Misfit::new(
                &CREDENTIALS,
                "the gateway's own credential would serve unauthenticated callers: set --caller-keys-env or \
                 --caller-keys-file, or --trust-callers",
            ));
        }
        Ok(())
    }

    /// The headers that carry the operator's credentials to upstreams, of all routes.
    pub(crate) fn credential_names(&self) -> Vec<HeaderName> {
        let all = self.routes.iter().map(|route| &route.args).chain([self]);
        let names: HashSet<_> = all.flat_map(|args| args.upstreams.credentials()).map(|header| header.name).collect();
        names.into_iter().collect()
    }

    /// Whether the simulated provider answers: there is neither an upstream nor a route.
    pub(crate) fn is_simulated(&self) -> bool {
        self.upstreams.upstream.is_none() && self.routes.is_empty()
    }

    /// The longest deadline of all routes; `None` if a route has none.
    pub(crate) fn longest_deadline(&self) -> Option<Duration> {
        let answers_the_rest = self.upstreams.upstream.is_some() || self.is_simulated();
        let own = answers_the_rest.then_some(self.layers.deadline.0);
        let limits = self.routes.iter().map(|route| route.args.layers.deadline.0).chain(own);
        limits.reduce(|one, other| Some(one?.max(other?))).flatten()
    }

    fn make_plain(&mut self) {
        self.upstreams.backups.clear();
        self.callers.lift_limits();
        self.layers.make_plain();
        self.fleet.redis = None;
        self.routes.iter_mut().for_each(|route| route.args.make_plain());
    }
}

fn matches(command: &Command, words: &[OsString]) -> Result<ArgMatches, Stop> {
    command.clone().try_get_matches_from(words).map_err(|error| Stop::of(&error, command))
}

/// The configuration file, which must be read before the options.
fn config_file(words: &[OsString]) -> Option<PathBuf> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    std::env::var_os("GATEWAY_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::values::{Header, SizeArg, TimeLimit};
    use super::*;
    use tower_buttress::Rate;

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
        let Args { server, upstreams, callers, layers: args, fleet, .. } = read(&[]).unwrap();
        assert!(fleet.redis.is_none());
        assert_eq!(server.listen, "127.0.0.1:8080");
        assert!(upstreams.upstream.is_none() && upstreams.backups.is_empty());
        let limits = [callers.caller_requests, callers.caller_tokens, args.pace_requests, args.pace_tokens];
        assert_eq!((limits, callers.caller_concurrency), ([RateLimit(None); 4], CountArg(None)));
        let limits = [args.connect_timeout, args.first_byte_timeout, args.idle_timeout, args.deadline];
        assert_eq!(limits.map(|limit| limit.to_string()), ["5s", "30s", "15s", "3m"]);
        assert_eq!(args.deadline_header.to_string(), "x-deadline-ms");
        assert_eq!(args.deadline_reserve.to_string(), "50ms");
        assert_eq!(args.attempts.get(), 3);
        let waits = [args.backoff_base, args.backoff_cap, args.max_retry_after];
        assert_eq!(waits.map(|wait| wait.to_string()), ["500ms", "20s", "1m"]);
        assert!(args.retry_non_idempotent);
        let times = [args.heartbeat, args.heartbeat_before_headers, args.heartbeat_max_silence];
        assert_eq!(times.map(|time| time.to_string()), ["15s", "15s", "off"]);
        assert_eq!((args.heartbeat_frame, args.error_events), (Heartbeat::ByDialect, true));
        assert_eq!(args.notices, NoticesArg::Off);
        assert_eq!((args.dedup, args.dedup_tenant_header), (Switch::On, None));
        assert_eq!([args.dedup_window, args.dedup_grace].map(|limit| limit.to_string()), ["1m", "5s"]);
        assert_eq!((args.breaker, args.breaker_failure_ratio), (Switch::On, 0.7));
        assert_eq!((args.breaker_min_calls.get(), args.breaker_consecutive.get()), (20, 5));
        let times = [args.breaker_window, args.breaker_open, args.breaker_open_max];
        assert_eq!(times, [60, 5, 15].map(Duration::from_secs));
        assert_eq!((args.guard, args.missing_end, args.hold), (Switch::On, Ends::Auto, SizeArg(None)));
        let times = [args.answer_timeout, args.first_content_timeout];
        assert_eq!(times.map(|time| time.to_string()), ["1m 50s", "1m 30s"]);
        assert_eq!((args.pace, args.concurrency), (Pacing::Pause, ConcurrencyArg::Off));
        assert_eq!((args.queue, args.queue_wait), (1024, Duration::from_secs(30)));
        assert_eq!((args.resumable, args.respond_async), (Switch::Off, Switch::Off));
        assert_eq!(args.resume_window, Duration::from_secs(300));
    }

    #[test]
    fn a_fallback_that_cannot_work_is_a_one_line_error() {
        assert!(line(&["--attempts", "0"]).starts_with("invalid value '0' for '--attempts <N>'"));
        assert_eq!(
            line(&["--fallback-model", "small"]),
            "the following required arguments were not provided: --fallback <URL>"
        );
        let unset = ["--fallback", "http://h", "--fallback-authorization-env", "GATEWAY_TEST_NO_SUCH_VARIABLE"];
        assert_eq!(
            line(&unset),
            "invalid value '***' for '--fallback-authorization-env <VAR>': no environment variable of this name is set"
        );
        // A credential in place of a variable's name.
        for secret in [
            "sk-s3cret",
            "s3cret_s3cret",
            "AKIAS3CRET",
            "SK_S3CRET_1",
            "x-api-key=SK_S3CRET_1",
            "Bearer S3CRET_S3CRET",
            "x-api-key=sk_s3cret",
        ] {
            for option in ["--upstream-header", "--upstream-authorization-env"] {
                let line = line(&[option, secret]);
                assert!(line.contains("'***'") && !line.to_lowercase().contains("s3cret"), "{line}");
            }
        }
    }

    #[test]
    fn an_unknown_option_is_told_the_nearest_one() {
        assert_eq!(line(&["--upstraem", "http://h"]), "unexpected argument '--upstraem' found; is it --upstream?");
        assert_eq!(line(&["--zzz"]), "unexpected argument '--zzz' found");
    }

    #[test]
    fn a_route_whose_name_is_not_one_is_told_the_rule() {
        let path = std::env::temp_dir().join(format!("gateway-{}-name.toml", std::process::id()));
        std::fs::write(&path, "[[route]]\nname = \"a b/c\"\nupstream = \"http://h\"\n").unwrap();
        let line = line(&["--config", path.to_str().unwrap()]);
        assert!(line.ends_with(":2: name: a name has 1 to 64 letters, digits, dots, dashes or underscores"), "{line}");
    }

    #[test]
    fn off_disables_every_limit() {
        let off = ["--connect-timeout", "--first-byte-timeout", "--idle-timeout", "--deadline", "--deadline-reserve"];
        let args: Vec<_> = off.iter().flat_map(|name| [*name, "off"]).chain(["--deadline-header", "off"]).collect();
        let args = read(&args).unwrap().layers;
        let limits = [args.connect_timeout, args.first_byte_timeout, args.idle_timeout, args.deadline];
        assert_eq!(limits, [TimeLimit(None); 4]);
        assert_eq!(args.deadline_reserve, TimeLimit(None));
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
            "invalid value '0s' for '--deadline <TIME|off>': must be longer than 0; for no limit use off"
        );
        assert!(line(&["--upstream", "ftp://x"]).starts_with("invalid value 'ftp://x' for '--upstream <URL>': "));
        assert_eq!(line(&["--verbose"]), "unexpected argument '--verbose' found; is it --version?");
        assert_eq!(
            line(&["--dedup", "maybe"]),
            "invalid value 'maybe' for '--dedup <on|off>' [possible values: on, off]"
        );
    }

    #[test]
    fn rates_sizes_and_numbers_are_read() {
        let args = read(&["--pace-requests", "500/1m", "--hold", "256KiB", "--concurrency", "auto"]).unwrap().layers;
        assert_eq!(args.pace_requests, RateLimit(Some(Rate::per_minute(500))));
        assert_eq!((args.hold, args.concurrency), (SizeArg(Some(256 * 1024)), ConcurrencyArg::Auto));
        let args = read(&["--pace-tokens", "OFF", "--hold", "7", "--concurrency", "20"]).unwrap().layers;
        assert_eq!((args.pace_tokens, args.hold), (RateLimit(None), SizeArg(Some(7))));
        assert_eq!(args.concurrency, ConcurrencyArg::Fixed(20.try_into().unwrap()));
        for (option, wrong) in [
            ("--pace-requests", "500"),
            ("--pace-requests", "0/1m"),
            ("--pace-requests", "5/0s"),
            ("--caller-tokens", "many/1m"),
            ("--caller-concurrency", "0"),
            ("--concurrency", "0"),
            ("--hold", "1GB"),
            ("--hold", "0"),
        ] {
            assert!(line(&[option, wrong]).starts_with(&format!("invalid value '{wrong}' for '{option} <")));
        }
        assert_eq!(
            line(&["--pace-requests", "500"]),
            "invalid value '500' for '--pace-requests <N/TIME|off>': not a rate such as 500/1m, and not off"
        );
    }

    #[test]
    fn an_option_without_what_it_needs_is_a_one_line_error() {
        assert_eq!(line(&["--guard", "off", "--hold", "1MiB"]), "--hold needs --guard on");
        assert_eq!(line(&["--dedup", "off", "--resumable", "on"]), "--resumable needs --dedup on");
        assert_eq!(line(&["--respond-async", "on"]), "--respond-async needs --resumable on");
        assert!(line(&["--supersede-settle", "300ms"]).starts_with("--supersede-settle needs --supersede-header"));
        let file = "/nowhere/texts.json";
        assert!(line(&["--last-good-template", file]).contains("cannot be read"));
    }

    #[test]
    fn a_fallback_that_would_never_be_reached_is_an_error() {
        let fallback = ["--fallback", "http://h"];
        let with = |limits: &[&str]| read(&[&fallback, limits].concat());
        let wrong = |limits: &[&str]| match with(limits) {
            Err(Stop::Wrong(line)) => line,
            other => panic!("{limits:?}: {other:?}"),
        };
        assert_eq!(
            wrong(&["--deadline", "20s"]),
            "--first-byte-timeout 30s is not shorter than --deadline 20s: a call that hangs would not reach its fallback"
        );
        assert!(wrong(&["--deadline", "30s"]).starts_with("--first-byte-timeout 30s "));
        assert!(wrong(&["--deadline", "1m"]).starts_with("--answer-timeout 1m 50s "));
        let fit = ["--deadline", "20s", "--first-byte-timeout", "7s", "--answer-timeout", "12s"];
        assert!(with(&fit).is_ok() && with(&[]).is_ok() && with(&["--profile", "fast"]).is_ok());
        assert!(with(&["--deadline", "off", "--answer-timeout", "10m"]).is_ok());
        assert!(read(&["--deadline", "20s"]).is_ok(), "there is no fallback that a call could miss");
    }

    #[test]
    fn a_name_of_the_gateway_is_a_name_only() {
        for name in ["gateway:8080", "https://gateway", "gateway/", "me@gateway", "", "a b", "*.example"] {
            let line = line(&["--host", name]);
            assert!(line.ends_with("not a name such as gateway.example, without scheme and port"), "{name}: {line}");
        }
        assert!(read(&["--host", "gateway", "Gateway.example", "10.0.0.1", "[2001:db8::1]", "2001:db8::1"]).is_ok());
    }

    #[test]
    fn plain_leaves_nothing_but_the_deadline() {
        let args = read(&["--plain", "--fallback", "http://h", "--hold", "1MiB", "--deadline", "9s"]).unwrap();
        assert!(args.upstreams.backups.is_empty());
        let LayerArgs { guard, dedup, breaker, pace, last_good, .. } = args.layers;
        assert_eq!((guard, dedup, breaker, last_good), (Switch::Off, Switch::Off, Switch::Off, Switch::Off));
        assert_eq!((pace, args.layers.attempts.get(), args.layers.hold), (Pacing::Off, 1, SizeArg(None)));
        assert_eq!((args.layers.idle_timeout, args.layers.deadline.to_string()), (TimeLimit(None), "9s".to_owned()));
    }

    #[test]
    fn help_is_printed_and_not_an_error() {
        assert!(matches!(read(&["--help"]), Err(Stop::Shown(text)) if text.contains("GATEWAY_IDLE_TIMEOUT")));
    }
}
