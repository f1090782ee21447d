//! Detects a client's version of HTTP from its first bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// The preface of an HTTP/2 connection (RFC 9113, 3.4).
const HTTP_2: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that replays its first bytes to the server.
///
/// hyper-util's `auto` replays them in a separate read, which makes hyper double its buffer.
#[derive(Debug)]
pub(crate) struct Prefaced<T> {
    io: T,
    first: [u8; HTTP_2.len()],
    /// How many bytes of `first` were read, and how many of them the server has.
    filled: usize,
    taken: usize,
}

// === impl Prefaced ===

impl<T> Prefaced<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, first: [0; HTTP_2.len()], filled: 0, taken: 0 }
    }
}

impl<T: AsyncRead + Unpin> Prefaced<T> {
    /// Reads until the version is known.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.first.get_mut(self.filled..).filter(|rest| !rest.is_empty()) {
            let read = self.io.read(rest).await?;
            self.filled += read;
            if read == 0 || !HTTP_2.starts_with(self.first.get(..self.filled).unwrap_or_default()) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefaced<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let first = this.first.get(this.taken..this.filled).unwrap_or_default();
        if first.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let taken = first.len().min(buf.remaining());
        buf.put_slice(first.get(..taken).unwrap_or_default());
        this.taken += taken;
        if buf.remaining() > 0 {
            // Adds bytes that have arrived since. The next read reports an end or error again.
            let _ = Pin::new(&mut this.io).poll_read(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefaced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_version_is_known_as_soon_as_it_can_be_and_no_byte_is_lost() {
        for (sent, is_http2) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], false),
            (b"G", false),
            (b"PRIVATE / HTTP/1.1\r\n\r\n", false),
            (b"PR", false),
            (b"", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand frames", true),
        ] {
            // All at once, and byte by byte.
            for piece in [64, 1] {
                let (mut client, server) = tokio::io::duplex(64);
                let mut server = Prefaced::new(server);
                let send = async move {
                    for piece in sent.chunks(piece) {
                        client.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                };
                let read = async {
                    assert_eq!(server.is_http2().await.unwrap(), is_http2, "{sent:?}");
                    let mut read = Vec::new();
                    server.read_to_end(&mut read).await.unwrap();
                    assert_eq!(read, sent);
                };
                tokio::join!(send, read);
            }
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_head_comes_in_the_same_reading() {
        let head = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(head).await.unwrap();
        let mut server = Prefaced::new(server);
        assert!(!server.is_http2().await.unwrap());
        let mut read = [0; 64];
        assert_eq!(server.read(&mut read).await.unwrap(), head.len());
    }
}
