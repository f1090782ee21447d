//! The figures of calls. Each is looked up once, by its name and its labels, in a map that all threads share.

use std::sync::OnceLock;
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram};

use super::telemetry;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    ClientLeft,
    Complete,
    Failed,
}

/// What is measured of all calls.
pub(crate) struct CallFigures {
    in_flight: Gauge,
    seconds: Histogram,
    first_byte: OnceLock<Histogram>,
    /// By status and outcome, as they come.
    calls: Vec<OnceLock<Counter>>,
}

const OUTCOMES: usize = 3;
/// A status is one of 100 to 999.
const STATUSES: usize = 900;

// === impl CallOutcome ===

impl CallOutcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ClientLeft => "client left",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }
}

// === impl CallFigures ===

impl CallFigures {
    pub(crate) fn of_this_process() -> &'static Self {
        static FIGURES: OnceLock<CallFigures> = OnceLock::new();
        FIGURES.get_or_init(|| {
            // What is looked up before something counts would never count.
            telemetry::prometheus();
            Self {
                in_flight: metrics::gauge!("gateway_calls_in_flight"),
                seconds: metrics::histogram!("gateway_call_seconds"),
                first_byte: OnceLock::new(),
                calls: (0..STATUSES * OUTCOMES).map(|_| OnceLock::new()).collect(),
            }
        })
    }

    pub(crate) fn began(&self) {
        self.in_flight.increment(1);
    }

    pub(crate) fn ended(
        &self,
        status: Option<StatusCode>,
        outcome: CallOutcome,
        total: Duration,
        first_byte: Option<Duration>,
    ) {
        self.in_flight.decrement(1);
        self.seconds.record(total);
        if let Some(first_byte) = first_byte {
            self.first_byte.get_or_init(|| metrics::histogram!("gateway_first_byte_seconds")).record(first_byte);
        }
        let known = status.and_then(|status| {
            let nth = usize::from(status.as_u16()).checked_sub(100)?;
            self.calls.get(nth * OUTCOMES + outcome as usize)
        });
        match known {
            Some(counter) => counter.get_or_init(|| calls(status, outcome)).increment(1),
            None => calls(status, outcome).increment(1),
        }
    }
}

/// The counter of calls that end so.
fn calls(status: Option<StatusCode>, outcome: CallOutcome) -> Counter {
    let status = status.map_or_else(|| "-".to_owned(), |status| status.as_str().to_owned());
    metrics::counter!("gateway_calls_total", "status" => status, "outcome" => outcome.as_str())
}
