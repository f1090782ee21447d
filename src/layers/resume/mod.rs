//! Goes on with streams that broke, where that is right: see [`ResumeLayer`].

mod body;
mod config;
mod fault;
mod future;
mod kept;
mod layer;
mod reply;
mod service;
mod session;

pub use self::body::ResumeBody;
pub use self::future::ResumeFuture;
pub use self::layer::ResumeLayer;
pub use self::service::Resume;
