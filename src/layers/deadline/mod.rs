//! One time budget for a call and its body: see [`DeadlineLayer`].

mod body;
mod config;
mod future;
mod layer;
mod limit;
mod remaining_time;
mod service;

pub use self::body::DeadlineBody;
pub use self::future::DeadlineFuture;
pub use self::layer::DeadlineLayer;
pub use self::service::DeadlineService;
