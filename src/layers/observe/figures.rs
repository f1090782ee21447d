//! The names of a stack's figures, with their labels.

#[cfg(feature = "metrics")]
use std::{sync::Arc, time::Duration};

#[cfg(feature = "metrics")]
use http::StatusCode;
#[cfg(feature = "metrics")]
use metrics::{Key, Label, Level, Metadata, SharedString};

#[cfg(feature = "metrics")]
use super::outcome::CallEnd;

/// What is measured of the calls of a stack. The names are put together once: to do it for each call costs more than to measure.
#[derive(Clone, Debug)]
pub struct Figures {
    #[cfg(feature = "metrics")]
    keys: Arc<MetricKeys>,
}

#[cfg(feature = "metrics")]
#[derive(Debug)]
struct MetricKeys {
    first_data: Key,
    /// By the class of the status, and the end of the call.
    calls: [[Key; CallEnd::ALL.len()]; CLASSES.len()],
}

/// Of a status, by its first digit.
#[cfg(feature = "metrics")]
const CLASSES: [&str; 7] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "other"];

#[cfg(feature = "metrics")]
static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

// === impl Figures ===

#[cfg(feature = "metrics")]
impl Figures {
    pub(super) fn new(stack: &Arc<str>) -> Self {
        let key = |name, labels: &[(&'static str, &'static str)]| {
            let stack = Label::new("stack", SharedString::from_shared(stack.clone()));
            let labels = labels.iter().map(|&(name, value)| Label::from_static_parts(name, value));
            Key::from_parts(name, std::iter::once(stack).chain(labels).collect::<Vec<_>>()).to_retained()
        };
        let call =
            |status, end: CallEnd| key("tower_buttress_call_seconds", &[("status", status), ("end", end.as_str())]);
        let keys = MetricKeys {
            first_data: key("tower_buttress_first_data_seconds", &[]),
            calls: CLASSES.map(|status| CallEnd::ALL.map(|end| call(status, end))),
        };
        Self { keys: Arc::new(keys) }
    }

    pub(super) fn first_data(&self, after: Duration) {
        record(&self.keys.first_data, after);
    }

    pub(super) fn ended(&self, status: Option<StatusCode>, end: CallEnd, after: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100)).min(CLASSES.len() - 1);
        if let Some(key) = self.keys.calls.get(class).and_then(|calls| calls.get(end as usize)) {
            record(key, after);
        }
    }
}

/// With the recorder of this moment: a test has its own.
#[cfg(feature = "metrics")]
fn record(key: &Key, time: Duration) {
    metrics::with_recorder(|recorder| recorder.register_histogram(key, &METADATA)).record(time.as_secs_f64());
}

#[cfg(not(feature = "metrics"))]
impl Figures {
    pub(super) fn new(_stack: &str) -> Self {
        Self {}
    }
}
