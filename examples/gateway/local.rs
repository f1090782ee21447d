//! What the gateway answers itself. Everything else is the upstream's.

use http::{Method, Request, Response};
use serde_json::{Value, json};
use tower_buttress::{CircuitBreakerHandle, CircuitState};

use super::access::AnswerBody;
use super::problem::text;
use super::telemetry;

/// The gateway's own pages.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// `None`: there is no breaker.
    pub(crate) circuit: Option<CircuitBreakerHandle>,
}

// === impl Local ===

impl Local {
    /// The answer, where it is ours to give.
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Option<Response<AnswerBody>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return None;
        }
        match request.uri().path() {
            "/healthz" => Some(text("text/plain; charset=utf-8", "ok\n")),
            // https://prometheus.io/docs/instrumenting/exposition_formats/
            "/metrics" => Some(text("text/plain; version=0.0.4; charset=utf-8", self.metrics())),
            "/breakers" => Some(text("application/json", self.breakers().to_string())),
            _ => None,
        }
    }

    fn metrics(&self) -> String {
        if let Some(circuit) = &self.circuit {
            metrics::gauge!("gateway_circuit_state").set(number(circuit.state()));
        }
        telemetry::prometheus().render()
    }

    /// One object for each circuit: there is one at most.
    fn breakers(&self) -> Value {
        let circuit = |circuit: &CircuitBreakerHandle| {
            let snapshot = circuit.snapshot();
            let figures = snapshot.figures;
            json!({
                "name": "upstream",
                "state": snapshot.state.as_str(),
                "open_for_seconds": snapshot.open_for.map(|time| time.as_secs_f64()),
                "calls": figures.calls,
                "failures": figures.failures,
                "throttled": figures.throttled,
                "consecutive_failures": figures.consecutive,
                "failure_ratio": figures.failure_ratio(),
                "probes": snapshot.probes,
                "opened": snapshot.opened,
                "refused": snapshot.refused,
            })
        };
        self.circuit.iter().map(circuit).collect()
    }
}

/// The more, the less passes.
fn number(state: CircuitState) -> f64 {
    match state {
        CircuitState::HalfOpen => 1.0,
        CircuitState::Open | CircuitState::Isolated => 2.0,
        _ => 0.0,
    }
}
