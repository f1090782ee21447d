//! hyper-util's client over TLS (rustls), inside the whole stack.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as Asked;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tower::{Layer, ServiceExt};
use tower_buttress::connect_timeout::ConnectTimeout;
use tower_buttress::error::{self, ConnectElapsed};
use tower_buttress::presets::{self, Resilience, ResilienceLayer};
use tower_buttress::{CallBody, ConnectTimeoutLayer, DeadlineHeader, Event, NotRetried, TimeoutProfile};

use crate::support::{Alive, Log, secs, trailers};

type HttpsClient = Client<ConnectTimeout<HttpsConnector<HttpConnector>>, CallBody>;

pub(super) const HTTP1: &[u8] = b"http/1.1";
pub(super) const HTTP2: &[u8] = b"h2";

/// A server with a certificate, and the settings that trust it.
pub(super) struct Party {
    server: ServerConfig,
    client: ClientConfig,
    /// The certificate and its key, in PEM.
    pub(super) pem: (String, String),
}

impl Party {
    pub(super) fn new() -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        Self {
            server: server.with_single_cert(vec![cert.der().clone()], key).unwrap(),
            client: ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
            pem: (cert.pem(), signing_key.serialize_pem()),
        }
    }

    /// Client settings that trust it.
    pub(super) fn client(&self) -> ClientConfig {
        self.client.clone()
    }

    /// Accepts connections on which both sides negotiate `protocol`.
    async fn listen(&self, protocol: &[u8]) -> (TcpListener, TlsAcceptor, SocketAddr) {
        let mut config = self.server.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, TlsAcceptor::from(Arc::new(config)), address)
    }

    pub(super) async fn serve(&self, protocol: &[u8], app: Router) -> SocketAddr {
        let (listener, tls, address) = self.listen(protocol).await;
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, app) = (tls.clone(), app.clone());
                tokio::spawn(async move {
                    let Ok(io) = tls.accept(tcp).await else { return };
                    let service = TowerToHyperService::new(app);
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
                });
            }
        });
        address
    }

    /// The stack around a client that negotiates the protocol. The connect timeout includes the handshake.
    fn stacked(&self, stack: &ResilienceLayer) -> Resilience<HttpsClient> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(self.client.clone())
            .https_only()
            .enable_all_versions()
            .wrap_connector(http);
        let connector = ConnectTimeoutLayer::new(secs(2)).layer(https);
        stack.layer(Client::builder(TokioExecutor::new()).build(connector))
    }
}

fn stack() -> ResilienceLayer {
    presets::http_client(TimeoutProfile::STANDARD)
        .deadline(|deadline| deadline.propagate(DeadlineHeader::envoy()))
        .retry(|retry| retry.backoff_base(Duration::from_millis(1)))
}

fn post_to(address: SocketAddr, path: &str) -> Request<Full<Bytes>> {
    Request::post(format!("https://{address}{path}")).body(Full::from("hello")).unwrap()
}

async fn echo(request: Asked) -> impl IntoResponse {
    assert!(request.headers().contains_key("x-envoy-expected-rq-timeout-ms"));
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let frames = [Ok::<_, Infallible>(Frame::data(body)), Ok(Frame::trailers(trailers()))];
    Body::new(StreamBody::new(stream::iter(frames)))
}

#[tokio::test]
async fn both_versions_work_with_the_whole_stack() {
    let party = Party::new();
    for (protocol, version) in [(HTTP1, Version::HTTP_11), (HTTP2, Version::HTTP_2)] {
        let alive = Alive::default();
        let streams = alive.clone();
        let ticks = get(move || async move {
            Body::from_stream(stream::unfold(streams.enter(), |living| async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Ok::<_, Infallible>("tick"), living))
            }))
        });
        let address = party.serve(protocol, Router::new().route("/echo", post(echo)).route("/ticks", ticks)).await;
        let client = party.stacked(&stack());

        let response = client.clone().oneshot(post_to(address, "/echo")).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
        let collected = response.into_body().collect().await.unwrap();
        // Over HTTP/1.1 hyper sends trailers only to clients that ask for them.
        assert_eq!(collected.trailers().cloned(), (version == Version::HTTP_2).then(trailers));
        assert_eq!(collected.to_bytes(), "hello");

        // A caller that leaves mid-stream closes the upstream's stream.
        let request = Request::get(format!("https://{address}/ticks")).body(Full::default()).unwrap();
        let mut ticks = client.oneshot(request).await.unwrap().into_body();
        assert_eq!(ticks.frame().await.unwrap().unwrap().into_data().unwrap(), "tick");
        alive.is(1).await;
        drop(ticks);
        alive.is(0).await;
    }
}

#[tokio::test]
async fn an_unanswered_handshake_is_given_up() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = Party::new().stacked(&stack());
    let failed = client.oneshot(post_to(silent.local_addr().unwrap(), "/")).await.unwrap_err();
    let failed: Box<dyn std::error::Error + Send + Sync> = failed.into();
    assert!(error::find::<ConnectElapsed>(&failed).is_some(), "{failed:?}");
}

#[tokio::test]
async fn a_stranger_gets_no_details() {
    // After a failed handshake nothing was executed, and even a POST may be retried.
    let (known, stranger) = (Party::new(), Party::new());
    let address = stranger.serve(HTTP1, Router::new().route("/", post(|| async { "never" }))).await;
    let log = Arc::new(Log::default());
    let failed = known.stacked(&stack().observer(log.clone())).oneshot(post_to(address, "/")).await.unwrap_err();
    assert!(failed.is_connect(), "{failed:?}");
    assert!(matches!(log.events().last(), Some(Event::NotRetried { reason: NotRetried::AttemptsSpent, .. })));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_not_taken_for_whole() {
    // It ends with the connection, which TLS would have announced.
    let party = Party::new();
    for (announced, whole) in [(true, true), (false, false)] {
        let (listener, tls, address) = party.listen(HTTP1).await;
        tokio::spawn(async move {
            let mut io = tls.accept(listener.accept().await.unwrap().0).await.unwrap();
            assert!(io.read(&mut [0; 4096]).await.unwrap() > 0);
            io.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nthe answ").await.unwrap();
            io.flush().await.unwrap();
            if announced {
                io.shutdown().await.unwrap();
            }
        });
        let body = party.stacked(&stack()).oneshot(post_to(address, "/")).await.unwrap().into_body();
        assert_eq!(body.collect().await.is_ok(), whole);
    }
}
