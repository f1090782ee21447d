//! No layers.

use std::net::SocketAddr;

use tower::ServiceExt;

use super::{Client, boxed, upstream};

pub(super) fn client(primary: SocketAddr) -> Client {
    Client::new(upstream(primary).map_response(boxed).map_err(Into::into))
}
