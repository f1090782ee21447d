//! WebSockets: connections that switch protocols.

use std::collections::HashMap;
use std::io;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, OptionFuture, select};
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, copy, split};
use tokio::time::timeout;
use tower_buttress::Tenant;
use tower_buttress::error::BoxError;

use super::account::holder;
use super::callers::KeyRemoval;
use super::headers::lists;
use super::shutdown::OpenGuard;
use super::telemetry;

/// Counts open and requested tunnels per caller. The layers see only a tunnel's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunnels {
    by_caller: Arc<Mutex<HashMap<Tenant, u32>>>,
    /// The limit per caller.
    limit: Option<NonZeroU32>,
}

/// A requested tunnel. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Tunnel {
    client: OnUpgrade,
    removal: Option<KeyRemoval>,
    tunnels: Tunnels,
    caller: Tenant,
}

/// The caller has reached its limit.
#[derive(Debug)]
pub(crate) struct TooManyTunnels;

/// How long one side may continue after the other ended: enough to close a WebSocket (RFC 6455, 7.1).
const CLOSING: Duration = Duration::from_secs(10);

/// The client's side of a requested tunnel. Only for WebSockets: an upgrade to `h2c` would bypass every check of the
/// gateway.
pub(crate) fn asked(parts: &mut Parts) -> Option<OnUpgrade> {
    let asked = parts.version == Version::HTTP_11 && to_websocket(&parts.headers);
    if asked { parts.extensions.remove() } else { None }
}

/// Whether this head requests or accepts a switch to WebSockets.
pub(crate) fn to_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &CONNECTION, "upgrade") && lists(headers, &UPGRADE, "websocket")
}

/// Repeats the switch for the next hop.
pub(crate) fn mark(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

// === impl Tunnels ===

impl Tunnels {
    /// The same tunnels with another limit.
    pub(crate) fn with_limit(&self, limit: Option<NonZeroU32>) -> Self {
        Self { by_caller: self.by_caller.clone(), limit }
    }

    /// Counts a new tunnel of this request's caller.
    pub(crate) fn begin(&self, client: OnUpgrade, request: &Parts) -> Result<Tunnel, TooManyTunnels> {
        let caller = holder(request);
        let mut by_caller = self.lock();
        let count = by_caller.get(&caller).map_or(0, |count| *count);
        if self.limit.is_some_and(|limit| count >= limit.get()) {
            return Err(TooManyTunnels);
        }
        by_caller.insert(caller.clone(), count.saturating_add(1));
        let removal = request.extensions.get::<KeyRemoval>().cloned();
        Ok(Tunnel { client, removal, tunnels: self.clone(), caller })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, u32>> {
        self.by_caller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tunnel ===

impl Tunnel {
    /// Copies bytes both ways until one side ends or fails, or the caller's key is removed: a tunnel has no deadline.
    pub(crate) async fn carry(mut self, upstream: OnUpgrade, open: OpenGuard) {
        let removal = self.removal.take();
        let ended = async {
            let (client, upstream) = tokio::try_join!(&mut self.client, upstream)?;
            relay(TokioIo::new(client), TokioIo::new(upstream)).await?;
            Ok::<_, BoxError>(())
        };
        tokio::select! {
            ended = ended => if let Err(error) = ended {
                tracing::info!("a tunnel failed: {}", telemetry::chain(error.as_ref()));
            },
            Some(()) = OptionFuture::from(removal.map(KeyRemoval::wait)) => {}
        }
        drop(open);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut by_caller = self.tunnels.lock();
        if let Some(count) = by_caller.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                by_caller.remove(&self.caller);
            }
        }
    }
}

/// Copies bytes both ways. When one side ends, the other is cut off after [`CLOSING`].
async fn relay<C, U>(client: C, upstream: U) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let ((from_client, to_client), (from_upstream, to_upstream)) = (split(client), split(upstream));
    let up = pin!(pass(from_client, to_upstream));
    let down = pin!(pass(from_upstream, to_client));
    let rest = match select(up, down).await {
        Either::Left((ended, down)) => ended.map(|()| Either::Left(down))?,
        Either::Right((ended, up)) => ended.map(|()| Either::Right(up))?,
    };
    timeout(CLOSING, rest).await.unwrap_or(Ok(()))
}

async fn pass<A: AsyncRead, B: AsyncWrite>(mut from: ReadHalf<A>, mut to: WriteHalf<B>) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_close_is_cut_off_when_the_other_has_ended() {
        let ((mut caller, client), (mut server, upstream)) = (duplex(64), duplex(64));
        let tunnel = tokio::spawn(relay(client, upstream));
        server.write_all(b"farewell").await.unwrap();
        drop(server);
        let mut said = String::new();
        // Nothing is lost, and the end is forwarded at once.
        let begun = Instant::now();
        caller.read_to_string(&mut said).await.unwrap();
        assert_eq!((said.as_str(), begun.elapsed()), ("farewell", Duration::ZERO));
        tunnel.await.unwrap().unwrap();
        assert_eq!(begun.elapsed(), CLOSING);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_in_answer_to_the_end_still_passes() {
        let ((mut caller, client), (mut server, upstream)) = (duplex(64), duplex(64));
        let tunnel = tokio::spawn(relay(client, upstream));
        caller.write_all(b"close").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut said = String::new();
        server.read_to_string(&mut said).await.unwrap();
        tokio::time::sleep(CLOSING / 2).await;
        server.write_all(b"closed").await.unwrap();
        drop(server);
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert_eq!((said.as_str(), answer.as_str()), ("close", "closed"));
        tunnel.await.unwrap().unwrap();
    }
}
