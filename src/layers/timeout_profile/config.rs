use std::sync::Arc;

use http::request::Parts;

use crate::policy::timeout_profile::TimeoutProfile;

/// Returns the time limits for a request with this head; `None`: the layers' own.
pub(super) type Choose = Arc<dyn Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync>;
