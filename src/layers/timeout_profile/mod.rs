//! Time limits by request: see [`TimeoutProfileLayer`].

mod config;
mod layer;
mod service;

pub use self::layer::TimeoutProfileLayer;
pub use self::service::TimeoutProfileService;
