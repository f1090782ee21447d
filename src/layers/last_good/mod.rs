//! An earlier answer, where the upstreams give none.

mod body;
mod config;
mod future;
mod key;
mod layer;
mod recorder;
mod service;
mod stored;

pub use self::body::LastGoodBody;
pub use self::future::LastGoodFuture;
pub use self::layer::LastGoodLayer;
pub use self::service::LastGood;
