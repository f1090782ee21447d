//! The groups of options in `--help`.

pub(super) const TRUST: &str = "Upstreams and trust";
pub(super) const TIME: &str = "Limits of time";
pub(super) const ATTEMPTS: &str = "Attempts";
pub(super) const STREAMS: &str = "Streams";
pub(super) const DEDUP: &str = "Duplicate requests";
pub(super) const CONVERSATIONS: &str = "Conversations";
pub(super) const STRUCTURED: &str = "JSON answers";
pub(super) const LAST_GOOD: &str = "Last good answers";
pub(super) const BREAKER: &str = "Circuit breaker";
pub(super) const LOAD: &str = "Limits of load";
pub(super) const FLEET: &str = "Beyond one process";
pub(super) const CALLERS: &str = "Callers";
pub(super) const SERVER: &str = "Server";
