//! Composable [tower] layers that keep calls to slow, flaky, *streaming* HTTP upstreams standing.
//!
//! [tower]: https://docs.rs/tower

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod error;
mod event;
mod rejection;

mod body;
mod layers;
mod policy;
pub mod proto;
mod rt;

pub use self::body::upload::UploadBody;
pub use self::event::{Event, Observer};
pub use self::layers::connect_timeout::{ConnectTimeout, ConnectTimeoutFuture, ConnectTimeoutLayer};
pub use self::layers::deadline::{DeadlineBody, DeadlineFuture, DeadlineLayer, DeadlineService};
pub use self::layers::first_byte_timeout::{
    FirstByte, FirstByteTimeout, FirstByteTimeoutBody, FirstByteTimeoutFuture, FirstByteTimeoutLayer,
};
pub use self::layers::idle_body_timeout::{
    Activity, IdleBodyTimeout, IdleBodyTimeoutBody, IdleBodyTimeoutFuture, IdleBodyTimeoutLayer,
};
pub use self::layers::rejections_as_errors::{RejectionsAsErrors, RejectionsAsErrorsFuture, RejectionsAsErrorsLayer};
pub use self::policy::timeout_profile::TimeoutProfile;
pub use self::proto::deadline::DeadlineHeader;
pub use self::rejection::{Rejection, RejectionKind, Wire};
pub use self::rt::deadline::{Deadline, DeadlineScope};
