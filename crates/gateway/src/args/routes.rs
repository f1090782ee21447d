//! Routes: calls with options of their own.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Command, CommandFactory, ValueEnum};

use super::file::{RouteTable, Setting, with_defaults};
use super::print::{self, quoted};
use super::values::Profile;
use super::{Args, CallFilter, Misfit, Stop};

/// A route, with the options of its calls.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) calls: CallFilter,
    pub(crate) args: Args,
    settings: Vec<Setting>,
    /// Options that it never inherits from those above the routes, even where equal.
    unshared: Vec<&'static str>,
    /// It has no fallback, although calls outside of routes have one.
    drops_fallbacks: bool,
}

/// Options that name a server, each with the options for its credentials, which no other server may get.
const SERVERS: [(&str, [&str; 2]); 2] = [
    ("upstream", ["upstream_header", "upstream_authorization_env"]),
    ("embeddings", ["embeddings_header", "embeddings_authorization_env"]),
];

/// Builds the routes of a file on top of the options for all calls.
pub(super) fn routes(all: &Args, settings: &[Setting], tables: Vec<RouteTable>) -> Result<Vec<Route>, Stop> {
    let bare = Args::command().mut_args(|arg| arg.env(Resettable::Reset));
    tables.into_iter().map(|table| route(all, settings, table, &bare)).collect()
}

fn route(all: &Args, settings: &[Setting], table: RouteTable, bare: &Command) -> Result<Route, Stop> {
    let RouteTable { place, name, calls, settings: own, lines, fallbacks } = table;
    let places = all.places.of_route(&place, &name, lines);
    let stop = |misfit: Misfit| Stop::Wrong(places.describe(&misfit));
    let has = |id: &str| own.iter().find(|setting| setting.id == id);
    let named = SERVERS.iter().filter(|(server, _)| has(server).is_some());
    let unshared: Vec<_> = named.flat_map(|(server, credentials)| [*server, credentials[0], credentials[1]]).collect();
    let is_inherited =
        |setting: &&Setting| !setting.id.starts_with("caller_keys") && !unshared.contains(&setting.id.as_str());
    let inherited: Vec<_> = settings.iter().filter(is_inherited).cloned().collect();
    let mut command = with_defaults(bare.clone(), &inherited);
    let profile = has("profile").and_then(|profile| Profile::from_str(profile.values.first()?, true).ok());
    if let Some(profile) = profile {
        command = with_defaults(command, &profile.settings());
    }
    let unplaced = |error: Stop| match error {
        Stop::Wrong(wrong) => stop(Misfit::new(&[], wrong)),
        error => error,
    };
    let words = [OsString::from(bare.get_name())];
    let matches = super::matches(&with_defaults(command, &own), &words).map_err(unplaced)?;
    let mut args = Args::of(&matches).map_err(unplaced)?;
    let settings = print::settings(bare, &matches);
    args.upstreams.backups = match fallbacks {
        Some(fallbacks) => Args::backups(bare, fallbacks, &stop)?,
        None if has("upstream").is_some() => Vec::new(),
        None => all.upstreams.backups.clone(),
    };
    let drops_fallbacks = args.upstreams.backups.is_empty() && !all.upstreams.backups.is_empty();
    (args.callers, args.server) = (all.callers.clone(), all.server.clone());
    if args.upstreams.upstream.is_none() {
        return Err(stop(Misfit::new(&[], "upstream: this route has none; set it here or above all routes")));
    }
    args.check().map_err(stop)?;
    args.places = places;
    Ok(Route { name, calls, args, settings, unshared, drops_fallbacks })
}

// === impl Route ===

impl Route {
    /// The route as a table of the configuration file: the options that differ from those above, or are not inherited.
    pub(super) fn printed(&self, command: &Command, all: &[Setting]) -> String {
        let mut text = format!("\n[[route]]\nname = {}\npath = {}\n", quoted(&self.name), quoted(&self.calls.path));
        if let Some(model) = &self.calls.model {
            text.push_str(&format!("model = {}\n", quoted(model)));
        }
        if self.drops_fallbacks {
            text.push_str("fallback = []\n");
        }
        let is_own = |setting: &&Setting| self.unshared.contains(&setting.id.as_str()) || !all.contains(setting);
        let own: Vec<_> = self.settings.iter().filter(is_own).cloned().collect();
        text + &print::keys(command, &own, &self.args.upstreams.backups, "route.fallback")
    }
}
