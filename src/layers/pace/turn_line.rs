//! The line of calls that wait until the fleet has turns for them soon.

use std::task::Waker;
use std::time::Instant;

use crate::policy::pace::Turns;
use crate::rt::sync::Mutex;

#[derive(Debug)]
pub(super) struct TurnLine(pub(super) Mutex<Turns<Waiter>>);

#[derive(Debug)]
pub(super) struct Waiter {
    /// When it can wait no longer.
    pub(super) until: Option<Instant>,
    pub(super) waker: Option<Waker>,
    /// The others cannot be asked: of how many equal parts of the rates this process has one.
    pub(super) alone: Option<u32>,
}

impl Default for TurnLine {
    fn default() -> Self {
        Self(Mutex::new(Turns::new()))
    }
}
