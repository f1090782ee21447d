//! A client that does not read what it asked for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use axum::serve::Listener;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tower_buttress::WriteTimeout;

use crate::support::Alive;

struct Impatient(TcpListener, Option<Duration>);

impl Listener for Impatient {
    type Io = WriteTimeout<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.0).await;
        (WriteTimeout::new(stream, self.1), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A server of a stream that has no end, and of one that has.
async fn server(alive: &Alive, limit: Option<Duration>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let endless = alive.clone();
    let app = Router::new()
        .route(
            "/",
            get(async move || {
                Body::from_stream(stream::unfold(endless.enter(), async |living| {
                    Some((Ok::<_, Infallible>(Bytes::from_static(&[0; 64 * 1024])), living))
                }))
            }),
        )
        .route("/hello", get(async || "hello"));
    tokio::spawn(axum::serve(Impatient(listener, limit), app).into_future());
    at
}

#[tokio::test]
async fn the_answer_to_a_client_that_does_not_read_is_dropped() {
    let alive = Alive::default();
    let at = server(&alive, Some(Duration::from_millis(200))).await;
    let mut client = TcpStream::connect(at).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    alive.is(1).await;
    alive.is(0).await;
}

#[tokio::test]
async fn a_client_that_reads_notices_nothing() {
    let at = server(&Alive::default(), Some(Duration::from_millis(200))).await;
    for http2 in [false, true] {
        let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Empty<Bytes>>();
        let answer = client.get(format!("http://{at}/hello").parse().unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = client.get(format!("http://{at}/hello").parse().unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}
