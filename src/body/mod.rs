//! The building blocks of the layers' bodies.

pub(crate) mod boxed;
pub(crate) mod collect;
pub(crate) mod drain;
pub(crate) mod either;
pub(crate) mod ending;
pub(crate) mod erased;
pub(crate) mod frame_budget;
pub(crate) mod monitored;
pub(crate) mod observed;
#[cfg(feature = "schema")]
pub(crate) mod output_usage;
pub(crate) mod prefixed;
pub(crate) mod request;
pub(crate) mod response;
