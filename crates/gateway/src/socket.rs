//! A connection that can be reset, for callers that cannot see otherwise that an answer broke off.
//!
//! Over HTTP/1.0 an answer without a length ends when its connection closes, whole or not. A reset tells the caller
//! that the answer is not whole.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that is reset instead of closed, if that was [wanted](ResetOnDrop::want).
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    reset: ResetOnDrop,
}

/// Whether to reset a connection when it is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResetOnDrop(Arc<AtomicBool>);

/// Whether to reset a caller's connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketReset {
    /// Whether the caller speaks HTTP/1.0.
    is_old: Arc<AtomicBool>,
    pub(crate) on_drop: ResetOnDrop,
}

/// A reset overtakes data that the system has not delivered yet.
const DELIVERED: Duration = Duration::from_millis(500);

// === impl Reset ===

impl SocketReset {
    /// Notes the version of a request.
    pub(crate) fn note(&self, version: Version) {
        if version < Version::HTTP_11 {
            self.is_old.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_old(&self) -> bool {
        self.is_old.load(Ordering::Relaxed)
    }

    /// Handles a failed connection. Returns when it may be dropped.
    pub(crate) async fn failed(&self, error: &hyper::Error) {
        // A user error means that the answer's body failed, not the connection or the request.
        if error.is_user() && self.is_old() {
            self.on_drop.want();
            tokio::time::sleep(DELIVERED).await;
        }
    }
}

// === impl ResetOnDrop ===

impl ResetOnDrop {
    pub(crate) fn want(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// === impl Socket ===

impl Socket {
    pub(crate) fn new(stream: TcpStream, reset: ResetOnDrop) -> Self {
        Self { stream, reset }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.0.load(Ordering::Relaxed) {
            // With linger time 0, close(2) sends a reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
