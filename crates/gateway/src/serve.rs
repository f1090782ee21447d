//! Accepts, serves, limits and drains clients' connections.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::Service;
use tower_buttress::WriteTimeout;
use tower_buttress::error::BoxError;

use super::bursts::Bursts;
use super::live::{Came, Door, Live};
use super::preface::Prefaced;
use super::proxy::RequestBody;
use super::shutdown::{OpenGuard, Shutdown};
use super::socket::{Socket, SocketReset};
use super::telemetry::{self, Seldom};
use super::trailers::{TrailerWriter, UnannouncedTrailers};
use super::versions::{FIRST_REQUEST, Versions};

/// Serves clients until it is stopped.
#[derive(Debug)]
pub(crate) struct Server<S> {
    /// The services in force. They change when the configuration is read again.
    pub(crate) live: watch::Receiver<Arc<Live<S>>>,
    pub(crate) shutdown: Shutdown,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) drain_timeout: Option<Duration>,
}

/// Detects a client that vanished within some minutes, even on a silent tunnel.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Without file descriptors, accepting again at once would spin.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(200);

// === impl Server ===

impl<S, B> Server<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data = Bytes, Error = BoxError> + Send + 'static,
{
    /// Accepts until `stop`, then drains open connections. `admin` serves only the gateway's own pages.
    pub(crate) async fn serve(self, listener: TcpListener, admin: Option<TcpListener>, stop: impl Future<Output = ()>) {
        let versions = Arc::new(Versions::new(self.write_timeout));
        let upkeep = tokio::spawn(telemetry::upkeep());
        let mut stop = pin!(stop);
        loop {
            let (accepted, door) = tokio::select! {
                accepted = listener.accept() => (accepted, Door::Main),
                accepted = accept(admin.as_ref()) => (accepted, Door::Admin),
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let open = self.shutdown.open();
                    tokio::spawn(self.clone().connection(versions.clone(), stream, peer.ip(), door, open));
                }
                Err(error) => not_accepted(&error).await,
            }
        }
        drop(listener);
        tracing::info!(open = self.shutdown.count(), "draining");
        tokio::select! {
            in_time = self.shutdown.finish(self.drain_timeout) => match in_time {
                true => tracing::info!("drained"),
                false => tracing::warn!(open = self.shutdown.count(), "stopped with connections open"),
            },
            () = self.clone().answer_watchers(versions, admin.as_ref()) => {}
        }
        upkeep.abort();
    }

    /// Answers health checks during the drain: not ready, and what is still open. The drain does not wait for their
    /// connections.
    async fn answer_watchers(self, versions: Arc<Versions>, admin: Option<&TcpListener>) {
        loop {
            match accept(admin).await {
                Ok((stream, peer)) => {
                    let open = Shutdown::new().open();
                    tokio::spawn(self.clone().connection(versions.clone(), stream, peer.ip(), Door::Admin, open));
                }
                Err(error) => not_accepted(&error).await,
            }
        }
    }

    async fn connection(
        self,
        versions: Arc<Versions>,
        stream: TcpStream,
        address: IpAddr,
        door: Door,
        open: OpenGuard,
    ) {
        // Sends each write at once. Fails only on a closed socket.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL));
        let reset = SocketReset::default();
        let stream = Socket::new(stream, reset.on_drop.clone());
        let came = Came { address, door, has_tls: false };
        let tls = self.live.borrow().tls.clone();
        let Some(tls) = tls.filter(|_| matches!(door, Door::Main)) else {
            return self.speak(&versions, stream, came, reset, open).await;
        };
        // Boxed, as HTTP/2 below, so that plain connections need no room for it.
        Box::pin(self.secure(&versions, TlsAcceptor::from(tls), stream, came, reset, open)).await;
    }

    async fn secure(
        self,
        versions: &Versions,
        tls: TlsAcceptor,
        stream: Socket,
        came: Came,
        reset: SocketReset,
        open: OpenGuard,
    ) {
        match tokio::time::timeout(FIRST_REQUEST, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(versions, stream, Came { has_tls: true, ..came }, reset, open).await,
            Ok(Err(error)) => tracing::debug!(peer = %came.address, "the TLS handshake with a client failed: {error}"),
            Err(_) => {}
        }
    }

    async fn speak<T>(self, versions: &Versions, stream: T, came: Came, reset: SocketReset, mut open: OpenGuard)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gauge = metrics::gauge!("gateway_connections");
        gauge.increment(1);
        let closed = self.requests(versions, stream, came, reset, &mut open).await;
        gauge.decrement(1);
        let Err(error) = closed else { return };
        let cause = telemetry::chain(error.as_ref());
        if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
            // It was no request, so it has no line of a call. Anyone can send many of them.
            static REFUSALS: Seldom = Seldom::new();
            REFUSALS.log(Instant::now(), |left_out| {
                tracing::info!(peer = %came.address, left_out, "a request was refused: {cause}");
            });
        } else {
            tracing::debug!(peer = %came.address, "a connection failed: {cause}");
        }
    }

    /// Serves the requests of a connection, to its end.
    async fn requests<T>(
        self,
        versions: &Versions,
        stream: T,
        came: Came,
        reset: SocketReset,
        open: &mut OpenGuard,
    ) -> Result<(), BoxError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut stream = Prefaced::new(stream);
        let is_http2 = tokio::select! {
            known = tokio::time::timeout(FIRST_REQUEST, stream.is_http2()) => match known {
                Ok(known) => known?,
                Err(_) => return Ok(()),
            },
            () = open.ending() => return Ok(()),
        };
        let stream = WriteTimeout::new(stream, self.write_timeout);
        let trailers = UnannouncedTrailers::default();
        let unannounced = trailers.clone();
        let (began, resets) = (Arc::new(AtomicBool::new(false)), reset.clone());
        let begins = began.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            begins.store(true, Ordering::Relaxed);
            resets.note(request.version());
            unannounced.offer(&mut request);
            let live = self.live.borrow().clone();
            // Boxed, because hyper keeps room for this future for the connection's lifetime, even while an answer
            // streams.
            Box::pin(async move { Ok::<_, Infallible>(live.answer(request, came).await) })
        });
        if is_http2 {
            Box::pin(versions.speak_http2(TokioIo::new(stream), service, &began, open)).await?;
        } else {
            let socket = TokioIo::new(Bursts::new(TrailerWriter::new(stream, trailers), reset.clone()));
            versions.speak_http1(socket, service, &reset, open).await?;
        }
        Ok(())
    }
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self { live: self.live.clone(), shutdown: self.shutdown.clone(), ..*self }
    }
}

/// Pending for ever if there is no such listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn not_accepted(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    // A client that left before accept is not the gateway's fault.
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        static ERRORS: Seldom = Seldom::new();
        ERRORS.log(Instant::now(), |left_out| tracing::error!(left_out, "cannot accept connections: {error}"));
        tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
    }
}
