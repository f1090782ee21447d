use std::time::Duration;

use crate::event::Observers;

/// The settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub(super) enabled: bool,
    pub(super) limit: Duration,
    pub(super) observers: Observers,
}
