//! The line of calls that wait until the fleet has turns for them soon.

use std::task::Waker;

use crate::policy::pace::Turns;
use crate::rt::sync::Mutex;

#[derive(Debug)]
pub(super) struct TurnLine(pub(super) Mutex<Turns<TurnWaiter>>);

#[derive(Debug)]
pub(super) struct TurnWaiter {
    pub(super) waker: Option<Waker>,
    /// The other processes are unreachable: the number of equal parts of the rates, of which this process has one.
    pub(super) alone: Option<u32>,
}

impl Default for TurnLine {
    fn default() -> Self {
        Self(Mutex::new(Turns::new()))
    }
}
