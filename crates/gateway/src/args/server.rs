//! Options of the process: configuration, listeners, logs.

use std::path::PathBuf;

use super::headings::{SERVER, TRUST};
use super::values::{LogFormat, SizeArg, TimeLimit, TraceArg, listen_address};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Read options from this TOML file, as keys (`idle_timeout = "20s"`).
    ///
    /// The command line and the environment take precedence.
    #[arg(long, env = "GATEWAY_CONFIG", value_name = "FILE", help_heading = SERVER)]
    pub(crate) config: Option<PathBuf>,

    /// Check the configuration and exit: 0 if valid, else 1.
    #[arg(long, help_heading = SERVER)]
    pub(crate) check_config: bool,

    /// Print the effective configuration as a TOML file and exit.
    ///
    /// Includes defaults. Secrets are masked.
    #[arg(long, help_heading = SERVER)]
    pub(crate) print_config: bool,

    /// Listen on this address, for HTTP/1.1 and HTTP/2.
    #[arg(
        long, env = "GATEWAY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = listen_address,
        help_heading = SERVER
    )]
    pub(crate) listen: String,

    /// Read the gateway's certificate chain from this PEM file.
    ///
    /// The main listener then accepts only TLS.
    #[arg(long, env = "GATEWAY_TLS_CERT", value_name = "FILE", help_heading = SERVER)]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Read the private key of that certificate from this PEM file.
    #[arg(long, env = "GATEWAY_TLS_KEY", value_name = "FILE", help_heading = SERVER)]
    pub(crate) tls_key: Option<PathBuf>,

    /// Serve the gateway's own pages (`/-/`) on this second address.
    ///
    /// Without it they are on the main listener. If that address is not loopback, only `healthz`, `readyz` and
    /// `answers` are served there.
    #[arg(long, env = "GATEWAY_ADMIN", value_name = "ADDR", value_parser = listen_address, help_heading = SERVER)]
    pub(crate) admin: Option<String>,

    /// Trust the CA certificates in this PEM file, beside the system's.
    #[arg(long, env = "GATEWAY_UPSTREAM_CA", value_name = "FILE", help_heading = TRUST)]
    pub(crate) upstream_ca: Option<PathBuf>,

    /// Close a connection whose client reads nothing for this long.
    #[arg(long, env = "GATEWAY_WRITE_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = SERVER)]
    pub(crate) write_timeout: TimeLimit,

    /// Let open streams continue this long after SIGTERM or SIGINT.
    #[arg(long, env = "GATEWAY_DRAIN_TIMEOUT", value_name = "TIME|off", default_value = "30s", help_heading = SERVER)]
    pub(crate) drain_timeout: TimeLimit,

    /// Limit the memory for bodies of calls in flight.
    ///
    /// Counts, over all callers, the requests kept for a retry and the answers that a layer buffers. At the limit,
    /// bodies pass through unbuffered, and --hold refuses answers. One tenant may hold a quarter.
    #[arg(long, env = "GATEWAY_MEMORY", value_name = "BYTES|off", default_value = "512MiB", help_heading = SERVER)]
    pub(crate) memory: SizeArg,

    /// Choose the form of log lines on stderr.
    ///
    /// The log has one line per call and one per fault. `RUST_LOG` chooses what is logged.
    #[arg(long, env = "GATEWAY_LOG_FORMAT", value_name = "FORMAT", default_value = "text", help_heading = SERVER)]
    pub(crate) log_format: LogFormat,

    /// Choose what the upstream gets as `traceparent` (W3C Trace Context).
    ///
    /// `pass`: the caller's header. `attempts`: a span of its own for each attempt. The span's id is in the log lines;
    /// your tracing backend must read them, or the span has no record.
    #[arg(long, env = "GATEWAY_TRACE", value_name = "pass|attempts", default_value = "pass", help_heading = SERVER)]
    pub(crate) trace: TraceArg,

    /// Disable all layers but the deadline, whatever other options say.
    ///
    /// For finding out whether the gateway causes a fault. Callers are still authenticated; no fallback is tried.
    #[arg(long, env = "GATEWAY_PLAIN", help_heading = SERVER)]
    pub(crate) plain: bool,
}

// === impl ServerArgs ===

impl ServerArgs {
    /// The options whose new values need a restart.
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
