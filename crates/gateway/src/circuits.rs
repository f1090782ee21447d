//! The circuit breakers of the upstreams, made apart from the other layers: their circuits are shown.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tower_buttress::{
    CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitState, CircuitWindow, Observer,
    TimeoutProfile,
};

use super::args::{Args, LayerArgs, Switch};
use super::fleet::Fleet;

/// One breaker for each upstream, with a circuit for each model.
#[derive(Clone, Debug)]
pub(crate) struct Circuits {
    is_on: bool,
    primary: CircuitBreakerLayer,
    /// One for each fallback, in order.
    backups: Vec<CircuitBreakerLayer>,
    /// The upstreams' names, the primary's first.
    names: Vec<String>,
    /// Those of the routes, in order.
    routes: Vec<Circuits>,
}

const STATE: &str = "gateway_circuit_state";
const STATE_HELP: &str = "The circuit of an upstream and model: 0 closed, 1 half-open, 2 open";
/// The name of the upstream that is no fallback.
const PRIMARY: &str = "upstream";

// === impl Circuits ===

impl Circuits {
    pub(crate) fn new(args: &Args, fleet: &Fleet, observer: &Arc<dyn Observer>) -> Result<Self, String> {
        let mut circuits = Self::of("", args, fleet, observer)?;
        circuits.is_on &= args.has_default_route();
        let routes = args.routes.iter();
        circuits.routes = routes
            .map(|route| Self::of(&format!("{}/", route.name), &route.args, fleet, observer))
            .collect::<Result<_, _>>()?;
        Ok(circuits)
    }

    /// Those of one route, their names behind its own.
    fn of(route: &str, args: &Args, fleet: &Fleet, observer: &Arc<dyn Observer>) -> Result<Self, String> {
        let Args { upstreams, layers, .. } = args;
        let named = |upstream: &str| format!("{route}{upstream}");
        let own = |upstream: &str| Ok::<_, String>(fleet.breaker(&named(upstream), breaker(layers, observer)?));
        let backups = upstreams.backups.iter().map(|backup| backup.name.as_str());
        Ok(Self {
            is_on: layers.breaker == Switch::On,
            primary: own(PRIMARY)?,
            backups: backups.clone().map(own).collect::<Result<_, _>>()?,
            names: std::iter::once(PRIMARY).chain(backups).map(named).collect(),
            routes: Vec::new(),
        })
    }

    pub(crate) fn routes(&self) -> &[Self] {
        &self.routes
    }

    /// The name of the upstream, or of one of its fallbacks.
    pub(crate) fn name(&self, nth: usize) -> &str {
        self.names.get(nth).map_or("", String::as_str)
    }

    pub(crate) fn primary(&self) -> &CircuitBreakerLayer {
        &self.primary
    }

    pub(crate) fn backups(&self) -> &[CircuitBreakerLayer] {
        &self.backups
    }

    /// Whether no upstream is asked at present.
    pub(crate) fn are_all_open(&self) -> bool {
        let mut all = self.all().peekable();
        all.peek().is_some() && all.all(|(_, circuit)| number(circuit.state()) > 1.0)
    }

    /// Writes the state of each circuit as Prometheus reads it. It is not registered as the other figures are: a circuit that
    /// is gone would stay among them for ever.
    pub(crate) fn render(&self, figures: &mut String) {
        let _ = write!(figures, "# HELP {STATE} {STATE_HELP}\n# TYPE {STATE} gauge\n");
        for (name, circuit) in self.all() {
            let key = escaped(circuit.key().unwrap_or_default());
            let _ = writeln!(figures, "{STATE}{{upstream=\"{name}\",key=\"{key}\"}} {}", number(circuit.state()));
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let circuit = |(name, circuit): (&str, CircuitBreakerHandle)| {
            let snapshot = circuit.snapshot();
            let stats = snapshot.stats;
            json!({
                "name": name,
                "key": circuit.key(),
                "state": snapshot.state.as_str(),
                "open_for_seconds": snapshot.open_for.map(|time| time.as_secs_f64()),
                "calls": stats.calls,
                "failures": stats.failures,
                "throttled": stats.throttled,
                "consecutive_failures": stats.consecutive,
                "failure_ratio": stats.failure_ratio(),
                "probes": snapshot.probes,
                "opened": snapshot.opened,
                "refused": snapshot.refused,
            })
        };
        self.all().map(circuit).collect()
    }

    /// The circuits with the names of their upstreams. A breaker that is off has none; one that has seen no call yet shows
    /// the one that it has for calls without a key.
    fn all(&self) -> impl Iterator<Item = (&str, CircuitBreakerHandle)> {
        std::iter::once(self).chain(&self.routes).flat_map(Self::own)
    }

    fn own(&self) -> impl Iterator<Item = (&str, CircuitBreakerHandle)> {
        let breakers = std::iter::once(&self.primary).chain(&self.backups).filter(|_| self.is_on);
        self.names.iter().zip(breakers).flat_map(|(name, breaker)| {
            let mut circuits = breaker.handles();
            if circuits.is_empty() {
                circuits.push(breaker.handle());
            }
            circuits.sort_by(|one, other| one.key().cmp(&other.key()));
            circuits.into_iter().map(move |circuit| (name.as_str(), circuit))
        })
    }
}

/// A label's value (<https://prometheus.io/docs/instrumenting/exposition_formats/>): models are named by callers.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The more, the less passes.
fn number(state: CircuitState) -> f64 {
    match state {
        CircuitState::HalfOpen => 1.0,
        CircuitState::Open | CircuitState::Isolated => 2.0,
        _ => 0.0,
    }
}

fn breaker(args: &LayerArgs, observer: &Arc<dyn Observer>) -> Result<CircuitBreakerLayer, String> {
    if args.breaker == Switch::Off {
        return Ok(CircuitBreakerLayer::disabled());
    }
    if !(args.breaker_failure_ratio > 0.0 && args.breaker_failure_ratio <= 1.0) {
        return Err("the failure ratio must lie above 0 and at or below 1".to_owned());
    }
    if args.breaker_open.is_zero() || args.breaker_open > args.breaker_open_max {
        return Err("the open time must be more than zero, and not longer than the longest".to_owned());
    }
    if args.breaker_window < Duration::from_millis(10) {
        return Err("the window must be at least 10 ms".to_owned());
    }
    let mut config = CircuitBreakerConfig::new()
        .window(CircuitWindow::Time(args.breaker_window))
        .min_calls(args.breaker_min_calls.get())
        .failure_ratio(args.breaker_failure_ratio)
        .consecutive_failures(args.breaker_consecutive.get())
        .open_duration(args.breaker_open, args.breaker_open_max);
    if let Some(first_byte) = args.first_byte_timeout.0 {
        // A probe may be silent as long as any call, and no less long than by default.
        let patience = first_byte.max(args.answer_timeout.0.unwrap_or_default());
        let probe_timeout = patience.max(TimeoutProfile::EXTENDED_THINKING.first_byte);
        config = config.first_byte(first_byte).probe_timeout(probe_timeout);
    }
    Ok(CircuitBreakerLayer::with_config(config).key_by_model().observer(observer.clone()))
}
