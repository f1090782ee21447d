//! One upstream call for several callers who ask the same: see [`DedupLayer`].

mod body;
mod flight;
mod future;
mod grace;
mod layer;
mod request;
mod service;

pub use self::body::DedupBody;
pub use self::future::{DedupFuture, DedupRole};
pub use self::layer::{DedupLayer, InFlightPolicy};
pub use self::service::Dedup;
