//! Options that authenticate and limit callers.

use clap::ArgAction::Append;

use super::credentials::{keys_in_file, keys_in_variable};
use super::headings::CALLERS;
use super::values::{CountArg, RateLimit, host_name};
use crate::callers::{Keys, Network, Origin};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CallerArgs {
    /// Require caller keys; read them from this environment variable.
    ///
    /// One `name:key` per line. A caller presents its key in `Authorization: Bearer` or `x-api-key`; any other request
    /// gets 401. The name is the caller's tenant.
    #[arg(
        long, env = "GATEWAY_CALLER_KEYS_ENV", value_name = "VAR", value_parser = keys_in_variable,
        conflicts_with = "caller_keys_file", help_heading = CALLERS
    )]
    caller_keys_env: Option<Keys>,

    /// Require caller keys; read them from this file.
    ///
    /// One `name:key` per line, as for --caller-keys-env. On SIGHUP the gateway reads the file again.
    #[arg(
        long, env = "GATEWAY_CALLER_KEYS_FILE", value_name = "FILE", value_parser = keys_in_file, help_heading = CALLERS
    )]
    caller_keys_file: Option<Keys>,

    /// Serve callers without keys on the operator's credentials.
    ///
    /// Required if the gateway has a credential for an upstream, a fallback or embeddings, but no caller keys.
    #[arg(long, env = "GATEWAY_TRUST_CALLERS", help_heading = CALLERS)]
    pub(crate) trust_callers: bool,

    /// Allow web pages of this site to call, as `https://app.example`.
    ///
    /// `*` allows all sites. May be repeated. Without caller keys, pages of other sites get 403.
    #[arg(
        long, env = "GATEWAY_ALLOW_ORIGIN", value_name = "ORIGIN", action = Append, value_delimiter = ',',
        num_args = 1.., help_heading = CALLERS
    )]
    pub(crate) allow_origin: Vec<Origin>,

    /// Accept this `Host` beside `localhost` and IP addresses.
    ///
    /// May be repeated. Requests with another `Host` get 403 below `/-/`, except for `healthz` and `readyz`. Without
    /// caller keys they get 403 on every path.
    #[arg(
        long, env = "GATEWAY_HOST", value_name = "NAME", action = Append, value_delimiter = ',', num_args = 1..,
        value_parser = host_name, help_heading = CALLERS
    )]
    pub(crate) host: Vec<String>,

    /// Trust the forwarding headers of proxies in this network.
    ///
    /// A network such as `10.0.0.0/8`. May be repeated. The gateway passes on `Forwarded`, `X-Forwarded-*`, `X-Real-IP` and
    /// all other fields in which these proxies tell of a caller. It removes or replaces those of other peers.
    #[arg(
        long, env = "GATEWAY_TRUSTED_PROXIES", value_name = "CIDR", action = Append, value_delimiter = ',',
        num_args = 1.., help_heading = CALLERS
    )]
    pub(crate) trusted_proxies: Vec<Network>,

    /// Limit the requests of each caller, as `120/1m`.
    ///
    /// Callers are told apart by the names of their keys, else by their credentials. Requests beyond the limit get 429.
    #[arg(
        long, env = "GATEWAY_CALLER_REQUESTS", value_name = "N/TIME|off", default_value = "off", help_heading = CALLERS
    )]
    pub(crate) caller_requests: RateLimit,

    /// Limit the tokens of each caller, as `50000/1m`.
    ///
    /// Counts the tokens of prompts and answers. Requests beyond the limit get 429.
    #[arg(
        long, env = "GATEWAY_CALLER_TOKENS", value_name = "N/TIME|off", default_value = "off", help_heading = CALLERS
    )]
    pub(crate) caller_tokens: RateLimit,

    /// Limit the concurrent calls of each caller.
    ///
    /// A call counts until its answer ends. Each caller may have as many WebSockets in addition. Requests beyond the
    /// limit get 429.
    #[arg(long, env = "GATEWAY_CALLER_CONCURRENCY", value_name = "N|off", default_value = "off", help_heading = CALLERS)]
    pub(crate) caller_concurrency: CountArg,
}

// === impl CallerArgs ===

impl CallerArgs {
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.caller_keys_env.as_ref().or(self.caller_keys_file.as_ref())
    }

    /// Whether these may replace `before` without a restart. Dropping the keys would let anyone call.
    pub(super) fn check_follows(&self, before: &Self) -> Result<(), String> {
        if self.keys().is_none() && before.keys().is_some() {
            return Err(
                "the configuration no longer names caller keys; add them, or restart to serve callers without keys"
                    .to_owned(),
            );
        }
        match (&self.caller_keys_file, &before.caller_keys_file) {
            (Some(keys), Some(before)) => {
                keys.check_follows(before).map_err(|wrong| format!("caller_keys_file: {wrong}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn has_two_places_for_keys(&self) -> bool {
        self.caller_keys_env.is_some() && self.caller_keys_file.is_some()
    }

    /// Drops the variable that the configuration file names, when the command line names a file.
    pub(super) fn forget_keys_of_environment(&mut self) {
        self.caller_keys_env = None;
    }

    /// Drops the file, when the command line names a variable.
    pub(super) fn forget_keys_of_file(&mut self) {
        self.caller_keys_file = None;
    }

    pub(super) fn lift_limits(&mut self) {
        self.caller_requests = RateLimit(None);
        self.caller_tokens = RateLimit(None);
        self.caller_concurrency = CountArg(None);
    }
}
