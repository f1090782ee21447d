//! The groups of options in `--help`.

pub(super) const TRUST: &str = "Upstreams and credentials";
pub(super) const TIME: &str = "Time limits";
pub(super) const ATTEMPTS: &str = "Retries";
pub(super) const STREAMS: &str = "Streams";
pub(super) const DEDUP: &str = "Duplicate requests and resumable answers";
pub(super) const CONVERSATIONS: &str = "Conversations";
pub(super) const STRUCTURED: &str = "JSON answers";
pub(super) const LAST_GOOD: &str = "Last good answers";
pub(super) const BREAKER: &str = "Circuit breaker";
pub(super) const LOAD: &str = "Load limits";
pub(super) const FLEET: &str = "Several gateways";
pub(super) const CALLERS: &str = "Callers";
pub(super) const SERVER: &str = "Server";
