//! Joins small pieces of an answer that follow each other at once into one write.
//!
//! Events of a burst come to a connection one by one: hyper takes an event from the upstream's connection, writes it, and
//! gets the next one when the task of that connection has run. Most of the time that such an event takes is the write.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;

use super::socket::SocketReset;

/// A connection that holds a write which follows another one at once, until the thread has nothing else to do. Any other
/// write passes at once: the first one of an answer to a request that was not sent ahead, and events with a pause
/// between them.
pub(crate) struct Bursts<T: AsyncWrite + Unpin> {
    io: T,
    reset: SocketReset,
    held: Vec<u8>,
    /// `None`: a request was read since.
    written_at: Option<Instant>,
    /// How many bytes were held when this turn began.
    seen: usize,
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether it is over: what is held is being written.
    is_over: bool,
}

/// The longest pause within a burst.
const PAUSE: Duration = Duration::from_micros(200);

/// What came after this time waits no longer for more: a thread that has much to do would hold it for long.
const LONGEST: Duration = Duration::from_millis(2);

/// The most that is held. More fills segments by itself.
const MOST: usize = 4 * 1024;

// === impl Bursts ===

impl<T: AsyncWrite + Unpin> Bursts<T> {
    /// Holds nothing for callers of HTTP/1.0 (`reset`): what is held would be lost when their connection is reset.
    pub(crate) fn new(io: T, reset: SocketReset) -> Self {
        Self { io, reset, held: Vec::new(), written_at: None, seen: 0, turn: None, is_over: false }
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held.is_empty() {
            self.held.reserve_exact(MOST);
        }
        self.held.extend_from_slice(bytes);
    }

    /// Whether to hold this many bytes.
    fn holds(&self, bytes: usize) -> bool {
        let in_burst = || self.written_at.is_some_and(|written| written.elapsed() < PAUSE);
        self.held.len().saturating_add(bytes) <= MOST && (!self.held.is_empty() || (!self.reset.is_old() && in_burst()))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..written);
            self.written_at = Some(Instant::now());
        }
        // A silent stream keeps no room for it.
        self.held = Vec::new();
        (self.seen, self.turn, self.is_over) = (0, None, false);
        Poll::Ready(Ok(()))
    }

    /// Ready when nothing more came while the thread did everything else, or the burst gets old.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over {
            return Poll::Ready(());
        }
        let is_young = || self.written_at.is_some_and(|written| written.elapsed() < LONGEST);
        if self.turn.is_none() || (self.held.len() > self.seen && is_young()) {
            (self.seen, self.turn) = (self.held.len(), None);
        }
        ready!(self.turn.get_or_insert_with(|| Box::pin(yield_now())).as_mut().poll(cx));
        self.is_over = true;
        Poll::Ready(())
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.written_at = Some(Instant::now());
        }
        written
    }
}

impl<T: AsyncWrite + Unpin> Drop for Bursts<T> {
    fn drop(&mut self) {
        // The answer failed right behind it. Lost if the caller does not read, or this task has done much at once.
        let _ = self.poll_held(&mut Context::from_waker(Waker::noop()));
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Bursts<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.written_at = None;
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Bursts<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds(buf.len()) {
            self.hold(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(self.poll_held(cx))?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            ready!(self.poll_turn(cx));
            ready!(self.poll_held(cx))?;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_held(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().fold(0, |bytes: usize, buf| bytes.saturating_add(buf.len()));
        if self.holds(bytes) {
            bufs.iter().for_each(|buf| self.hold(buf));
            return Poll::Ready(Ok(bytes));
        }
        ready!(self.poll_held(cx))?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    fn pair() -> (Bursts<DuplexStream>, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        (Bursts::new(ours, SocketReset::default()), theirs)
    }

    /// What has arrived.
    async fn arrived(theirs: &mut DuplexStream) -> String {
        let mut all = vec![0; 64 * 1024];
        let read = tokio::time::timeout(Duration::from_millis(1), theirs.read(&mut all)).await;
        String::from_utf8_lossy(all.get(..read.map_or(0, Result::unwrap)).unwrap()).into_owned()
    }

    #[tokio::test]
    async fn pieces_of_a_burst_arrive_together() {
        let (mut bursts, mut theirs) = pair();
        bursts.write_all(b"head").await.unwrap();
        assert_eq!(arrived(&mut theirs).await, "head");
        bursts.written_at = Some(Instant::now() + Duration::from_secs(9));
        bursts.write_all(b"a").await.unwrap();
        bursts.write_all(b"b").await.unwrap();
        assert_eq!(arrived(&mut theirs).await, "");
        bursts.flush().await.unwrap();
        assert_eq!(arrived(&mut theirs).await, "ab");
        assert_eq!(bursts.held.capacity(), 0);
    }

    #[tokio::test]
    async fn pieces_that_keep_coming_delay_an_old_burst_no_further() {
        for (is_old, arrives) in [(false, ""), (true, "ab")] {
            let (mut bursts, mut theirs) = pair();
            let flush = |bursts: &mut Bursts<DuplexStream>| {
                Pin::new(bursts).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready()
            };
            bursts.written_at = Some(Instant::now() + Duration::from_secs(9));
            bursts.write_all(b"a").await.unwrap();
            assert!(!flush(&mut bursts));
            bursts.write_all(b"b").await.unwrap();
            if is_old {
                bursts.written_at = Instant::now().checked_sub(LONGEST);
            }
            assert_eq!(flush(&mut bursts), is_old);
            assert_eq!(arrived(&mut theirs).await, arrives);
        }
    }

    #[tokio::test]
    async fn a_piece_after_a_pause_or_a_request_arrives_at_once() {
        let (mut bursts, mut theirs) = pair();
        bursts.write_all(b"head").await.unwrap();
        tokio::time::sleep(PAUSE * 2).await;
        bursts.write_all(b"a").await.unwrap();
        assert_eq!(arrived(&mut theirs).await, "heada");
        bursts.written_at = Some(Instant::now() + Duration::from_secs(9));
        theirs.write_all(b"request").await.unwrap();
        bursts.read_exact(&mut [0; 7]).await.unwrap();
        bursts.write_all(b"head").await.unwrap();
        assert_eq!(arrived(&mut theirs).await, "head");
    }

    #[tokio::test]
    async fn all_bytes_arrive_in_order_whatever_the_room() {
        for room in [1, 100, 10_000] {
            let (ours, mut theirs) = tokio::io::duplex(room);
            let mut bursts = Bursts::new(ours, SocketReset::default());
            bursts.written_at = Some(Instant::now() + Duration::from_secs(9));
            let pieces: Vec<_> = (0..100_u8).map(|nth| vec![nth; usize::from(nth) * 17]).collect();
            let (written, mut all) = (pieces.concat(), Vec::new());
            let writes = async move {
                for (nth, piece) in pieces.iter().enumerate() {
                    bursts.write_all(piece).await.unwrap();
                    if nth % 7 == 0 {
                        bursts.flush().await.unwrap();
                    }
                }
                bursts.shutdown().await.unwrap();
            };
            tokio::join!(writes, async { theirs.read_to_end(&mut all).await.unwrap() });
            assert_eq!(all, written);
        }
    }

    #[tokio::test]
    async fn what_is_held_when_an_answer_fails_still_arrives() {
        let (mut bursts, mut theirs) = pair();
        bursts.written_at = Some(Instant::now() + Duration::from_secs(9));
        bursts.write_all(b"last").await.unwrap();
        drop(bursts);
        assert_eq!(arrived(&mut theirs).await, "last");
    }
}
