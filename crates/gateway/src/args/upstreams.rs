//! Options of the upstreams and their credentials.

use std::num::NonZeroU32;

use clap::ArgAction::Append;

use super::credentials::{Credential, NamedCredential};
use super::headings::TRUST;
use crate::upstream::Upstream;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpstreamArgs {
    /// Send requests to this URL.
    ///
    /// `https://host[:port][/prefix]`, `http://..`, or `h2c://..` for HTTP/2 without TLS. With neither this option nor
    /// a route, the gateway starts a simulated provider.
    #[arg(long, env = "GATEWAY_UPSTREAM", value_name = "URL", help_heading = TRUST)]
    pub(crate) upstream: Option<Upstream>,

    /// Send the `Authorization` in this environment variable upstream.
    ///
    /// It replaces the caller's credentials.
    #[arg(
        long, env = "GATEWAY_UPSTREAM_AUTHORIZATION_ENV", value_name = "VAR", help_heading = TRUST
    )]
    pub(crate) upstream_authorization_env: Option<Credential>,

    /// Send this header upstream, with the value of environment variable VAR.
    ///
    /// For example `x-api-key=MY_KEY`. It replaces the caller's credentials. May be repeated.
    #[arg(
        long, env = "GATEWAY_UPSTREAM_HEADER", value_name = "NAME=VAR", action = Append, value_delimiter = ',',
        help_heading = TRUST
    )]
    pub(crate) upstream_header: Vec<NamedCredential>,

    /// Send a call to this URL when the upstreams before it fail.
    ///
    /// May be repeated: the fallbacks are tried in this order. A fallback never gets the caller's credentials, which are
    /// recognised by the names of headers and query parameters. A fallback without a credential of its own also serves
    /// callers whose credentials the upstream refuses.
    #[arg(
        long, env = "GATEWAY_FALLBACK", value_name = "URL", action = Append, value_delimiter = ',',
        help_heading = TRUST
    )]
    pub(super) fallback: Vec<Upstream>,

    /// Put this model name into JSON requests to the preceding --fallback.
    #[arg(
        long, env = "GATEWAY_FALLBACK_MODEL", value_name = "NAME", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_model: Vec<String>,

    /// Choose the first fallback of each call by weight.
    ///
    /// The weight of the preceding --fallback, relative to the others. The remaining fallbacks follow in their order.
    /// Give a weight to all fallbacks or to none.
    #[arg(
        long, env = "GATEWAY_FALLBACK_WEIGHT", value_name = "N", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_weight: Vec<NonZeroU32>,

    /// Send the `Authorization` in this variable to the preceding --fallback.
    #[arg(
        long, env = "GATEWAY_FALLBACK_AUTHORIZATION_ENV", value_name = "VAR", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_authorization_env: Vec<Credential>,

    /// Send this header, with the value of VAR, to the preceding --fallback.
    ///
    /// May be repeated.
    #[arg(
        long, env = "GATEWAY_FALLBACK_HEADER", value_name = "NAME=VAR", action = Append, value_delimiter = ',',
        requires = "fallback", help_heading = TRUST
    )]
    pub(super) fallback_header: Vec<NamedCredential>,

    /// The fallbacks, each with the options that belong to it.
    #[arg(skip)]
    pub(crate) backups: Vec<BackupArgs>,
}

// === impl UpstreamArgs ===

impl UpstreamArgs {
    /// The headers that replace the caller's credentials; empty: the caller's pass.
    pub(crate) fn credential(&self) -> Vec<NamedCredential> {
        let authorization = self.upstream_authorization_env.iter().map(Credential::named);
        authorization.chain(self.upstream_header.iter().cloned()).collect()
    }

    /// The operator's credentials for the upstream and its fallbacks.
    pub(super) fn credentials(&self) -> Vec<NamedCredential> {
        self.credential().into_iter().chain(self.backups.iter().flat_map(|backup| backup.credential.clone())).collect()
    }

    /// Whether any upstream gets a credential of the operator.
    pub(super) fn has_own_credential(&self) -> bool {
        !self.credentials().is_empty()
    }
}

/// One fallback of the chain.
#[derive(Clone, Debug)]
pub(crate) struct BackupArgs {
    /// The name in answers: `fallback`, `fallback-2` and so on.
    pub(crate) name: String,
    pub(crate) upstream: Upstream,
    /// The model that replaces the caller's.
    pub(crate) model: Option<String>,
    /// Its weight in the choice of the first fallback; `None`: fallbacks are tried in their order.
    pub(crate) weight: Option<NonZeroU32>,
    /// The headers with its credential. The caller's credentials never go to it.
    pub(crate) credential: Vec<NamedCredential>,
}

// === impl Backup ===

impl BackupArgs {
    pub(super) fn new(nth: usize, upstream: &Upstream) -> Self {
        let name = if nth == 1 { "fallback".to_owned() } else { format!("fallback-{nth}") };
        Self { name, upstream: upstream.clone(), model: None, weight: None, credential: Vec::new() }
    }
}
