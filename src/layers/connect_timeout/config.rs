use std::time::Duration;

use crate::event::Observers;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) enabled: bool,
    pub(super) limit: Duration,
    pub(super) observers: Observers,
}
