//! Refusals as typed errors: see [`RejectionsAsErrorsLayer`].

mod future;
mod layer;
mod service;

pub use self::future::RejectionsAsErrorsFuture;
pub use self::layer::RejectionsAsErrorsLayer;
pub use self::service::RejectionsAsErrors;
