//! Calls that fail at once while the upstream is down: see [`CircuitBreakerLayer`].

mod body;
mod breaker_set;
mod circuit;
mod classification;
mod future;
mod handle;
mod health;
mod layer;
mod notify;
mod permit;
mod registry;
mod service;

pub use self::body::CircuitBreakerBody;
pub use self::classification::SlowCallBy;
pub use self::future::CircuitBreakerFuture;
pub use self::handle::CircuitBreakerHandle;
pub use self::health::HealthProbeLayer;
pub use self::layer::CircuitBreakerLayer;
pub use self::service::CircuitBreaker;
