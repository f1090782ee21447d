//! Identifies the call that an event is about.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::uri::Authority;
use http::{Extensions, Method};

use super::Model;

/// Identifies the call that an event is about. Each [`Observer`](crate::Observer) gets it, and so do the extensions of
/// the request below an [`ObserveLayer`](crate::ObserveLayer).
///
/// While a future or a body below that layer is polled, it is the thread's [`current`](Self::current) call, like a span
/// of `tracing`: no layer passes it on.
#[derive(Clone)]
pub struct CallInfo {
    facts: Arc<CallFacts>,
    /// Inside an attempt.
    /// The upstream of an attempt, and its number there.
    place: Option<(Arc<str>, u32)>,
}

struct CallFacts {
    id: Box<str>,
    stack: Arc<str>,
    method: Method,
    host: Option<Authority>,
    model: OnceLock<Model>,
    attempt: AtomicU32,
    started: Instant,
    late_spans: bool,
}

/// Makes a call the current one of this thread, until dropped.
pub(crate) struct EnteredCall<'a>(&'a mut Option<CallInfo>);

thread_local! {
    static CURRENT: Cell<Option<CallInfo>> = const { Cell::new(None) };
}

// === impl CallInfo ===

impl CallInfo {
    pub(crate) fn new(
        id: Box<str>,
        stack: Arc<str>,
        method: Method,
        host: Option<Authority>,
        started: Instant,
        late_spans: bool,
    ) -> Self {
        let (model, attempt) = (OnceLock::new(), AtomicU32::new(1));
        let facts = CallFacts { id, stack, method, host, model, attempt, started, late_spans };
        Self { facts: Arc::new(facts), place: None }
    }

    /// The same call, inside this attempt at this upstream.
    pub(crate) fn at(&self, upstream: Arc<str>, attempt: u32) -> Self {
        Self { facts: self.facts.clone(), place: Some((upstream, attempt)) }
    }

    /// The upstream of the current attempt, and the attempt's number there: a backup has its own first one.
    #[cfg(feature = "tracing")]
    pub(crate) fn place(&self) -> Option<(&str, u32)> {
        self.place.as_ref().map(|(upstream, attempt)| (&**upstream, *attempt))
    }

    /// Returns the call that this thread works on, inside an [`ObserveLayer`](crate::ObserveLayer).
    #[must_use]
    pub fn current() -> Option<Self> {
        // While the thread ends, events carry no call.
        CURRENT
            .try_with(|current| {
                let call = current.take();
                current.set(call.clone());
                call
            })
            .ok()
            .flatten()
    }

    pub(crate) fn in_extensions(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// The id of the call: the request's own, or 16 random hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.facts.id
    }

    /// The name of the stack, given to the [`ObserveLayer`](crate::ObserveLayer).
    #[must_use]
    pub fn stack(&self) -> &str {
        &self.facts.stack
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.facts.method
    }

    /// The host, with its port, that the request names.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.facts.host.as_ref().map(Authority::as_str)
    }

    /// The model that the request names, once its body has been read. The caller chooses it.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.facts.model.get().map(Model::as_str)
    }

    /// The number of the current, or the last, attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.facts.attempt.load(Relaxed)
    }

    /// When the call reached the stack.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.facts.started
    }

    /// The upstream of the current attempt, as its [`ObserveLayer::attempts`](crate::ObserveLayer::attempts) names it.
    #[must_use]
    pub fn upstream(&self) -> Option<&str> {
        self.place.as_ref().map(|(upstream, _)| &**upstream)
    }

    /// Whether its spans are opened only around lines of events.
    pub(crate) fn has_late_spans(&self) -> bool {
        self.facts.late_spans
    }

    pub(crate) fn set_model(&self, model: &Model) {
        // Another reading of the same body finds the same model.
        let _ = self.facts.model.set(model.clone());
    }

    pub(crate) fn set_attempt(&self, attempt: u32) {
        self.facts.attempt.store(attempt, Relaxed);
    }
}

impl fmt::Debug for CallInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallInfo")
            .field("id", &self.id())
            .field("stack", &self.stack())
            .field("method", self.method())
            .field("host", &self.host())
            .field("model", &self.model())
            .field("attempt", &self.attempt())
            .field("upstream", &self.upstream())
            .finish()
    }
}

// === impl EnteredCall ===

impl<'a> EnteredCall<'a> {
    /// `call` holds the call that was current before, until this is dropped.
    #[inline]
    pub(crate) fn new(call: &'a mut Option<CallInfo>) -> Self {
        swap(call);
        Self(call)
    }
}

impl Drop for EnteredCall<'_> {
    #[inline]
    fn drop(&mut self) {
        swap(self.0);
    }
}

#[inline]
fn swap(call: &mut Option<CallInfo>) {
    let _ = CURRENT.try_with(|current| *call = current.replace(call.take()));
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn call(id: &str) -> Option<CallInfo> {
        Some(CallInfo::new(id.into(), "stack".into(), Method::GET, None, Instant::now(), false))
    }

    fn current() -> Option<String> {
        CallInfo::current().map(|call| call.id().to_owned())
    }

    #[test]
    fn a_call_is_current_while_it_is_entered_and_the_outer_one_afterwards() {
        let (mut outer, mut inner) = (call("outer"), call("inner"));
        assert_eq!(current(), None);
        {
            let _outer = EnteredCall::new(&mut outer);
            assert_eq!(current().as_deref(), Some("outer"));
            {
                let _inner = EnteredCall::new(&mut inner);
                assert_eq!(current().as_deref(), Some("inner"));
            }
            assert_eq!(current().as_deref(), Some("outer"));
        }
        assert_eq!(current(), None);
        assert!(outer.is_some() && inner.is_some());
    }

    #[test]
    fn a_panic_leaves_no_call_behind() {
        let mut call = call("a");
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _entered = EnteredCall::new(&mut call);
            panic!("inside");
        }));
        assert!(panicked.is_err());
        assert_eq!(current(), None);
        assert!(call.is_some());
    }
}
