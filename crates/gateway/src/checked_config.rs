//! Reads the configuration and the files that it names.

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{ClientConfig, ServerConfig};
use tower_buttress::CircuitBreakerConfig;

use super::args::{Args, CallFilter, Misfit, Stop};
use super::provider::Provider;
use super::upstream::{self, Protocol, Upstream};
use super::{circuits, tls};

/// A valid configuration, with the files that it names.
#[derive(Debug)]
pub(crate) struct CheckedConfig {
    pub(crate) args: Args,
    /// The certificates that upstreams are trusted by.
    pub(crate) tls: ClientConfig,
    pub(crate) server_tls: Option<Arc<ServerConfig>>,
    /// The breaker settings of each route; the last entry is for calls outside of routes.
    breakers: Vec<Option<CircuitBreakerConfig>>,
}

/// A route, with everything that its stack is built from.
#[derive(Debug)]
pub(crate) struct RoutePlan<'a> {
    /// Empty for the calls outside of routes.
    pub(crate) name: &'a str,
    pub(crate) calls: CallFilter,
    pub(crate) args: &'a Args,
    pub(crate) upstream: Upstream,
    pub(crate) breaker: Option<CircuitBreakerConfig>,
}

// === impl CheckedConfig ===

impl CheckedConfig {
    /// Reads the files that the options name. The error is one line.
    pub(crate) fn new(args: Args) -> Result<Self, String> {
        let described = |misfit: Misfit| args.places.describe(&misfit);
        let tls = trust(&args).map_err(described)?;
        let server_tls = match (&args.server.tls_cert, &args.server.tls_key) {
            (Some(chain), Some(key)) => Some(tls::server(chain, key).map_err(described)?),
            _ => None,
        };
        let breakers = of_all(&args).map(|args| circuits::config(&args.layers)).collect();
        Ok(Self { args, tls, server_tls, breakers })
    }

    /// Reads everything again. The error has one line per fault.
    pub(crate) async fn again(args: &Args) -> Result<Self, String> {
        let args = args.clone();
        let read = move || match args.read_again() {
            Ok(args) => Self::new(args),
            Err(Stop::Wrong(lines) | Stop::Unfit(lines) | Stop::Shown(lines)) => Err(lines),
        };
        // Reading files and the system's roots blocks.
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Why clients refuse the gateway's certificate, if its time has not come or is over. The gateway starts with it: those
    /// that do not check it are served.
    pub(crate) fn outdated(&self) -> Option<String> {
        let misfit = tls::outdated(self.args.server.tls_cert.as_deref()?, UnixTime::now())?;
        Some(self.args.places.describe(&misfit))
    }

    /// The upstream of calls outside of routes; `None`: there is none. Starts the simulated provider where it is
    /// needed.
    pub(crate) async fn upstream(&self, provider: &mut Option<Provider>) -> Result<Option<Upstream>, String> {
        if !self.args.is_simulated() {
            return Ok(self.args.upstreams.upstream.clone());
        }
        let addr = match provider {
            Some(provider) => provider.addr(),
            None => {
                let unable = |error| format!("cannot start the simulated provider: {error}");
                provider.insert(Provider::start().await.map_err(unable)?).addr()
            }
        };
        Ok(Some(Upstream::from(addr)))
    }

    /// The routes in their order, then the calls outside of routes, which go to `rest`.
    pub(crate) fn plans(&self, rest: Option<Upstream>) -> Vec<RoutePlan<'_>> {
        let routes = self.args.routes.iter().map(|route| {
            (route.name.as_str(), route.calls.clone(), &route.args, route.args.upstreams.upstream.clone())
        });
        let all = routes.chain([("", CallFilter::default(), &self.args, rest)]).zip(&self.breakers);
        let plan = |((name, calls, args, upstream), breaker): ((_, _, _, Option<Upstream>), &Option<_>)| {
            Some(RoutePlan { name, calls, args, upstream: upstream?, breaker: breaker.clone() })
        };
        all.filter_map(plan).collect()
    }
}

/// The options of each route, then those of calls outside of routes.
fn of_all(args: &Args) -> impl Iterator<Item = &Args> {
    args.routes.iter().map(|route| &route.args).chain([args])
}

/// The TLS settings for upstreams.
fn trust(args: &Args) -> Result<ClientConfig, Misfit> {
    let mut upstreams = of_all(args).flat_map(|Args { upstreams, layers, .. }| {
        let backups = upstreams.backups.iter().map(|backup| &backup.upstream);
        upstreams.upstream.iter().chain(backups).chain(&layers.similar.embeddings)
    });
    // Reading the system's roots is slow; skip it without an https upstream.
    let wants_tls = upstreams.any(|upstream| upstream.protocol() == Protocol::Https);
    upstream::trust(wants_tls, args.server.upstream_ca.as_deref())
}
