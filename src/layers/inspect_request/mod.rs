//! Decisions that need the request's body: see [`InspectRequestLayer`].

mod config;
mod future;
mod layer;
mod llm;
mod reading;
mod service;

pub use self::future::InspectRequestFuture;
pub use self::layer::InspectRequestLayer;
pub use self::service::InspectRequest;
