//! Clients' connections: accepted, served, bounded, and drained at the end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::ORIGIN;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tower::Service;
use tower_buttress::WriteTimeout;
use tower_buttress::error::BoxError;

use super::access::{Access, Followed};
use super::callers::Callers;
use super::drain::{Drain, Open};
use super::ids::RequestId;
use super::local::{Local, Shown};
use super::preface::Prefaced;
use super::proxy::{Proxy, RequestBody};
use super::socket::{Reset, Socket};
use super::stream::{BoundedStreams, TurnTaking};
use super::telemetry;
use super::unread::Sender;

/// Serves clients until it is told to stop.
#[derive(Debug)]
pub(crate) struct Server<S> {
    /// What is in force. It changes when the configuration is read again.
    pub(crate) live: watch::Receiver<Arc<Live<S>>>,
    pub(crate) drain: Drain,
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) drain_timeout: Option<Duration>,
}

/// What answers calls, as the configuration has it. A call keeps the one that it began with.
#[derive(Debug)]
pub(crate) struct Live<S> {
    pub(crate) proxy: Proxy<S>,
    pub(crate) local: Local,
    pub(crate) callers: Callers,
    /// The gateway's own pages that the main listener has.
    pub(crate) shown: Shown,
    /// `None`: the main listener speaks no TLS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// How connections are served.
#[derive(Debug)]
struct Versions {
    http1: http1::Builder,
    http2: http2::Builder<BoundedStreams>,
}

/// The bytes that tell HTTP/1.1 from HTTP/2, and on an HTTP/2 connection the first request, have to come by then, or the
/// connection is closed. hyper bounds the head of each HTTP/1.1 request by the same time.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// An HTTP/2 client that is gone without a word is noticed within twice this time.
const PING: Duration = Duration::from_secs(20);

/// Any client, and one whose tunnel is silent, some minutes after this time.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What a client may send on one HTTP/2 stream before the upstream takes it, and on all of a connection: an upload that
/// stalls stops no other.
const MAX_STREAMS: u32 = 200;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// When no file descriptor is left, accepting again at once would only burn the processor.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(200);

// === impl Server ===

impl<S, B> Server<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    /// Accepts until `stop`, then waits for what is open.
    ///
    /// What comes to `admin` is for the gateway itself.
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
                    let open = self.drain.open();
                    tokio::spawn(self.clone().connection(versions.clone(), stream, peer.ip(), door, open));
                }
                Err(error) => not_accepted(&error).await,
            }
        }
        drop(listener);
        tracing::info!(open = self.drain.count(), "draining");
        tokio::select! {
            in_time = self.drain.finish(self.drain_timeout) => match in_time {
                true => tracing::info!("drained"),
                false => tracing::warn!(open = self.drain.count(), "stopped with connections open"),
            },
            () = self.clone().watched(versions, admin.as_ref()) => {}
        }
        upkeep.abort();
    }

    /// While it drains, those who watch are answered on: that it is not ready any more, and what is still open. Nothing waits for
    /// their connections.
    async fn watched(self, versions: Arc<Versions>, admin: Option<&TcpListener>) {
        loop {
            match accept(admin).await {
                Ok((stream, peer)) => {
                    let open = Drain::new().open();
                    tokio::spawn(self.clone().connection(versions.clone(), stream, peer.ip(), Door::Admin, open));
                }
                Err(error) => not_accepted(&error).await,
            }
        }
    }

    async fn connection(self, versions: Arc<Versions>, stream: TcpStream, address: IpAddr, door: Door, open: Open) {
        // One small event per segment, at once. A socket that cannot is already closed.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(PING));
        let reset = Reset::default();
        let stream = Socket::new(stream, reset.on_drop.clone());
        let came = Came { address, door, has_tls: false };
        let tls = self.live.borrow().tls.clone();
        let Some(tls) = tls.filter(|_| matches!(door, Door::Main)) else {
            return self.speak(&versions, stream, came, reset, open).await;
        };
        // In a box, as HTTP/2: what they need is no part of each connection.
        Box::pin(self.secure(&versions, TlsAcceptor::from(tls), stream, came, reset, open)).await;
    }

    async fn secure(self, versions: &Versions, tls: TlsAcceptor, stream: Socket, came: Came, reset: Reset, open: Open) {
        match tokio::time::timeout(FIRST_REQUEST, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(versions, stream, Came { has_tls: true, ..came }, reset, open).await,
            Ok(Err(error)) => tracing::debug!(peer = %came.address, "no TLS with a client: {error}"),
            Err(_) => {}
        }
    }

    async fn speak<T>(self, versions: &Versions, stream: T, came: Came, reset: Reset, mut open: Open)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gauge = metrics::gauge!("gateway_connections");
        gauge.increment(1);
        let closed = self.requests(versions, stream, came, reset, &mut open).await;
        gauge.decrement(1);
        if let Err(error) = closed {
            tracing::debug!(peer = %came.address, "a connection ended: {}", telemetry::chain(error.as_ref()));
        }
    }

    /// Answers what comes on a connection, to its end.
    async fn requests<T>(
        self,
        versions: &Versions,
        stream: T,
        came: Came,
        reset: Reset,
        open: &mut Open,
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
        let socket = TokioIo::new(WriteTimeout::new(stream, self.write_timeout));
        let (began, resets) = (Arc::new(AtomicBool::new(false)), reset.clone());
        let begins = began.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            begins.store(true, Ordering::Relaxed);
            resets.note(request.version());
            let live = self.live.borrow().clone();
            // In a box: hyper keeps room for this future for as long as its connection lives, while an answer streams, too.
            Box::pin(async move { Ok::<_, Infallible>(live.answer(request, came).await) })
        });
        if is_http2 {
            Box::pin(versions.speak_http2(socket, service, &began, open)).await?;
        } else {
            versions.speak_http1(socket, service, &reset, open).await?;
        }
        Ok(())
    }
}

impl<S> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self { live: self.live.clone(), drain: self.drain.clone(), ..*self }
    }
}

// === impl Versions ===

impl Versions {
    fn new(write_timeout: Option<Duration>) -> Self {
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

    async fn speak_http1<I, S>(&self, socket: I, service: S, reset: &Reset, open: &mut Open) -> hyper::Result<()>
    where
        I: Read + Write + Send + Unpin + 'static,
        S: HttpService<Incoming, ResBody = Answer, Error = Infallible>,
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
            // While the connection is still there.
            reset.failed(error).await;
        }
        closed
    }

    async fn speak_http2<I, S>(&self, socket: I, service: S, began: &AtomicBool, open: &mut Open) -> hyper::Result<()>
    where
        I: Read + Write + Send + Unpin + 'static,
        S: HttpService<Incoming, ResBody = Answer, Error = Infallible, Future: Send + 'static>,
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

// === impl Live ===

impl<S, B> Live<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    async fn answer(&self, mut request: Request<Incoming>, came: Came) -> Response<Answer> {
        let sender = Sender::new(request.version(), request.headers());
        let shown = match came.door {
            // From a proxy on this machine calls of anyone come.
            Door::Main if self.callers.is_relayed(came.address, request.headers()) => Shown::Health,
            Door::Main => self.shown,
            Door::Admin => Shown::All,
        };
        if matches!(came.door, Door::Admin) || self.local.has(&request) {
            // Before anything is done that a page of another site may have made a browser ask for.
            let refused = if Local::is_health(&request) { None } else { self.callers.admit_page(&request) };
            let whose = if refused.is_none() { self.local.to_forget(&request, shown) } else { None };
            let response = match (refused, whose) {
                (Some(refused), _) => refused,
                (None, Some(whose)) => self.local.forget(&whose).await,
                (None, None) => self.local.answer(&request, shown),
            };
            let response = sender.refuse(request.into_body(), response).await;
            return response.map(|body| TurnTaking::new(Followed::uncounted(body)));
        }
        let origin = request.headers().get(ORIGIN).cloned();
        let id = RequestId::assign(request.headers_mut());
        let mut access = Access::begin(&request, id.clone(), &self.local.events.calls);
        let mut response = match self.callers.admit(&mut request) {
            None => {
                access.of_tenant(request.extensions().get());
                request.extensions_mut().insert(access.call());
                self.proxy.answer(request, self.callers.peer(came.address, came.has_tls)).await
            }
            Some(response) => sender.refuse(request.into_body(), response).await,
        };
        self.callers.pages.share(origin.as_ref(), response.headers_mut());
        id.mark(response.headers_mut());
        access.follow(response).map(TurnTaking::new)
    }
}

/// The body of an answer, on its way to its caller.
type Answer = TurnTaking<Followed>;

/// A client's connection.
#[derive(Clone, Copy, Debug)]
struct Came {
    address: IpAddr,
    door: Door,
    has_tls: bool,
}

/// Where it came in.
#[derive(Clone, Copy, Debug)]
enum Door {
    Main,
    Admin,
}

/// Never, where there is no such listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn not_accepted(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    // The client was gone before it was accepted; that is its business.
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!("cannot accept connections: {error}");
        tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
    }
}
