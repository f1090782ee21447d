//! A connection that can be reset, as a caller's is where an answer broke off and the caller has no other way to know.
//!
//! Over HTTP/1.0 an answer without a length ends with its connection, whether it is whole or not. A connection that was reset
//! did not end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection that is reset, not closed, where that was [wanted](ResetOnDrop::want).
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    reset: ResetOnDrop,
}

/// Whether a connection is to be reset when it is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResetOnDrop(Arc<AtomicBool>);

/// Whether a caller's connection is to be reset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reset {
    /// Its caller speaks HTTP/1.0.
    is_old: Arc<AtomicBool>,
    pub(crate) on_drop: ResetOnDrop,
}

/// A reset overtakes what the system has not delivered yet.
const DELIVERED: Duration = Duration::from_millis(500);

// === impl Reset ===

impl Reset {
    /// A request has come.
    pub(crate) fn note(&self, version: Version) {
        if version < Version::HTTP_11 {
            self.is_old.store(true, Ordering::Relaxed);
        }
    }

    /// The connection has failed. Comes back when it may be dropped.
    pub(crate) async fn failed(&self, error: &hyper::Error) {
        // An answer that broke off, and not the connection or the request.
        if error.is_user() && self.is_old.load(Ordering::Relaxed) {
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
            // With no time to linger, close(2) sends a reset.
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
