//! The upstreams, and on whose account they are asked.

use std::num::NonZeroU32;

use clap::ArgAction::Append;

use super::credentials::{Credential, NamedCredential};
use super::headings::TRUST;
use crate::upstream::Upstream;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpstreamArgs {
    /// URL that requests are sent to: `https://host[:port][/prefix]`, `http://..`, or `h2c://..` for HTTP/2 without TLS.
    /// Without it, and without routes: a simulated provider.
    #[arg(long, env = "GATEWAY_UPSTREAM", value_name = "URL", help_heading = TRUST)]
    pub(crate) upstream: Option<Upstream>,

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
    /// credentials; without one of its own it also answers callers whose credentials those before it refuse. May be
    /// repeated: a chain, in this order.
    #[arg(
        long, env = "GATEWAY_FALLBACK", value_name = "URL", action = Append, value_delimiter = ',',
        help_heading = TRUST
    )]
    pub(super) fallback: Vec<Upstream>,

    /// Model that JSON requests name when they go to the --fallback before this option.
    #[arg(
        long, env = "GATEWAY_FALLBACK_MODEL", value_name = "NAME", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_model: Vec<String>,

    /// How often the --fallback before this option is the first to be asked, compared with the weights of the others, which
    /// follow in their order. Either all fallbacks have one or none.
    #[arg(
        long, env = "GATEWAY_FALLBACK_WEIGHT", value_name = "N", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_weight: Vec<NonZeroU32>,

    /// Environment variable with the `Authorization` of requests to the --fallback before this option.
    #[arg(
        long, env = "GATEWAY_FALLBACK_AUTHORIZATION_ENV", value_name = "VAR", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_authorization_env: Vec<Credential>,

    /// Header of requests to the --fallback before this option, and the environment variable with its value. May be
    /// repeated.
    #[arg(
        long, env = "GATEWAY_FALLBACK_HEADER", value_name = "NAME=VAR", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_header: Vec<NamedCredential>,

    /// The fallbacks, each with the options that belong to it.
    #[arg(skip)]
    pub(crate) backups: Vec<Backup>,
}

// === impl UpstreamArgs ===

impl UpstreamArgs {
    /// What stands in requests to the upstream in place of the caller's credentials; empty: the caller's pass.
    pub(crate) fn credential(&self) -> Vec<NamedCredential> {
        let authorization = self.upstream_authorization_env.iter().map(Credential::named);
        authorization.chain(self.upstream_header.iter().cloned()).collect()
    }

    /// Those for the upstream and its fallbacks.
    pub(super) fn credentials(&self) -> Vec<NamedCredential> {
        self.credential().into_iter().chain(self.backups.iter().flat_map(|backup| backup.credential.clone())).collect()
    }

    /// Whether some upstream is asked on the operator's account.
    pub(super) fn has_own_credential(&self) -> bool {
        !self.credentials().is_empty()
    }
}

/// One fallback of the chain.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    /// As answers name it: `fallback`, `fallback-2` and so on.
    pub(crate) name: String,
    pub(crate) upstream: Upstream,
    /// The model that its requests name, in place of the caller's.
    pub(crate) model: Option<String>,
    /// How often it is the first of all fallbacks; `None`: they are asked in their order.
    pub(crate) weight: Option<NonZeroU32>,
    /// What its requests carry; the caller's credentials are never among it.
    pub(crate) credential: Vec<NamedCredential>,
}

// === impl Backup ===

impl Backup {
    pub(super) fn new(nth: usize, upstream: &Upstream) -> Self {
        let name = if nth == 1 { "fallback".to_owned() } else { format!("fallback-{nth}") };
        Self { name, upstream: upstream.clone(), model: None, weight: None, credential: Vec::new() }
    }
}
