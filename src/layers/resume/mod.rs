//! Continues streams that broke, where that is correct: see [`ResumeLayer`].

mod body;
mod config;
mod future;
mod layer;
mod pending;
mod pending_end;
mod reply;
mod resume_source;
mod service;
mod session;

pub use self::body::ResumeBody;
pub use self::future::ResumeFuture;
pub use self::layer::ResumeLayer;
pub use self::service::Resume;
