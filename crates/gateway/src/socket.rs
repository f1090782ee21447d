//! A socket whose peer has to read.
//!
//! A body that nobody polls cannot time out, and nobody polls it while the client does not take what was written. So
//! the writes are bounded here. What bounds an HTTP/2 stream, whose client may refuse to read one stream on a socket
//! that flows, is in `stream.rs`.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails a write that made no progress for `limit`.
#[derive(Debug)]
pub(crate) struct BoundedWrites<T> {
    socket: T,
    limit: Option<Duration>,
    /// Made at the first write that has to wait, and kept.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

// === impl BoundedWrites ===

impl<T> BoundedWrites<T> {
    pub(crate) fn new(socket: T, limit: Option<Duration>) -> Self {
        Self { socket, limit, timer: None, waiting: false }
    }

    /// A ready write beats the timer.
    fn bound<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let (Poll::Pending, Some(limit)) = (&written, self.limit) else {
            self.waiting &= written.is_pending();
            return written;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !std::mem::replace(&mut self.waiting, true) {
            timer.set(sleep(limit));
        }
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing of what was sent to it")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for BoundedWrites<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for BoundedWrites<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.bound(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_at_the_limit() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut socket = BoundedWrites::new(ours, Some(LIMIT));
        let begun = Instant::now();
        let error = socket.write_all(b"more than four").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_a_stalled_one() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut socket = BoundedWrites::new(ours, Some(LIMIT));
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            while read.len() < 40 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                theirs.read_buf(&mut read).await.unwrap();
            }
        });
        socket.write_all(&[0; 40]).await.unwrap();
        reader.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_write_waits() {
        for limit in [None, Some(Duration::MAX)] {
            let (ours, _theirs) = tokio::io::duplex(4);
            let mut socket = BoundedWrites::new(ours, limit);
            assert!(tokio::time::timeout(LIMIT * 100, socket.write_all(b"more than four")).await.is_err());
        }
    }
}
