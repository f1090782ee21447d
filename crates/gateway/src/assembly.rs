//! Builds the services from a configuration.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;
use tower_buttress::error::BoxError;
use tower_buttress::{DeadlineHeader, Memory, Observer};

use super::args::Switch;
use super::callers::{Callers, Pages};
use super::checked_config::CheckedConfig;
use super::circuits::Circuits;
use super::events::Events;
use super::fleet::Fleet;
use super::forgetful_layers::ForgetfulLayers;
use super::idle_clones::IdleClones;
use super::inspect::Inspector;
use super::live::Live;
use super::load::Loads;
use super::local::{Local, Shown};
use super::proxy::{Proxy, RequestBody};
use super::routes::{RouteName, Routes, Served};
use super::shutdown::Shutdown;
use super::stack::{Shared, Stack};
use super::state::States;
use super::telemetry;
use super::tunnel::Tunnels;
use super::upstream::Upstream;

/// The state that outlives a configuration.
pub(crate) struct Assembly {
    states: States,
    fleet: Fleet,
    events: Events,
    observer: Arc<dyn Observer>,
    shutdown: Shutdown,
    tunnels: Tunnels,
    shown: Shown,
    /// Whether the gateway's own pages have no listener of their own.
    is_alone: bool,
}

// === impl Assembly ===

impl Assembly {
    pub(crate) fn new(
        fleet: Fleet,
        events: Events,
        memory: Memory,
        shutdown: Shutdown,
        shown: Shown,
        is_alone: bool,
    ) -> Self {
        let observer = telemetry::observer(&events);
        let (states, tunnels) = (States::new(&fleet, memory, &observer), Tunnels::default());
        Self { states, fleet, events, observer, shutdown, tunnels, shown, is_alone }
    }

    /// Builds the services on top of the existing state. `upstream` serves the calls outside of all routes.
    pub(crate) fn open(
        &mut self,
        config: &CheckedConfig,
        upstream: Option<Upstream>,
    ) -> Live<
        impl Service<
            Request<RequestBody>,
            Response = Response<impl Body<Data = Bytes, Error = BoxError> + Send + 'static + use<>>,
            Error: Into<BoxError>,
            Future: Send,
        >
        + Clone
        + Send
        + Sync
        + 'static
        + use<>,
    > {
        let CheckedConfig { args, tls, server_tls, .. } = config;
        let (forgetful, loads, mut circuits) = (ForgetfulLayers::default(), Loads::default(), Circuits::default());
        let shared = Shared::new(args, &mut self.states, tls, &forgetful, &loads, &self.observer);
        let (mut routes, mut states) = (Vec::new(), Vec::new());
        let plans = config.plans(upstream);
        let count = plans.len();
        for plan in plans {
            let mut state = self.states.take(plan.name, count);
            let stack = Stack::new(&plan, &mut state, &mut circuits, &shared).service(&shared);
            states.push((plan.name.to_owned(), state));
            let (name, stack) = (RouteName::new(plan.name), IdleClones::new(stack));
            routes.push(Served { name, calls: plan.calls, upstream: plan.upstream, stack });
        }
        self.states.put(states);
        loads.add("callers", None, &self.states.callers(&args.callers));
        let (callers, layers, server) = (&args.callers, &args.layers, &args.server);
        let inspector = Inspector {
            is_on: !server.plain,
            limit: args.longest_deadline(),
            header: layers.deadline_header.0.clone().map(DeadlineHeader::millis),
            memory: self.states.memory().clone(),
        };
        Live {
            proxy: Proxy::new(
                Routes::new(routes, IdleClones::new(Stack::of_answers(args, &shared).service(&shared))),
                inspector,
                args.credential_names(),
                self.tunnels.with_limit(callers.caller_concurrency.0),
                self.shutdown.clone(),
            ),
            local: Local {
                _forgetting: self.fleet.on_forget(&forgetful),
                fleet: self.fleet.clone(),
                memory: self.states.memory().clone(),
                circuits,
                events: self.events.clone(),
                forgetful,
                loads,
                answers_calls: self.is_alone,
                is_simulated: args.is_simulated(),
                respond_async: layers.respond_async == Switch::On,
                shutdown: self.shutdown.clone(),
                has_answers: layers.resumable == Switch::On,
            },
            callers: Callers {
                trusted: callers.trust_callers,
                keys: callers.keys().cloned(),
                pages: Pages { origins: callers.allow_origin.clone(), hosts: callers.host.clone() },
                proxies: callers.trusted_proxies.clone(),
            },
            shown: self.shown,
            tls: server_tls.clone(),
        }
    }
}
