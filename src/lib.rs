//! Composable [tower] layers that keep calls to slow, flaky, *streaming* HTTP upstreams standing.
//!
//! [tower]: https://docs.rs/tower

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod error;
mod event;
mod rejection;

mod body;
mod policy;
pub mod proto;
mod rt;

pub use self::event::{Event, Observer};
pub use self::policy::timeout_profile::TimeoutProfile;
pub use self::proto::deadline::DeadlineHeader;
pub use self::rejection::{Rejection, RejectionKind, Wire};
pub use self::rt::deadline::{Deadline, DeadlineScope};
