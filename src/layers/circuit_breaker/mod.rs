//! Calls that fail at once while the upstream is down: see [`CircuitBreakerLayer`].

mod body;
mod breakers;
mod circuit;
mod future;
mod handle;
mod health;
mod judge;
mod layer;
mod permit;
mod registry;
mod service;
mod tell;

pub use self::body::CircuitBreakerBody;
pub use self::future::CircuitBreakerFuture;
pub use self::handle::CircuitBreakerHandle;
pub use self::health::HealthProbeLayer;
pub use self::judge::SlowBy;
pub use self::layer::CircuitBreakerLayer;
pub use self::service::CircuitBreaker;
