//! Errors that the other layers can judge: see [`AnyErrorLayer`].

mod layer;
mod service;

pub use self::layer::AnyErrorLayer;
pub use self::service::{AnyError, AnyErrorFuture};
