//! Who may call, and how much.

use clap::ArgAction::Append;

use super::credentials::{keys_in_file, keys_in_variable};
use super::headings::CALLERS;
use super::values::{Count, RateLimit, host_name};
use crate::callers::{Keys, Network, Origin};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CallerArgs {
    /// Environment variable with the keys that callers must present (`Authorization: Bearer` or `x-api-key`): one
    /// `name:key` per line. The name is the tenant. Other requests get 401.
    #[arg(
        long, env = "GATEWAY_CALLER_KEYS_ENV", value_name = "VAR", value_parser = keys_in_variable,
        conflicts_with = "caller_keys_file", help_heading = CALLERS
    )]
    caller_keys_env: Option<Keys>,

    /// File with such keys.
    #[arg(
        long, env = "GATEWAY_CALLER_KEYS_FILE", value_name = "FILE", value_parser = keys_in_file, help_heading = CALLERS
    )]
    caller_keys_file: Option<Keys>,

    /// Serve all callers on the operator's account. Needed where the gateway has a credential for an upstream or a
    /// fallback, and there are no caller keys.
    #[arg(long, env = "GATEWAY_TRUST_CALLERS", help_heading = CALLERS)]
    pub(crate) trust_callers: bool,

    /// Site whose web pages may call, as `https://app.example`; `*` is any. May be repeated. Without caller keys, pages of
    /// all other sites get 403.
    #[arg(
        long, env = "GATEWAY_ALLOW_ORIGIN", value_name = "ORIGIN", action = Append, value_delimiter = ',',
        num_args = 1.., help_heading = CALLERS
    )]
    pub(crate) allow_origin: Vec<Origin>,

    /// Name of this gateway, beside `localhost` and addresses. May be repeated. Requests for another `Host` get 403 below `/-/`, but
    /// for `healthz` and `readyz`, and without caller keys everywhere.
    #[arg(
        long, env = "GATEWAY_HOST", value_name = "NAME", action = Append, value_delimiter = ',', num_args = 1..,
        value_parser = host_name, help_heading = CALLERS
    )]
    pub(crate) host: Vec<String>,

    /// Network of proxies in front, as `10.0.0.0/8`. May be repeated. `Forwarded`, `X-Forwarded-*` and `X-Real-IP` are
    /// believed and passed on from these, and replaced from others.
    #[arg(
        long, env = "GATEWAY_TRUSTED_PROXIES", value_name = "CIDR", action = Append, value_delimiter = ',',
        num_args = 1.., help_heading = CALLERS
    )]
    pub(crate) trusted_proxies: Vec<Network>,

    /// Requests that each caller may make, as `120/1m`: by the name of its key, or else by its credentials. Beyond that 429.
    #[arg(
        long, env = "GATEWAY_CALLER_REQUESTS", value_name = "N/TIME|off", default_value = "off", help_heading = CALLERS
    )]
    pub(crate) caller_requests: RateLimit,

    /// Tokens that each caller may use, prompts and answers together, as `50000/1m`.
    #[arg(
        long, env = "GATEWAY_CALLER_TOKENS", value_name = "N/TIME|off", default_value = "off", help_heading = CALLERS
    )]
    pub(crate) caller_tokens: RateLimit,

    /// Calls that each caller may have under way at a time, to the end of their answers, and as many WebSockets beside them.
    #[arg(long, env = "GATEWAY_CALLER_CONCURRENCY", value_name = "N|off", default_value = "off", help_heading = CALLERS)]
    pub(crate) caller_concurrency: Count,
}

// === impl CallerArgs ===

impl CallerArgs {
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.caller_keys_env.as_ref().or(self.caller_keys_file.as_ref())
    }

    /// Whether these can take the place of `before` without a new start. To have no keys any more lets anyone call.
    pub(super) fn check_follows(&self, before: &Self) -> Result<(), String> {
        if self.keys().is_none() && before.keys().is_some() {
            return Err(
                "the configuration no longer names caller keys; name some, or start anew to serve callers without keys"
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

    /// Where the configuration file names the variable, and the command line another place.
    pub(super) fn forget_keys_of_environment(&mut self) {
        self.caller_keys_env = None;
    }

    /// The other way round.
    pub(super) fn forget_keys_of_file(&mut self) {
        self.caller_keys_file = None;
    }

    pub(super) fn lift_limits(&mut self) {
        self.caller_requests = RateLimit(None);
        self.caller_tokens = RateLimit(None);
        self.caller_concurrency = Count(None);
    }
}
