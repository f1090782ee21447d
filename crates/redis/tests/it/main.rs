//! The crate against a real Redis, which each test starts for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod breaker;
mod client;
mod faults;
mod forget;
mod last_good;
mod model;
mod pace;
mod processes;
mod resumable;
mod simulation;
mod store;
mod supersede;
mod support;
