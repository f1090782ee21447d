//! The request's body below the layers, and how a request is sent again.

mod call_body;
mod handled;
#[cfg(all(test, buttress_loom))]
mod loom_tests;
mod reading;
mod recording;
mod resend;
mod sending;
mod share;
#[cfg(test)]
mod tests;
mod upload;

pub use self::call_body::CallBody;
pub use self::handled::HandledFuture;
pub(crate) use self::handled::{Handled, Next};
pub(crate) use self::reading::{RequestRead, RequestReading, Unread};
pub(crate) use self::recording::ReadState;
pub(crate) use self::resend::Resend;
#[cfg(feature = "llm")]
pub(crate) use self::resend::head_of;
pub(crate) use self::sending::Upload;
pub(crate) use self::share::share_of;
pub(crate) use self::upload::UploadWatch;
