//! Serves the gateway's own pages, all below `/-/`. Every other path belongs to the upstream.

use std::fmt::Write as _;

use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tower_buttress::Memory;
use tower_buttress_redis::ForgetListener;

use super::answer_body::AnswerBody;
use super::answers;
use super::circuits::Circuits;
use super::events::Events;
use super::fleet::Fleet;
use super::forgetful_layers::{ForgetfulLayers, Whose};
use super::load::Loads;
use super::page;
use super::paths;
use super::problem::{self, text};
use super::shutdown::Shutdown;
use super::telemetry;

/// The gateway's own pages.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) fleet: Fleet,
    /// Counts the memory held for calls in flight.
    pub(crate) memory: Memory,
    pub(crate) circuits: Circuits,
    pub(crate) events: Events,
    pub(crate) forgetful: ForgetfulLayers,
    /// Receives what another gateway has to forget.
    pub(crate) _forgetting: Option<ForgetListener>,
    pub(crate) loads: Loads,
    /// Whether the page is on the listener for calls, and can make some.
    pub(crate) answers_calls: bool,
    pub(crate) is_simulated: bool,
    pub(crate) respond_async: bool,
    pub(crate) shutdown: Shutdown,
    /// Whether callers can come back to answers; those requests go through the layers.
    pub(crate) has_answers: bool,
}

const MEMORY: &str = "gateway_memory_bytes";

/// The pages that a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    All,
    /// The health checks of load balancers.
    Health,
}

// === impl Local ===

impl Local {
    /// Whether the gateway itself answers this request.
    pub(crate) fn has<B>(&self, request: &Request<B>) -> bool {
        let path = request.uri().path();
        paths::is_own(path) && !(self.has_answers && answers::is_one(path))
    }

    /// Whether this is a health check. Accepts any `Host`.
    pub(crate) fn is_health<B>(request: &Request<B>) -> bool {
        matches!(request.uri().path(), "/-/healthz" | "/-/readyz")
            && (request.method() == Method::GET || request.method() == Method::HEAD)
    }

    /// Answers the request.
    pub(crate) fn answer<B>(&self, request: &Request<B>, shown: Shown) -> Response<AnswerBody> {
        let Some(page) = request.uri().path().strip_prefix("/-/") else { return problem::no_such_page() };
        if !matches!(page, "healthz" | "readyz") && shown == Shown::Health {
            return problem::page_elsewhere();
        }
        if page == "forget" {
            return match request.method() {
                &Method::POST => problem::unknown_query(),
                _ => problem::only_posted(),
            };
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return problem::only_read();
        }
        match page {
            "calls" => self.calls(),
            "events" => self.events.stream(self.shutdown.open()),
            "healthz" => text("text/plain; charset=utf-8", "ok\n"),
            "readyz" => self.readiness(),
            // https://prometheus.io/docs/instrumenting/exposition_formats/
            "metrics" => text("text/plain; version=0.0.4; charset=utf-8", self.metrics()),
            "breakers" => text("application/json", self.circuits.to_json().to_string()),
            _ => page::file(page).unwrap_or_else(problem::no_such_page),
        }
    }

    /// The calls in flight, for the page.
    fn calls(&self) -> Response<AnswerBody> {
        let (calls, others) = self.events.calls.to_json();
        let shown = json!({
            "calls": calls,
            "others": others,
            "circuits": self.circuits.to_json(),
            "load": self.loads.to_json(),
            "answers_calls": self.answers_calls,
            "simulated": self.is_simulated,
            "respond_async": self.respond_async,
        });
        text("application/json", shown.to_string())
    }

    /// Whether load balancers should send new calls here.
    fn readiness(&self) -> Response<AnswerBody> {
        let reason = if self.shutdown.has_begun() {
            "draining\n"
        } else if self.circuits.are_all_open() {
            "all circuits are open\n"
        } else if self.fleet.is_missed() {
            "Redis is unreachable\n"
        } else {
            return text("text/plain; charset=utf-8", "ready\n");
        };
        let mut response = text("text/plain; charset=utf-8", reason);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    /// What to forget, if the request is a POST to `/-/forget`.
    pub(crate) fn to_forget<B>(&self, request: &Request<B>, shown: Shown) -> Option<Whose> {
        let is_it = request.uri().path() == "/-/forget" && request.method() == Method::POST && shown == Shown::All;
        if is_it { Whose::of(request.uri().query()) } else { None }
    }

    /// Forgets it here, and in the other gateways.
    pub(crate) async fn forget(&self, whose: &Whose) -> Response<AnswerBody> {
        let mut forgotten = json!(self.forgetful.forget(whose.tenant()));
        let in_redis = self.fleet.forget(whose.tenant()).await;
        let is_missed = in_redis.as_ref().is_some_and(Result::is_err);
        if let Some(in_redis) = in_redis {
            forgotten["redis"] = json!(in_redis.ok());
        }
        let mut response = text("application/json", json!({ "forgotten": forgotten }).to_string());
        if is_missed {
            // The client should repeat the request.
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }

    fn metrics(&self) -> String {
        self.fleet.measure();
        let mut figures = telemetry::prometheus().render();
        self.circuits.render(&mut figures);
        // Not in the exporter, whose metrics are those of the whole process.
        let _ = writeln!(figures, "# HELP {MEMORY} Memory held for calls in flight\n# TYPE {MEMORY} gauge");
        let _ = writeln!(figures, "{MEMORY} {}", self.memory.used());
        figures
    }
}
