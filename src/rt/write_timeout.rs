use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clock;
use super::timeout::Timeout;
use crate::error::WriteElapsed;

/// A server's socket that fails a write without progress within the limit, and so its connection.
///
/// # When to use it, and when not
///
/// On the sockets of every server that streams. A body that is not polled cannot time out, and none is polled while its
/// client accepts no data: the layers of this crate, inside the body, do not see such a client, and the call keeps its
/// resources (a place in a queue, a connection to the upstream) forever. It does not detect a single unread HTTP/2 stream
/// on a connection that the client reads.
///
/// # Example
///
/// With hyper, it goes around the stream before `TokioIo`:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::Full;
/// use hyper_util::rt::{TokioExecutor, TokioIo};
/// use hyper_util::server::conn::auto;
/// use tokio::net::TcpListener;
/// use tower_buttress::WriteTimeout;
///
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let client = tokio::spawn(tokio::net::TcpStream::connect(listener.local_addr()?));
/// let (stream, _) = listener.accept().await?;
/// let io = TokioIo::new(WriteTimeout::new(stream, Duration::from_secs(30)));
/// tokio::spawn(async move {
///     let answer = hyper::service::service_fn(async |_: Request<_>| {
///         Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from("hello")))
///     });
///     auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(io, answer).await
/// });
/// # drop(client.await??);
/// # Ok(())
/// # }
/// ```
///
/// With axum, use a listener of your own:
///
/// ```
/// use std::time::Duration;
/// use axum::serve::Listener;
/// use tokio::net::{TcpListener, TcpStream};
/// use tower_buttress::WriteTimeout;
///
/// struct Impatient(TcpListener);
///
/// impl Listener for Impatient {
///     type Io = WriteTimeout<TcpStream>;
///     type Addr = std::net::SocketAddr;
///
///     async fn accept(&mut self) -> (Self::Io, Self::Addr) {
///         let (stream, peer) = Listener::accept(&mut self.0).await;
///         (WriteTimeout::new(stream, Duration::from_secs(30)), peer)
///     }
///
///     fn local_addr(&self) -> std::io::Result<Self::Addr> {
///         self.0.local_addr()
///     }
/// }
///
/// # async fn serve(listener: TcpListener, app: axum::Router) {
/// axum::serve(Impatient(listener), app).await.unwrap();
/// # }
/// ```
///
/// # What happens when
///
/// - *Progress*: the limit starts again with the next write that has to wait. A slow reader is not a stalled one.
/// - *The limit is reached*: the write, flush or shutdown fails with [`TimedOut`](io::ErrorKind::TimedOut), which
///   contains a [`WriteElapsed`]. hyper then drops the connection and the bodies of its answers.
/// - *The process was suspended meanwhile*: the wait is extended by a moment, to notice data that the client took since.
/// - *The limit is `None`*: no limit.
///
/// # Cost
///
/// A timer, from the first write that has to wait.
pub struct WriteTimeout<T> {
    io: T,
    limit: Option<Duration>,
    /// When the waiting write fails.
    until: Option<Instant>,
    timeout: Timeout,
}

// === impl WriteTimeout ===

impl<T> WriteTimeout<T> {
    /// Fails writes to `io` that make no progress for `limit`.
    #[must_use]
    pub fn new(io: T, limit: impl Into<Option<Duration>>) -> Self {
        Self { io, limit: limit.into(), until: None, timeout: Timeout::default() }
    }

    /// Returns the socket inside.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Returns the socket inside, to be changed.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Returns the socket inside, without the limit.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// A ready write beats the timer.
    fn bound<R>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.until = None;
            return written;
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        let until = match self.until {
            Some(until) => until,
            None => {
                // A limit beyond the clock's range never ends.
                let Some(until) = clock::now().checked_add(limit) else { return Poll::Pending };
                *self.until.insert(until)
            }
        };
        ready!(self.timeout.poll_until(until, cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, WriteElapsed::new(limit))))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteTimeout<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.bound(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.bound(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.bound(cx, shut)
    }
}

impl<T: fmt::Debug> fmt::Debug for WriteTimeout<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteTimeout").field("io", &self.io).field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::error;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_write_of_which_nothing_is_taken_fails_at_the_limit() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut socket = WriteTimeout::new(ours, LIMIT);
        let begun = Instant::now();
        let failed = socket.write_all(b"more than four").await.unwrap_err();
        assert_eq!((failed.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, LIMIT));
        let failed: error::BoxError = failed.into();
        assert_eq!(error::find::<WriteElapsed>(&failed).unwrap().after, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_one_that_has_stopped() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut socket = WriteTimeout::new(ours, LIMIT);
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
            let mut socket = WriteTimeout::new(ours, limit);
            assert!(tokio::time::timeout(LIMIT * 100, socket.write_all(b"more than four")).await.is_err());
        }
    }
}
