//! Upstreams: their addresses, connections and credentials.

mod client;
mod client_set;
mod entry;
mod forward;
mod outgoing;
mod tls;
mod url;

pub(crate) use self::client::Connectors;
pub(crate) use self::entry::EntryLayer;
pub(crate) use self::forward::{Forward, UpstreamCalls};
pub(crate) use self::tls::{is_rejected_certificate, tls_advice, trust};
pub(crate) use self::url::{Protocol, Upstream};
