//! The gateway's own sockets.

use std::path::PathBuf;

use super::headings::{SERVER, TRUST};
use super::values::{LogFormat, Size, TimeLimit, Trace, listen_address};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// TOML file with options as keys (`idle_timeout = "20s"`). The command line and the environment win over it.
    #[arg(long, env = "GATEWAY_CONFIG", value_name = "FILE", help_heading = SERVER)]
    pub(crate) config: Option<PathBuf>,

    /// Say what is wrong with the configuration, and do not start. Exits with 0 where nothing is, else with 1.
    #[arg(long, help_heading = SERVER)]
    pub(crate) check_config: bool,

    /// Print the configuration that is in force, defaults included, as a configuration file, and do not start.
    #[arg(long, help_heading = SERVER)]
    pub(crate) print_config: bool,

    /// Address to listen on, for HTTP/1.1 and HTTP/2.
    #[arg(
        long, env = "GATEWAY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = listen_address,
        help_heading = SERVER
    )]
    pub(crate) listen: String,

    /// PEM file with the gateway's certificate chain. With it, the listener speaks TLS only.
    #[arg(long, env = "GATEWAY_TLS_CERT", value_name = "FILE", help_heading = SERVER)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// PEM file with the private key of that certificate.
    #[arg(long, env = "GATEWAY_TLS_KEY", value_name = "FILE", help_heading = SERVER)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Address of a second listener for the gateway's own pages under `/-/`. Without it they are on the first, and on an
    /// address that is not loopback only `healthz` and `readyz`.
    #[arg(long, env = "GATEWAY_ADMIN", value_name = "ADDR", value_parser = listen_address, help_heading = SERVER)]
    pub(crate) admin: Option<String>,

    /// PEM file with certificates that upstreams may show, beside the roots of the system.
    #[arg(long, env = "GATEWAY_UPSTREAM_CA", value_name = "FILE", help_heading = TRUST)]
    pub(crate) upstream_ca: Option<PathBuf>,

    /// Longest time in which a client reads nothing of what is sent to it; then its connection is closed.
    #[arg(long, env = "GATEWAY_WRITE_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = SERVER)]
    pub(crate) write_timeout: TimeLimit,

    /// Longest time for which open streams continue after SIGTERM or SIGINT.
    #[arg(long, env = "GATEWAY_DRAIN_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = SERVER)]
    pub(crate) drain_timeout: TimeLimit,

    /// What is held for calls under way, of all callers together: requests that may have to be sent again, and answers that are
    /// read. When it is spent, requests and answers pass as they come. A tenant may hold a quarter of it.
    #[arg(long, env = "GATEWAY_MEMORY", value_name = "BYTES|off", default_value = "512MiB", help_heading = SERVER)]
    pub(crate) memory: Size,

    /// Form of log lines, on stderr: one for each call, and one for what went wrong. `RUST_LOG` chooses what is logged.
    #[arg(long, env = "GATEWAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text", help_heading = SERVER)]
    pub(crate) log_format: LogFormat,

    /// What the upstream gets where a caller sends `traceparent` (W3C Trace Context). `pass`: the same. `attempts`: each attempt is a
    /// span of its own, whose id is at the upstream and in the log lines; those must come to where the traces are gathered.
    #[arg(long, env = "GATEWAY_TRACE", value_name = "pass|attempts", default_value = "pass", help_heading = SERVER)]
    pub(crate) trace: Trace,

    /// No layer but the deadline, whatever the other options say: to find out whether the gateway is at fault. Callers are
    /// authenticated as ever; no fallback is asked.
    #[arg(long, env = "GATEWAY_PLAIN", help_heading = SERVER)]
    pub(crate) plain: bool,
}

// === impl ServerArgs ===

impl ServerArgs {
    /// The options whose values in `new` wait for a new start.
    pub(super) fn only_at_start(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("listen", self.listen != new.listen),
            ("admin", self.admin != new.admin),
            ("log_format", self.log_format != new.log_format),
            ("write_timeout", self.write_timeout != new.write_timeout),
            ("drain_timeout", self.drain_timeout != new.drain_timeout),
            ("memory", self.memory != new.memory),
        ];
        changed.into_iter().filter_map(|(name, has_changed)| has_changed.then_some(name)).collect()
    }
}
