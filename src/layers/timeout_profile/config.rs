use std::fmt;
use std::sync::Arc;

use http::request::Parts;

use crate::policy::timeout_profile::TimeoutProfile;

/// Returns the time limits for a request with this head; `None`: the layers' own.
#[derive(Clone)]
pub struct ProfileChooser(pub(super) Arc<ChooseFn>);

type ChooseFn = dyn Fn(&Parts) -> Option<TimeoutProfile> + Send + Sync;

impl fmt::Debug for ProfileChooser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Choose")
    }
}
