//! The configuration file: what is accepted, rejected and printed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tower_buttress_gateway::{Args, Gateway, Stop};

/// A file, removed when dropped.
pub(super) struct Config(PathBuf);

impl Config {
    pub(super) fn new(text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("buttress-{}-{number}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(super) fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn read(&self, options: &[&str]) -> Result<Args, Stop> {
        let words = ["gateway", "--config", self.path()];
        Args::read(words.iter().chain(options).map(Into::into))
    }

    fn printed(&self, options: &[&str]) -> String {
        let options: Vec<_> = options.iter().copied().chain(["--print-config"]).collect();
        match self.read(&options) {
            Err(Stop::Shown(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    /// The errors, without the file's name.
    fn wrong(&self, options: &[&str]) -> Vec<String> {
        match self.read(options) {
            Err(Stop::Wrong(lines) | Stop::Unfit(lines)) => {
                lines.lines().map(|line| line.replace(self.path(), "FILE")).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[track_caller]
fn has(printed: &str, lines: &[&str]) {
    for line in lines {
        assert!(printed.lines().any(|printed| printed == *line), "{line} is not in:\n{printed}");
    }
}

#[test]
fn keys_are_options_and_the_command_line_wins() {
    let config = Config::new(
        "upstream = \"http://a.example\"\nidle_timeout = \"20s\"\nattempts = 2\nguard = false\ntrust_callers = true\n\
         allow_origin = [\"https://a.example\", \"https://b.example\"]\nbreaker_failure_ratio = 0.5\n",
    );
    let printed = config.printed(&["--idle-timeout", "7s"]);
    has(
        &printed,
        &[
            "upstream = \"http://a.example\"",
            "idle_timeout = \"7s\"",
            "attempts = 2",
            "guard = \"off\"",
            "trust_callers = true",
            "allow_origin = [\"https://a.example\", \"https://b.example\"]",
            "breaker_failure_ratio = \"0.5\"",
            // Set by neither.
            "connect_timeout = \"5s\"",
        ],
    );
}

#[test]
fn what_is_printed_reads_as_the_same() {
    let config = Config::new(
        "trust_callers = true\nprofile = \"deep\"\nfallback = [\n  \"http://a.example\",\n  \
         { url = \"http://b.example\", model = \"small\", header = \"x-api-key=CARGO_PKG_NAME\" },\n]\n",
    );
    let printed = config.printed(&[]);
    has(&printed, &["url = \"http://a.example\"", "model = \"small\"", "header = [\"x-api-key=CARGO_PKG_NAME\"]"]);
    assert!(!printed.contains("tower-buttress-gateway"), "a credential:\n{printed}");
    assert_eq!(Config::new(&printed).printed(&[]), printed);
}

#[test]
fn a_profile_is_the_limits_that_nothing_else_sets() {
    let config = Config::new("profile = \"extended-thinking\"\nidle_timeout = \"1m\"\n");
    let printed = config.printed(&["--deadline", "10m"]);
    let limits = [
        "first_byte_timeout = \"1m 30s\"",
        "answer_timeout = \"3m 20s\"",
        "idle_timeout = \"1m\"",
        "deadline = \"10m\"",
    ];
    has(&printed, &limits);
}

#[test]
fn errors_show_no_credential() {
    let config = Config::new("upstream = \"ftp://u:s3cret@host\"\nupstream_header = [\"x-api-key=sk-s3cret\"]\n");
    let wrong = config.wrong(&[]);
    assert!(wrong.len() == 2 && wrong[0].starts_with("FILE:1: upstream: invalid value '***' for "), "{wrong:?}");
    assert!(wrong[1].starts_with("FILE:2: upstream_header: "), "{wrong:?}");
    assert!(!wrong.concat().contains("s3cret"), "{wrong:?}");
    let config =
        Config::new("embeddings = \"ftp://u:s3cret@h\"\nembeddings_authorization_env = \"Bearer sk-s3cret\"\n");
    let wrong = config.wrong(&[]);
    assert!(wrong.len() == 2 && !wrong.concat().contains("s3cret"), "{wrong:?}");
}

#[test]
fn errors_name_file_line_and_key() {
    let config = Config::new(
        "idle_timeout = \"soon\"\n\n# of none\nidle_timeouts = \"1s\"\ntrust_callers = \"yes\"\nupstream = [\"a\"]\n\
         config = \"x.toml\"\n[[fallback]]\nmodel = \"m\"\nweigth = 3\n",
    );
    assert_eq!(
        config.wrong(&[]),
        [
            "FILE:1: idle_timeout: invalid value 'soon' for '--idle-timeout <TIME|off>': not a time such as 30s, 50ms or \
             2m, and not off",
            "FILE:4: idle_timeouts: unknown key",
            "FILE:5: trust_callers: not true or false",
            "FILE:6: upstream: not a value but array",
            "FILE:7: config: unknown key",
            "FILE:10: fallback.weigth: unknown key",
            "FILE:8: fallback.url: a fallback needs a URL",
        ]
    );
    let listen = "admin = \"http://127.0.0.1:9090\"\nlisten = \"8080\"\n";
    let not = "not an address such as 127.0.0.1:8080 or [::]:8080";
    assert_eq!(
        Config::new(listen).wrong(&["--check-config"]),
        [
            format!("FILE:1: admin: invalid value 'http://127.0.0.1:9090' for '--admin <ADDR>': {not}"),
            format!("FILE:2: listen: invalid value '8080' for '--listen <ADDR>': {not}"),
        ]
    );
    let broken = Config::new("deadline = \"1s\"\ndeadline = \"2s\"\n").wrong(&[]);
    assert!(broken.len() == 1 && broken[0].starts_with("FILE:2: "), "{broken:?}");
}

#[test]
fn what_cannot_work_together_is_found_in_a_file_too() {
    let half = Config::new("tls_cert = \"/nowhere\"\n").wrong(&[]);
    assert_eq!(half, ["FILE:1: tls_cert: --tls-cert needs --tls-key"]);
    let own = Config::new("upstream_header = \"x-api-key=CARGO_PKG_NAME\"\n").wrong(&[]);
    let wrong = "FILE:1: upstream_header: the gateway's own credential would serve unauthenticated callers";
    assert!(own.len() == 1 && own[0].starts_with(wrong), "{own:?}");
    for (text, wrong) in [
        ("\nguard = false\nhold = 1\n", "FILE:3: hold: --hold needs --guard on"),
        ("breaker_open = \"1h\"\n", "FILE:1: breaker_open: --breaker-open must not be longer than --breaker-open-max"),
        ("\nredis_prefix = \"a\"\n", "FILE:2: redis_prefix: --redis-prefix needs --redis URL"),
        ("embeddings = \"http://e\"\n", "FILE:1: embeddings: --embeddings needs --similar RATIO"),
        (
            "[[fallback]]\nurl = \"http://a\"\nweight = 1\n[[fallback]]\nurl = \"http://b\"\n",
            "FILE:1: fallback: --fallback-weight: give one to all fallbacks or to none; http://b has none",
        ),
    ] {
        assert_eq!(Config::new(text).wrong(&[]), [wrong], "{text}");
    }
    // The file has no line for the command line's options.
    let both = Config::new("hold = 1\n");
    assert_eq!(both.wrong(&["--guard", "off"]), ["FILE:1: hold: --hold needs --guard on"]);
    let wrong = both.wrong(&["--guard", "off", "--hold", "2"]);
    assert_eq!(wrong, ["--hold needs --guard on"]);
}

#[test]
fn files_that_cannot_be_read_are_named_with_their_keys() {
    let config = |text: &str| {
        let config = Config::new(text);
        let args = config.read(&[]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Gateway::new(args)).unwrap_err().replace(config.path(), "FILE")
    };
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let wrong = config("\nupstream_ca = \"/nowhere\"\n");
    assert!(
        wrong.starts_with("FILE:2: upstream_ca: --upstream-ca: no certificates can be read from /nowhere"),
        "{wrong}"
    );
    let wrong = config(&format!("tls_key = \"{manifest}\"\ntls_cert = \"/nowhere\"\n"));
    assert!(wrong.starts_with("FILE:2: tls_cert: --tls-cert /nowhere: "), "{wrong}");
    let wrong = config(&format!("tls_key = \"/nowhere\"\ntls_cert = \"{manifest}\"\n"));
    assert!(wrong.starts_with("FILE:1: tls_key: --tls-key /nowhere: "), "{wrong}");
}

/// An example of the README.
fn example(nth: usize) -> &'static str {
    let manual = include_str!("../../README.md");
    manual.split("```toml\n").nth(nth).and_then(|rest| rest.split("```").next()).unwrap()
}

#[test]
fn the_example_of_the_manual_is_read() {
    let example = example(1);
    // The example's variables and files do not exist here.
    let example = example.replace("UPSTREAM_AUTHORIZATION", "CARGO_PKG_NAME").replace("EU_KEY", "CARGO_PKG_NAME");
    let example = example.replace("caller_keys_file = \"/etc/gateway/keys\"", "trust_callers = true");
    let config = Config::new(&example);
    let printed = config.printed(&[]);
    assert!(config.read(&[]).is_ok(), "{printed}");
    has(&printed, &["profile = \"deep\"", "idle_timeout = \"20s\""]);
}

#[test]
fn the_routes_of_the_manual_are_read_and_printed() {
    let config = Config::new(example(2));
    let printed = config.printed(&[]);
    let routes = printed.split("[[route]]\n").skip(1).map(str::trim).collect::<Vec<_>>();
    has(routes[0], &["name = \"thinking\"", "path = \"/v1/\"", "model = \"deep-*\"", "attempts = 2"]);
    // The route's profile overrides the options above.
    has(routes[0], &["idle_timeout = \"3m\"", "deadline = \"5m\""]);
    assert!(!routes[0].contains("upstream ="), "inherited:\n{}", routes[0]);
    has(routes[1], &["upstream = \"http://127.0.0.1:9000\"", "concurrency = 4", "[[route.fallback]]"]);
    assert_eq!(Config::new(&printed).printed(&[]), printed);
}

#[test]
fn another_upstream_gets_no_credential_of_this_one() {
    let config = Config::new(
        "upstream = \"http://a.example\"\nupstream_header = \"x-api-key=CARGO_PKG_NAME\"\ntrust_callers = true\n\
         [[fallback]]\nurl = \"http://b.example\"\n[[route]]\nname = \"same\"\nattempts = 1\n\
         [[route]]\nname = \"other\"\nupstream = \"http://c.example\"\n",
    );
    let shown = format!("{:?}", config.read(&[]).unwrap());
    // For all calls, and in the route of the same upstream.
    assert_eq!(shown.matches("variable: \"CARGO_PKG_NAME\"").count(), 2, "{shown}");
    assert_eq!(shown.matches("b.example").count(), 2, "{shown}");
    let config = Config::new(
        "trust_callers = true\nlast_good = true\nsimilar = 0.9\nembeddings = \"https://a.example\"\n\
         embeddings_model = \"m\"\nembeddings_header = \"x-api-key=CARGO_PKG_NAME\"\n\
         embeddings_authorization_env = \"CARGO_PKG_NAME\"\nupstream = \"http://b.example\"\n\
         [[route]]\nname = \"same\"\nattempts = 1\n\
         [[route]]\nname = \"other\"\nembeddings = \"http://10.0.0.6\"\n",
    );
    let shown = format!("{:?}", config.read(&[]).unwrap());
    assert_eq!(shown.matches("variable: \"CARGO_PKG_NAME\"").count(), 4, "{shown}");
}

#[test]
fn a_printed_route_has_the_credentials_and_fallbacks_that_it_had() {
    let config = Config::new(
        "upstream = \"http://a.example\"\nupstream_header = \"x-api-key=CARGO_PKG_NAME\"\ntrust_callers = true\n\
         [[fallback]]\nurl = \"http://b.example\"\n\
         [[route]]\nname = \"callers-pay\"\nupstream = \"http://a.example\"\n\
         [[route]]\nname = \"as-above\"\nupstream = \"http://a.example\"\nupstream_header = \"x-api-key=CARGO_PKG_NAME\"\n\
         [[route]]\nname = \"alone\"\nfallback = []\n",
    );
    let printed = config.printed(&[]);
    for config in [&config, &Config::new(&printed)] {
        let shown = format!("{:?}", config.read(&[]).unwrap());
        assert_eq!(shown.matches("variable: \"CARGO_PKG_NAME\"").count(), 3, "{printed}\n{shown}");
        // No route has the fallback.
        assert_eq!(shown.matches("BackupArgs {").count(), 1, "{printed}\n{shown}");
    }
    assert_eq!(Config::new(&printed).printed(&[]), printed);
    has(printed.split("name = \"alone\"").nth(1).unwrap(), &["fallback = []"]);
}

#[test]
fn errors_of_routes_name_file_line_and_key() {
    let config = Config::new(
        "[[route]]\nname = \"a b\"\npath = \"v1\"\n[[route]]\nlisten = \"127.0.0.1:1\"\nidle = \"1s\"\n\
         [[route]]\nname = \"c\"\n[[route]]\nname = \"c\"\nidle_timeout = 3\n",
    );
    assert_eq!(
        config.wrong(&[]),
        [
            "FILE:2: name: a name has 1 to 64 letters, digits, dots, dashes or underscores",
            "FILE:3: path: not a path prefix such as /v1/",
            "FILE:5: listen: this option applies to all routes: move it above the first [[route]]",
            "FILE:6: idle: unknown key",
            "FILE:4: route.name: a route needs a name: its state is kept by name",
            "FILE:11: idle_timeout: invalid value '3' for '--idle-timeout <TIME|off>': not a time such as 30s, 50ms or 2m, \
             and not off",
            "FILE:9: route.name: another route has this name",
        ]
    );
    let alone = Config::new("[[route]]\nname = \"c\"\n").wrong(&[]);
    assert_eq!(alone, ["FILE:1: route c: upstream: this route has none; set it here or above all routes"]);
    let pair = Config::new("[[route]]\nname = \"c\"\nupstream = \"http://h\"\nguard = false\nhold = 1\n").wrong(&[]);
    assert_eq!(pair, ["FILE:5: route c: hold: --hold needs --guard on"]);
    let above = Config::new("hold = 1\nupstream = \"http://h\"\n[[route]]\nname = \"c\"\nguard = false\n").wrong(&[]);
    assert_eq!(above, ["FILE:5: route c: guard: --hold needs --guard on"]);
    let ratio =
        "upstream = \"http://h\"\n[[route]]\nname = \"c\"\n[[route]]\nname = \"d\"\nbreaker_failure_ratio = 2\n";
    let wrong = "FILE:6: route d: breaker_failure_ratio: --breaker-failure-ratio must lie above 0 and at or below 1";
    assert_eq!(Config::new(ratio).wrong(&[]), [wrong]);
}
