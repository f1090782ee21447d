//! Names the call that events and log lines are about, and reports how it ended: see [`ObserveLayer`].

mod body;
mod call;
mod config;
mod figures;
mod future;
mod layer;
mod outcome;
mod service;
mod trace;

pub use self::body::ObserveBody;
pub use self::future::ObserveFuture;
pub use self::layer::ObserveLayer;
pub use self::service::Observe;
