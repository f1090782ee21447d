//! The provider's side of its sockets: it counts connections and can reset one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::Counts;

/// Resets the connection a request came on.
#[derive(Clone, Debug, Default)]
pub(super) struct Reset(Arc<ResetState>);

#[derive(Debug, Default)]
struct ResetState {
    wanted: AtomicBool,
    notify: Notify,
}

/// A socket that is reset, not closed, when it was so wanted.
struct Socket {
    stream: TcpStream,
    reset: Reset,
    counts: watch::Sender<Counts>,
}

pub(super) async fn serve(listener: TcpListener, app: Router, counts: watch::Sender<Counts>) {
    // A listener that fails to accept ends a simulated provider; only a server for others has to survive that.
    while let Ok((stream, _)) = listener.accept().await {
        // One small event per segment, at once.
        let _ = stream.set_nodelay(true);
        let reset = Reset::default();
        let service = TowerToHyperService::new(app.clone().layer(Extension(reset.clone())));
        let socket = Socket::new(stream, reset.clone(), counts.clone());
        tokio::spawn(async move {
            let connection =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service);
            tokio::select! {
                // First what is still to be written, then the reset.
                biased;
                _ = connection => {}
                () = reset.wanted() => {}
            }
        });
    }
}

// === impl Reset ===

impl Reset {
    /// Resets the connection. The caller's future is gone with it, so this never returns.
    pub(super) async fn now(&self) -> ! {
        self.0.wanted.store(true, Ordering::Release);
        self.0.notify.notify_one();
        std::future::pending().await
    }

    async fn wanted(&self) {
        self.0.notify.notified().await;
    }
}

// === impl Socket ===

impl Socket {
    fn new(stream: TcpStream, reset: Reset, counts: watch::Sender<Counts>) -> Self {
        counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
        });
        Self { stream, reset, counts }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.0.wanted.load(Ordering::Acquire) {
            // With no time to linger, close(2) sends a reset.
            let _ = self.stream.set_zero_linger();
        }
        self.counts.send_modify(|counts| counts.open -= 1);
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
