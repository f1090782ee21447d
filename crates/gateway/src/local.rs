//! What the gateway answers itself. Everything else is the upstream's.

use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, Response};
use serde_json::{Value, json};
use tower_buttress::{CircuitBreakerHandle, CircuitState};

use super::access::AnswerBody;
use super::drain::Drain;
use super::events::Events;
use super::problem::text;
use super::telemetry;

/// Streams an answer and shows what happens to it, with plain browser means.
const PAGE: &str = include_str!("page.html");

/// The gateway's own pages.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// `None`: there is no breaker.
    pub(crate) circuit: Option<CircuitBreakerHandle>,
    pub(crate) events: Events,
    pub(crate) drain: Drain,
}

// === impl Local ===

impl Local {
    /// The answer, where it is ours to give.
    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Option<Response<AnswerBody>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return None;
        }
        match request.uri().path() {
            // Whoever else asks for the root means the upstream's.
            "/" if accepts_html(request.headers()) => Some(text("text/html; charset=utf-8", PAGE)),
            "/events" => Some(self.events.stream(self.drain.open())),
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
            let stats = snapshot.stats;
            json!({
                "name": "upstream",
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
        self.circuit.iter().map(circuit).collect()
    }
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

/// The more, the less passes.
fn number(state: CircuitState) -> f64 {
    match state {
        CircuitState::HalfOpen => 1.0,
        CircuitState::Open | CircuitState::Isolated => 2.0,
        _ => 0.0,
    }
}
