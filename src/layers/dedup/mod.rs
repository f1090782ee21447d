//! One upstream call for several callers who ask the same: see [`DedupLayer`].

mod body;
mod flight;
mod future;
mod keeper;
mod layer;
mod request;
mod service;

pub use self::body::DedupBody;
pub use self::future::{DedupFuture, DedupRole};
pub use self::layer::{DedupLayer, InFlight};
pub use self::service::Dedup;
