use std::sync::Arc;

use http::request::Parts;

use super::config::Config;
use super::key;
use super::shared::{Shared, SupersedeStats};
use crate::call::Tenant;

/// Ends the calls of conversations from outside: the stop button. Made by [`SupersedeLayer::handle`](crate::SupersedeLayer::handle).
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

    /// Ends what is under way in the conversation to which a request with this head belongs, as a newer message would.
    /// Returns how many calls that were: 0 where there is none, and where the head names no conversation or no tenant. What was
    /// ended is refused when it comes again.
    ///
    /// The conversation and its tenant are read from the head as the layer reads them from messages, so that a caller can
    /// end only what is its own.
    #[must_use = "0 says that there was nothing to end"]
    pub fn cancel(&self, parts: &Parts) -> usize {
        key::conversation_of(parts, &self.config).map_or(0, |conversation| self.shared.cancel(&conversation))
    }

    /// The same for the conversation of this name of a tenant that was [authenticated](Tenant).
    #[must_use = "0 says that there was nothing to end"]
    pub fn cancel_conversation(&self, tenant: &Tenant, conversation: &str) -> usize {
        key::named(tenant, conversation).map_or(0, |conversation| self.shared.cancel(&conversation))
    }

    /// How many conversations are known, and how many calls are under way.
    #[must_use]
    pub fn stats(&self) -> SupersedeStats {
        self.shared.stats()
    }
}
