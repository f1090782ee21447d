//! Measures the costs of `tower-buttress` and its peers in one run.
//!
//! Nanoseconds vary between machines and minutes; allocations and instructions do not. So every figure is printed over
//! the bare service or body of the same run.

pub mod alloc;
pub mod bodies;
pub mod measure;
pub mod services;
pub mod spoken;
pub mod table;
