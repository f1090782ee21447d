//! Limits of time by request: see [`TimeoutProfileLayer`].

mod layer;
mod service;

pub use self::layer::TimeoutProfileLayer;
pub use self::service::TimeoutProfileService;
