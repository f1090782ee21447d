//! The calls in flight, for the page.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tower_buttress::{CallInfo, Event, Model, Tenant};

use super::upstream::UpstreamCalls;

/// All calls in flight. Shows some and counts the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallsInFlight(Arc<CallRegistry>);

#[derive(Debug, Default)]
struct CallRegistry {
    shown: Mutex<BTreeMap<u64, Arc<CallState>>>,
    numbers: AtomicU64,
    all: AtomicUsize,
}

/// The state of a call. Its stages add to it.
#[derive(Debug)]
pub(crate) struct CallState {
    id: Box<str>,
    begun: Instant,
    tenant: OnceLock<Tenant>,
    model: OnceLock<Model>,
    asked: OnceLock<UpstreamCalls>,
    /// The attempts known to have failed.
    failed: AtomicU32,
    has_joined: AtomicBool,
    has_head: AtomicBool,
    has_resumed: AtomicBool,
    bytes: AtomicU64,
    /// The last event of its layers.
    notice: Mutex<Option<String>>,
}

/// Keeps a call in the list while it is in flight.
pub(crate) struct UnderWay {
    calls: CallsInFlight,
    number: u64,
    call: Arc<CallState>,
}

/// Limits the list to a length that a reader can follow.
const SHOWN: usize = 100;

// === impl Calls ===

impl CallsInFlight {
    pub(crate) fn begin(&self, id: &str) -> UnderWay {
        let number = self.0.numbers.fetch_add(1, Relaxed);
        self.0.all.fetch_add(1, Relaxed);
        let call = Arc::new(CallState::new(id));
        let mut shown = self.shown();
        if shown.len() < SHOWN {
            shown.insert(number, call.clone());
        }
        drop(shown);
        UnderWay { calls: self.clone(), number, call }
    }

    /// Records an event of a layer on its call.
    pub(crate) fn log(&self, event: &Event, info: &CallInfo) {
        if matches!(event, Event::HeartbeatSent) {
            return;
        }
        let of = |call: &&Arc<CallState>| *call.id == *info.id();
        let found = self.shown().values().filter(of).cloned().collect::<Vec<_>>();
        for call in found {
            call.log(event);
        }
    }

    /// The calls shown, oldest first, and the number of others.
    pub(crate) fn to_json(&self) -> (Value, usize) {
        let shown: Vec<_> = self.shown().values().cloned().collect();
        let others = self.0.all.load(Relaxed).saturating_sub(shown.len());
        (shown.iter().map(|call| call.to_json()).collect(), others)
    }

    fn shown(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<CallState>>> {
        self.0.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Call ===

impl CallState {
    fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            begun: Instant::now(),
            tenant: OnceLock::new(),
            model: OnceLock::new(),
            asked: OnceLock::new(),
            failed: AtomicU32::new(0),
            has_joined: AtomicBool::new(false),
            has_head: AtomicBool::new(false),
            has_resumed: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            notice: Mutex::new(None),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn of_tenant(&self, tenant: Option<&Tenant>) {
        if let Some(tenant) = tenant {
            let _ = self.tenant.set(tenant.clone());
        }
    }

    /// Records the model, when the request has been read.
    pub(crate) fn read(&self, model: Option<&Model>, asked: &UpstreamCalls) {
        if let Some(model) = model {
            let _ = self.model.set(model.clone());
        }
        let _ = self.asked.set(asked.clone());
    }

    pub(crate) fn answered(&self, bytes: usize) {
        self.has_head.store(true, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn log(&self, event: &Event) {
        match event {
            Event::FlightJoined => self.has_joined.store(true, Relaxed),
            Event::RetryScheduled { .. } | Event::FallbackUsed { .. } | Event::BackupFailed { .. } => {
                self.failed.store(self.attempts(), Relaxed);
            }
            Event::StreamResumed { .. } => self.has_resumed.store(true, Relaxed),
            _ => {}
        }
        *self.notice.lock().unwrap_or_else(PoisonError::into_inner) = Some(event.to_string());
    }

    /// `queued`: not sent to an upstream yet; `waiting`: for the upstream's answer; `streaming`: the answer arrives;
    /// `resumed`: it broke, and its rest arrives.
    fn phase(&self) -> &'static str {
        let attempts = self.attempts();
        // A stream may have begun with heartbeats before the answer.
        let has_upstream =
            self.asked.get().and_then(UpstreamCalls::took).is_some() && attempts > self.failed.load(Relaxed);
        let is_answered = attempts == 0 || has_upstream;
        if self.has_resumed.load(Relaxed) {
            "resumed"
        } else if self.has_head.load(Relaxed) && is_answered {
            "streaming"
        } else if attempts > 0 || self.has_joined.load(Relaxed) {
            "waiting"
        } else {
            "queued"
        }
    }

    fn attempts(&self) -> u32 {
        self.asked.get().map_or(0, UpstreamCalls::times)
    }

    fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "phase": self.phase(),
            "ms": u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "model": self.model.get().map(Model::as_str),
            "tenant": self.tenant.get().map(Tenant::as_str),
            "attempts": self.attempts(),
            "bytes": self.bytes.load(Relaxed),
            "notice": *self.notice.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

// === impl UnderWay ===

impl UnderWay {
    pub(crate) fn call(&self) -> &Arc<CallState> {
        &self.call
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.calls.0.all.fetch_sub(1, Relaxed);
        let removed = self.calls.shown().remove(&self.number);
        drop(removed);
    }
}

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_shown_and_all_are_counted() {
        let calls = CallsInFlight::default();
        let open: Vec<_> = (0..SHOWN + 7).map(|nth| calls.begin(&nth.to_string())).collect();
        let (shown, others) = calls.to_json();
        assert_eq!((shown.as_array().unwrap().len(), others), (SHOWN, 7));
        drop(open);
        assert_eq!(calls.to_json(), (json!([]), 0));
    }
}
