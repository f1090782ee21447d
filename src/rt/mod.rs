//! Clocks and timers: the only place that reads a clock or arms a timer.

pub(crate) mod alarm;
pub(crate) mod cancellation;
pub(crate) mod clock;
pub(crate) mod deadline;
pub(crate) mod entropy;
pub(crate) mod layer_classifier;
pub(crate) mod layered;
pub(crate) mod per_thread;
pub(crate) mod random_key;
pub(crate) mod ready;
pub(crate) mod retry_budget;
pub(crate) mod settings;
pub(crate) mod sync;
pub(crate) mod timeout;
pub(crate) mod timer;
pub(crate) mod write_timeout;
