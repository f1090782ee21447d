//! WebSockets: a connection that changes its protocol becomes a tunnel.

use futures_util::future::OptionFuture;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Version};
use hyper::upgrade::{self, OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::callers::KeyRemoval;
use super::drain::Open;
use super::headers::lists;
use super::telemetry;

/// The client's half of a tunnel to come, where it asks for one. Only WebSockets: an upgrade to `h2c` would let
/// the caller speak to the upstream past everything the gateway is there for.
pub(crate) fn asked<B>(request: &mut Request<B>) -> Option<OnUpgrade> {
    let asked = request.version() == Version::HTTP_11 && to_websocket(request.headers());
    asked.then(|| upgrade::on(request))
}

/// Does this head ask to change to WebSockets, or agree to?
pub(crate) fn to_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &CONNECTION, "upgrade") && lists(headers, &UPGRADE, "websocket")
}

/// Says so on the next hop.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Carries bytes between the two, until both have ended or one has failed, or the key of the caller is removed: a tunnel has no end
/// of its own.
pub(crate) async fn carry(client: OnUpgrade, upstream: OnUpgrade, open: Open, removal: Option<KeyRemoval>) {
    let ended = async {
        let (client, upstream) = tokio::try_join!(client, upstream)?;
        copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(upstream)).await?;
        Ok::<_, tower_buttress::error::BoxError>(())
    };
    tokio::select! {
        ended = ended => if let Err(error) = ended {
            tracing::info!("a tunnel broke off: {}", telemetry::chain(error.as_ref()));
        },
        Some(()) = OptionFuture::from(removal.map(KeyRemoval::wait)) => {}
    }
    drop(open);
}
