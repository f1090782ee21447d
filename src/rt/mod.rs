//! WAIT: the only place that reads a clock or arms a timer.

pub(crate) mod clock;
pub(crate) mod deadline;
#[cfg_attr(not(test), expect(dead_code, reason = "the layers that call more than once are built on it"))]
pub(crate) mod ready;
pub(crate) mod sync;
pub(crate) mod timer;
