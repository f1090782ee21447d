//! What `tower-buttress` costs, beside its peers, in the same run.
//!
//! Nanoseconds differ from machine to machine and from minute to minute; allocations and instructions do not. So every
//! figure is printed over the bare service or body of the same run.

pub mod alloc;
pub mod bodies;
pub mod measure;
pub mod services;
pub mod spoken;
pub mod table;
