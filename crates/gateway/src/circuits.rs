//! Configures the circuit breakers of the upstreams, and shows their states.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tower_buttress::{
    CircuitBreakerConfig, CircuitBreakerHandle, CircuitBreakerLayer, CircuitSnapshot, CircuitState, CircuitWindow,
    TimeoutProfile,
};

use super::args::{LayerArgs, Switch};

/// The active breakers, each with the name of its upstream. A breaker has a circuit per model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circuits(Vec<(String, CircuitBreakerLayer)>);

const STATE: &str = "gateway_circuit_state";
const STATE_HELP: &str = "The circuit of an upstream and model: 0 closed, 1 half-open, 2 open";

// === impl Circuits ===

impl Circuits {
    pub(crate) fn add(&mut self, name: &str, breaker: &CircuitBreakerLayer) {
        self.0.push((name.to_owned(), breaker.clone()));
    }

    /// Whether every upstream refuses calls at present.
    pub(crate) fn are_all_open(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(_, breaker)| is_shut(breaker))
    }

    /// Writes the state of each circuit in Prometheus' format. It is not in the metrics registry, which would keep
    /// circuits that are gone.
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

    /// The circuits with the names of their upstreams. A breaker that has seen no call shows its circuit for calls
    /// without a key.
    fn all(&self) -> impl Iterator<Item = (&str, CircuitBreakerHandle)> {
        self.0.iter().flat_map(|(name, breaker)| {
            let mut circuits = breaker.handles();
            if circuits.is_empty() {
                circuits.push(breaker.handle());
            }
            circuits.sort_by(|one, other| one.key().cmp(&other.key()));
            circuits.into_iter().map(move |circuit| (name.as_str(), circuit))
        })
    }
}

/// Whether all circuits with recent calls are open. Idle circuits do not count: that of unknown models stays closed
/// while the models in use have circuits of their own.
fn is_shut(breaker: &CircuitBreakerLayer) -> bool {
    let circuits = breaker.handles();
    let snapshots = circuits.iter().map(CircuitBreakerHandle::snapshot);
    let mut used = snapshots.filter(|circuit| refuses(circuit) || circuit.stats.calls > 0).peekable();
    used.peek().is_some() && used.all(|circuit| refuses(&circuit))
}

/// Whether the next call is refused. A circuit whose open time is over accepts a probe.
fn refuses(circuit: &CircuitSnapshot) -> bool {
    match circuit.state {
        CircuitState::Open => circuit.open_for.is_none_or(|left| !left.is_zero()),
        state => state == CircuitState::Isolated,
    }
}

/// Escapes a label's value (<https://prometheus.io/docs/instrumenting/exposition_formats/>): callers choose the names
/// of models.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The value of the gauge: the higher, the fewer calls pass.
fn number(state: CircuitState) -> f64 {
    match state {
        CircuitState::HalfOpen => 1.0,
        CircuitState::Open | CircuitState::Isolated => 2.0,
        _ => 0.0,
    }
}

/// The breaker settings of a route; `None`: the breaker is off.
pub(crate) fn config(args: &LayerArgs) -> Option<CircuitBreakerConfig> {
    if args.breaker == Switch::Off {
        return None;
    }
    let mut config = CircuitBreakerConfig::new()
        .window(CircuitWindow::Time(args.breaker_window))
        .min_calls(args.breaker_min_calls.get())
        .failure_ratio(args.breaker_failure_ratio)
        .consecutive_failures(args.breaker_consecutive.get())
        .open_duration(args.breaker_open, args.breaker_open_max);
    if let Some(first_byte) = args.first_byte_timeout.0 {
        // A probe gets the longest of the limits that a call has, and at least the default.
        let patience = first_byte.max(args.answer_timeout.0.unwrap_or_default());
        let probe_timeout = patience.max(TimeoutProfile::EXTENDED_THINKING.first_byte);
        config = config.first_byte(first_byte).probe_timeout(probe_timeout);
    }
    Some(config)
}
