//! The HTTP versions of client connections, and their limits.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::TokioTimer;

use super::live::CallerBody;
use super::shutdown::OpenGuard;
use super::socket::SocketReset;
use super::stream::BoundedStreams;

/// The settings of client connections.
#[derive(Debug)]
pub(crate) struct Versions {
    http1: http1::Builder,
    http2: http2::Builder<BoundedStreams>,
}

/// The time limit of each of these, after which the connection is closed: the TLS handshake, the bytes that tell
/// HTTP/1.1 from HTTP/2, the first request of an HTTP/2 connection, the head of each HTTP/1.1 request.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// An HTTP/2 client that vanished is detected within twice this time.
const PING: Duration = Duration::from_secs(20);

/// The limit of concurrent calls on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;
/// The window of one stream, and of a connection: an upload that stalls does not block the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

// === impl Versions ===

impl Versions {
    pub(crate) fn new(write_timeout: Option<Duration>) -> Self {
        let (mut http1, mut http2) =
            (http1::Builder::new(), http2::Builder::new(BoundedStreams { limit: write_timeout }));
        http1.timer(TokioTimer::new()).header_read_timeout(FIRST_REQUEST);
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_STREAMS);
        Self { http1, http2 }
    }

    pub(crate) async fn speak_http1<I, S>(
        &self,
        socket: I,
        service: S,
        reset: &SocketReset,
        open: &mut OpenGuard,
    ) -> hyper::Result<()>
    where
        I: Read + Write + Send + Unpin + 'static,
        S: HttpService<Incoming, ResBody = CallerBody, Error = Infallible>,
    {
        let mut connection = pin!(self.http1.serve_connection(socket, service).with_upgrades());
        let closed = tokio::select! {
            closed = connection.as_mut() => closed,
            () = open.ending() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
        };
        if let Err(error) = &closed {
            // While the connection still exists.
            reset.failed(error).await;
        }
        closed
    }

    pub(crate) async fn speak_http2<I, S>(
        &self,
        socket: I,
        service: S,
        began: &AtomicBool,
        open: &mut OpenGuard,
    ) -> hyper::Result<()>
    where
        I: Read + Write + Send + Unpin + 'static,
        S: HttpService<Incoming, ResBody = CallerBody, Error = Infallible, Future: Send + 'static>,
    {
        let mut connection = pin!(self.http2.serve_connection(socket, service));
        let first_request = async {
            tokio::time::sleep(FIRST_REQUEST).await;
            if began.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            closed = connection.as_mut() => return closed,
            () = open.ending() => connection.as_mut().graceful_shutdown(),
            () = first_request => return Ok(()),
        }
        connection.await
    }
}
