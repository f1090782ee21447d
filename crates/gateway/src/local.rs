//! The gateway's own pages, all under `/-/`. Every other path is the upstream's.

use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tower_buttress::{CircuitBreakerHandle, CircuitState};

use super::access::AnswerBody;
use super::drain::Drain;
use super::events::Events;
use super::problem::{self, text};
use super::telemetry;

/// Streams an answer and shows what happens to it, with plain browser means.
const PAGE: &str = include_str!("page.html");

/// The gateway's own pages.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// With the names of the upstreams. Empty where the breaker is off.
    pub(crate) circuits: Vec<(String, CircuitBreakerHandle)>,
    pub(crate) events: Events,
    pub(crate) drain: Drain,
}

/// Which of the pages a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    All,
    /// What a load balancer asks.
    Health,
}

// === impl Local ===

impl Local {
    /// The answer, where it is the gateway's to give.
    pub(crate) fn answer<B>(&self, request: &Request<B>, shown: Shown) -> Option<Response<AnswerBody>> {
        let page = request.uri().path().strip_prefix("/-/")?;
        if !matches!(page, "healthz" | "readyz") && shown == Shown::Health {
            return Some(problem::no_such_page());
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Some(problem::only_get());
        }
        Some(match page {
            "" => text("text/html; charset=utf-8", PAGE),
            "events" => self.events.stream(self.drain.open()),
            "healthz" => text("text/plain; charset=utf-8", "ok\n"),
            "readyz" => self.readiness(),
            // https://prometheus.io/docs/instrumenting/exposition_formats/
            "metrics" => text("text/plain; version=0.0.4; charset=utf-8", self.metrics()),
            "breakers" => text("application/json", self.breakers().to_string()),
            _ => problem::no_such_page(),
        })
    }

    /// Whether new calls should come here.
    fn readiness(&self) -> Response<AnswerBody> {
        let is_open = |(_, circuit): &(_, CircuitBreakerHandle)| number(circuit.state()) > 1.0;
        let reason = if self.drain.has_begun() {
            "draining\n"
        } else if !self.circuits.is_empty() && self.circuits.iter().all(is_open) {
            "all circuits are open\n"
        } else {
            return text("text/plain; charset=utf-8", "ready\n");
        };
        let mut response = text("text/plain; charset=utf-8", reason);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    fn metrics(&self) -> String {
        for (name, circuit) in &self.circuits {
            metrics::gauge!("gateway_circuit_state", "upstream" => name.clone()).set(number(circuit.state()));
        }
        telemetry::prometheus().render()
    }

    /// One object for each upstream.
    fn breakers(&self) -> Value {
        let circuit = |(name, circuit): &(String, CircuitBreakerHandle)| {
            let snapshot = circuit.snapshot();
            let stats = snapshot.stats;
            json!({
                "name": name,
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
        self.circuits.iter().map(circuit).collect()
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
