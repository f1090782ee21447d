//! The receiver of a layer's events.

use std::fmt;
use std::sync::Arc;

use super::Event;
use crate::call::CallInfo;
use crate::rt::per_thread::{PerThread, ThreadArc};

/// Receives the events of the layers it was given to.
///
/// A closure is an `Observer`. `call` names the call that an event is about. It is `None` without an
/// [`ObserveLayer`](crate::ObserveLayer) around the layers, and for events about no single call: a circuit that changes
/// by time, a wrong setting.
///
/// The layer calls it on the task that makes the call, outside every lock of this crate: return quickly.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use tower_buttress::{CallInfo, Event, IdleBodyTimeoutLayer, Observer};
///
/// let layer = IdleBodyTimeoutLayer::new(Duration::from_secs(15)).observer(Arc::new(
///     |event: &Event, call: Option<&CallInfo>| println!("{}: {event}", call.map_or("-", CallInfo::id)),
/// ));
///
/// /// Or, with a state of its own:
/// struct Log(std::sync::Mutex<Vec<String>>);
///
/// impl Observer for Log {
///     fn on_event(&self, event: &Event, _call: Option<&CallInfo>) {
///         self.0.lock().unwrap().push(event.to_string());
///     }
/// }
/// # let _ = layer;
/// ```
pub trait Observer: Send + Sync {
    /// Called once per event.
    fn on_event(&self, event: &Event, call: Option<&CallInfo>);
}

/// The observer of a layer, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Observers(Option<PerThread<dyn Observer>>);

/// The observer as one call, circuit or shared answer holds it.
#[derive(Clone, Default)]
pub(crate) struct Emitter(Option<ThreadArc<dyn Observer>>);

impl<F> Observer for F
where
    F: Fn(&Event, Option<&CallInfo>) + Send + Sync,
{
    fn on_event(&self, event: &Event, call: Option<&CallInfo>) {
        self(event, call);
    }
}

// === impl Event ===

impl Event {
    /// A layer or store of another crate met something that it cannot handle.
    #[must_use]
    pub const fn bypassed(layer: &'static str, reason: &'static str) -> Self {
        Self::Bypassed { layer, reason }
    }

    /// A backend became reachable, or unreachable for this reason.
    #[must_use]
    pub fn backend_changed(backend: &'static str, reached: Result<(), Arc<str>>) -> Self {
        Self::BackendChanged { backend, reached: reached.is_ok(), why: reached.err().unwrap_or_default() }
    }

    /// A backend is reachable and refused an operation with these words.
    #[must_use]
    pub const fn backend_refused(backend: &'static str, why: Arc<str>) -> Self {
        Self::BackendRefused { backend, why }
    }

    /// Emits the event as a layer of this crate does: through the features `tracing` and `metrics`, and to `observer`.
    /// For stores and layers in other crates.
    ///
    /// ```
    /// use tower_buttress::{CallInfo, Event};
    ///
    /// let print = |event: &Event, _: Option<&CallInfo>| {
    ///     assert_eq!(event.to_string(), "redis: unreachable: connection refused");
    /// };
    /// Event::backend_changed("redis", Err("connection refused".into())).emit(Some(&print));
    /// ```
    #[cold]
    pub fn emit(&self, observer: Option<&dyn Observer>) {
        let call = CallInfo::current();
        #[cfg(feature = "tracing")]
        super::log::line(self, call.as_ref());
        #[cfg(feature = "metrics")]
        count(self, call.as_ref());
        if let Some(observer) = observer {
            observer.on_event(self, call.as_ref());
        }
    }
}

// === impl Observers ===

impl Observers {
    pub(crate) fn to(observer: Arc<dyn Observer>) -> Self {
        Self(Some(PerThread::new(observer)))
    }

    /// For a call that this thread makes.
    #[inline]
    pub(crate) fn emitter(&self) -> Emitter {
        Emitter(self.0.as_ref().map(PerThread::hold))
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.emitter().fmt(f)
    }
}

// === impl Emitter ===

impl Emitter {
    pub(crate) fn to(observer: Arc<dyn Observer>) -> Self {
        Observers::to(observer).emitter()
    }

    /// Cold: a successful call emits no event.
    #[cold]
    pub(crate) fn emit(&self, event: &Event) {
        event.emit(self.0.as_deref());
    }
}

impl fmt::Debug for Emitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Observer" } else { "none" })
    }
}

#[cfg(feature = "metrics")]
fn count(event: &Event, call: Option<&CallInfo>) {
    const NAME: &str = "tower_buttress_events_total";
    let (event, detail) = (event.name(), event.detail());
    match call {
        None => metrics::counter!(NAME, "event" => event, "detail" => detail),
        Some(call) => {
            metrics::counter!(NAME, "event" => event, "detail" => detail, "stack" => call.stack().to_owned())
        }
    }
    .increment(1);
}
