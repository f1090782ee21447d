use std::sync::Arc;

use http::request::Parts;

use super::config::Config;
use super::key;
use super::shared::{Shared, SupersedeStats};
use crate::call::Tenant;

/// Ends the calls of conversations from outside: a stop button. Made by
/// [`SupersedeLayer::handle`](crate::SupersedeLayer::handle).
///
/// ```
/// use http::{HeaderName, Request};
/// use tower_buttress::{SupersedeLayer, Tenant};
///
/// let layer = SupersedeLayer::by_header(HeaderName::from_static("x-conversation-id"));
/// let handle = layer.handle();
///
/// // In the handler of a stop button, with the head of its own request:
/// let stop = Request::post("/stop").header("x-conversation-id", "7").extension(Tenant::new("acme")).body(()).unwrap();
/// let (parts, ()) = stop.into_parts();
/// assert_eq!(handle.cancel(&parts), 0, "nothing is under way");
/// ```
#[derive(Clone, Debug)]
pub struct SupersedeHandle {
    config: Arc<Config>,
    shared: Arc<Shared>,
}

// === impl SupersedeHandle ===

impl SupersedeHandle {
    pub(super) fn new(config: Arc<Config>, shared: Arc<Shared>) -> Self {
        Self { config, shared }
    }

    /// Ends the calls in flight of the conversation to which a request with this head belongs, as a newer message would.
    /// Returns their number: 0 if there are none, or if the head names no conversation or no tenant. A message that was
    /// ended is refused when it comes again.
    ///
    /// The layer reads the conversation and its tenant from the head as from messages, so a caller can end only its own
    /// calls.
    #[must_use = "0 says that there was nothing to end"]
    pub fn cancel(&self, parts: &Parts) -> usize {
        key::conversation_of(parts, &self.config).map_or(0, |conversation| self.shared.cancel(&conversation))
    }

    /// The same for a conversation of this name of an [authenticated](Tenant) tenant.
    #[must_use = "0 says that there was nothing to end"]
    pub fn cancel_conversation(&self, tenant: &Tenant, conversation: &str) -> usize {
        key::named(tenant, conversation).map_or(0, |conversation| self.shared.cancel(&conversation))
    }

    /// Returns the numbers of known conversations and of calls in flight.
    #[must_use]
    pub fn stats(&self) -> SupersedeStats {
        self.shared.stats()
    }
}
