//! The gateway's own pages, all under `/-/`. Every other path is the upstream's.

use http::{Method, Request, Response, StatusCode};

use super::answer_body::AnswerBody;
use super::answers;
use super::circuits::Circuits;
use super::drain::Drain;
use super::events::Events;
use super::problem::{self, text};
use super::telemetry;

/// Streams an answer and shows what happens to it, with plain browser means.
const PAGE: &str = include_str!("page.html");

/// The gateway's own pages.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) circuits: Circuits,
    pub(crate) events: Events,
    pub(crate) drain: Drain,
    /// Callers come back to their answers: those are behind the layers.
    pub(crate) has_answers: bool,
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
        let path = request.uri().path();
        let page = path.strip_prefix("/-/")?;
        if self.has_answers && answers::is_one(path) {
            return None;
        }
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
            "breakers" => text("application/json", self.circuits.to_json().to_string()),
            _ => problem::no_such_page(),
        })
    }

    /// Whether new calls should come here.
    fn readiness(&self) -> Response<AnswerBody> {
        let reason = if self.drain.has_begun() {
            "draining\n"
        } else if self.circuits.are_all_open() {
            "all circuits are open\n"
        } else {
            return text("text/plain; charset=utf-8", "ready\n");
        };
        let mut response = text("text/plain; charset=utf-8", reason);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    }

    fn metrics(&self) -> String {
        self.circuits.measure();
        telemetry::prometheus().render()
    }
}
