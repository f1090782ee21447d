//! Which call is told of, and what became of it: see [`ObserveLayer`].

mod body;
mod call;
mod config;
mod future;
mod layer;
mod service;
mod trace;

pub use self::body::ObserveBody;
pub use self::future::ObserveFuture;
pub use self::layer::ObserveLayer;
pub use self::service::Observe;
