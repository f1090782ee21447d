//! Checks that answers parse and match the requested schema: see [`StructuredOutputLayer`].

mod body;
mod call;
mod config;
mod examined;
mod future;
mod layer;
mod request;
mod service;

pub use self::body::StructuredOutputBody;
pub use self::future::StructuredOutputFuture;
pub use self::layer::StructuredOutputLayer;
pub use self::service::StructuredOutput;
pub use crate::body::output_usage::OutputUsage;
